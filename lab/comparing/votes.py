"""Votes on a finished comparison: which pair is looked at next, what was chosen, and what follows from the choices."""

import csv
import io
import itertools
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from lab.comparing.preferences import bradley_terry, connected, proportion
from lab.comparing.statistics import CONFIDENCE, holm
from lab.config import validated
from lab.errors import InputError
from lab.files import atomic, parse_json, read_text, writing
from lab.score.metrics import METRICS

ENOUGH = 12
"""Votes from which on it is told what follows from them: before, it would lead whoever votes."""

MOST_PAIRED = 100
"""Variants of which all pairs are looked at to find the next one: of more, those that were met least."""

_WRITING = Lock()
"""Held from looking at the votes to adding one, so that two who look at the same pair give one vote."""


@dataclass(frozen=True)
class Entry:
    """An image of a comparison.

    Attributes:
        place: Of its prompt and seed, among those of its variant.
        prompt: The baseline's at that place.
        scores: Of the metrics that speak of single images, by name.
    """

    variant: str
    place: int
    prompt: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Ballot:
    """Two images with the same prompt and noise, of which one is to be chosen, as they lie side by side.

    Attributes:
        left, right: Their files, relative to the comparison's folder.
        prompt: What they are to show; "" where that is what varies.
    """

    left: str
    right: str
    prompt: str


class Vote(BaseModel):
    """A line of votes.jsonl: two images, by their files, and which of them was preferred."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    left: str
    right: str
    preferred: Literal["left", "right"]

    @property
    def pair(self) -> frozenset[str]:
        """The two, whichever lay left."""
        return frozenset((self.left, self.right))

    @property
    def in_order(self) -> tuple[str, str]:
        """The one that was preferred, and the other."""
        return (self.left, self.right) if self.preferred == "left" else (self.right, self.left)


@dataclass(frozen=True)
class Rank:
    """How a variant fares.

    Attributes:
        won, among: Of the votes on it.
        share: How often it is preferred to the baseline, 0 to 1; None where no votes connect the two.
        low, high: Its 95 % interval; None of the baseline itself too.
    """

    variant: str
    baseline: bool
    won: int
    among: int
    share: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Agreement:
    """How often a metric chooses as the votes do.

    Attributes:
        metric: Its name in the table of metrics.
        higher: Whether it is taken to choose the higher value. Where neither is better, what agrees more often.
        same, among: Of the votes on images whose values differ.
        low, high: The 95 % interval of this share.
        clear: Whether it is sure, among all metrics (Holm), that it is no coin.
    """

    metric: str
    higher: bool
    same: int
    among: int
    low: float
    high: float
    clear: bool


class Poll:
    """The votes on a comparison, which lie beside its images in votes.jsonl.

    Attributes:
        entries: The comparison's images by their files, relative to its folder. What variants share is the first's.
        variants: Those that have images of their own, in the comparison's order.
        baseline: The one that others are held against.
    """

    def __init__(self, folder: Path):
        """Reads what the comparison made and measured.

        Raises:
            InputError: it is not finished, or not as it was written.
        """
        self.file = folder / "votes.jsonl"
        table = folder / "results.csv"
        rows = list(csv.DictReader(io.StringIO(read_text(table, "the comparison"), newline="")))
        try:
            self.baseline = next(row["variant"] for row in rows if row["baseline"] == "True")
            self.entries = _entries(rows)
        except (LookupError, ValueError, TypeError, StopIteration):
            raise InputError(f"{table}: not the table of a comparison; make it again") from None
        self.variants = list(dict.fromkeys(entry.variant for entry in self.entries.values()))

    def votes(self) -> list[Vote]:
        """The votes so far; lines that are none, or speak of images that there are no more, are left out."""
        found = []
        for line in read_text(self.file).splitlines() if self.file.is_file() else ():
            try:
                vote = validated(Vote, parse_json(line, self.file), self.file)
            except InputError:
                continue
            if vote.pair <= self.entries.keys():
                found.append(vote)
        return found

    def next(self) -> Ballot | None:
        """The pair to look at next, or None when all have been looked at.

        Of the variants those that were met least, with the prompt that was seen least; the rest is chance, but the same
        until somebody votes, so that whoever comes back finds the same pair.
        """
        votes = self.votes()
        chance = random.Random(f"{self.file.absolute()} {len(votes)}")
        done, met = {vote.pair for vote in votes}, self._met(votes)
        least = sorted(chance.sample(self.variants, len(self.variants)), key=met.__getitem__)
        pairs = list(itertools.combinations(least[:MOST_PAIRED], 2))
        chance.shuffle(pairs)
        pairs.sort(key=lambda pair: (met[frozenset(pair)], met[pair[0]] + met[pair[1]]))
        for pair in itertools.chain(pairs, itertools.combinations(least, 2)):
            left = [files for files in self._side_by_side(*pair) if frozenset(files) not in done]
            if left:
                chance.shuffle(left)
                files = min(left, key=lambda files: met["prompt", self.entries[files[0]].prompt])
                one, other = chance.sample(files, 2)
                return Ballot(one, other, self.entries[one].prompt)
        return None

    def vote(self, left: str, right: str, preferred: Literal["left", "right"]) -> bool:
        """Keeps a vote, which is on disk when this returns; False where the pair has one, or is none.

        Raises:
            InputError: the folder cannot be written.
        """
        pair = frozenset((left, right))
        with _WRITING:
            if not pair <= self.entries.keys() or any(pair == one.pair for one in self.votes()):
                return False
            vote = Vote(left=left, right=right, preferred=preferred)
            with writing(self.file), self.file.open("a", encoding="utf-8") as file:
                file.write(vote.model_dump_json() + "\n")
        return True

    def take_back(self) -> None:
        """Removes the last vote, if there is one.

        Raises:
            InputError: the folder cannot be written.
        """
        with _WRITING:
            kept = self.votes()[:-1]
            with atomic(self.file) as temporary:
                temporary.write_text(
                    "".join(vote.model_dump_json() + "\n" for vote in kept), encoding="utf-8"
                )

    def ranking(self) -> list[Rank]:
        """The variants, the most preferred first; those that no votes connect with the baseline come last."""
        names = self.variants
        wins = np.zeros((len(names), len(names)))
        for vote in self.votes():
            better, worse = (names.index(self.entries[file].variant) for file in vote.in_order)
            wins[better, worse] += 1
        base = names.index(self.baseline)
        known = connected(wins, base)
        strengths = bradley_terry(wins[np.ix_(known, known)])
        ranks = []
        for place, name in enumerate(names):
            won, among = int(wins[place].sum()), int(wins[place].sum() + wins[:, place].sum())
            found: tuple[float | None, ...] = (None, None, None)
            if place == base:
                found = (0.5, None, None)
            elif place in known:
                found = strengths.share(known.index(place), known.index(base))
            ranks.append(Rank(name, place == base, won, among, *found))
        return sorted(ranks, key=lambda rank: -1.0 if rank.share is None else rank.share, reverse=True)

    def agreements(self) -> list[Agreement]:
        """How far each metric of single images chooses as the votes do, the one that does most often first.

        What compares with the baseline's image takes no part: it speaks of no image by itself.
        """
        counts = []
        for name, metric in METRICS.items():
            higher, lower = self._choices(name)
            if higher + lower and not metric.paired:
                up = metric.better > 0 or (metric.better == 0 and higher >= lower)
                counts.append((name, up, higher if up else lower, higher + lower))
        tests = [proportion(same, among) for *_, same, among in counts]
        corrected = holm([p for *_, p in tests])
        found = [
            Agreement(*count, low, high, clear=p is not None and p <= 1 - CONFIDENCE)
            for count, (low, high, _), p in zip(counts, tests, corrected, strict=True)
        ]
        return sorted(found, key=lambda one: -one.same / one.among)

    def _choices(self, metric: str) -> tuple[int, int]:
        """How many votes went to the image with the higher value, and to that with the lower one."""
        sides = [[self.entries[file].scores.get(metric) for file in vote.in_order] for vote in self.votes()]
        known = [(one, other) for one, other in sides if one is not None and other is not None]
        return sum(one > other for one, other in known), sum(one < other for one, other in known)

    def _met(self, votes: list[Vote]) -> Counter[Any]:
        """How many votes there are on each variant, on each two of them, and on each prompt."""
        met: Counter[Any] = Counter()
        for vote in votes:
            one, other = (self.entries[file] for file in vote.in_order)
            met.update([one.variant, other.variant, frozenset((one.variant, other.variant))])
            met["prompt", one.prompt] += 1
        return met

    def _side_by_side(self, one: str, other: str) -> list[tuple[str, str]]:
        """The files of two variants with the same prompt and noise."""
        files = {(entry.variant, entry.place): file for file, entry in self.entries.items()}
        places = [place for variant, place in files if variant == one and (other, place) in files]
        return [(files[one, place], files[other, place]) for place in places]


def _entries(rows: list[dict[str, Any]]) -> dict[str, Entry]:
    """The images of a comparison's table, in whose rows each variant has its prompts and seeds in the same order."""
    of_baseline = [row["prompt"] for row in rows if row["baseline"] == "True"]
    metrics = [name for name, metric in METRICS.items() if metric.over == "image"]
    seen: Counter[str] = Counter()
    entries: dict[str, Entry] = {}
    for row in rows:
        place = seen[row["variant"]]
        seen[row["variant"]] += 1
        if row["file"] not in entries:
            prompt = "" if row.get("axis_prompt") else of_baseline[place]
            scores = {name: float(row[name]) for name in metrics if row.get(name)}
            entries[row["file"]] = Entry(row["variant"], place, prompt, scores)
    return entries
