"""Prompts from keywords: put together from what a library says nearest to them, or written by a chat server."""

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle, islice, zip_longest
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.errors import InputError, keep_readable
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.config import check_for_loaded
from lab.models.source import ASSETS
from lab.search.chat import ask
from lab.search.config import ComposeConfig
from lab.search.features import BundleFeatures
from lab.search.index import Index
from lab.search.prompt_library import Family, aspects, attributes, library_lines, parts_of
from lab.search.search import encode_rows, names_as_words
from lab.search.sources import IndexRow
from lab.text import read_lines

DRAFTS = 3
"""Prompts that are put together for each that is kept."""

CHOICE = 12
"""Of the parts that say something about an aspect, those nearest to the keywords that prompts take turns in."""

VARIETY = 0.5
"""How much likeness to a prompt that was taken counts against the next, beside its likeness to the keywords (maximal
marginal relevance, Carbonell and Goldstein 1998)."""


def compose(
    bundle: Bundle,
    config: ComposeConfig | None = None,
    *,
    drafts: Sequence[str] | None = None,
    listener: Listener = Listener(),
    **settings: Any,
) -> list[str]:
    """Prompts about keywords, no two alike, those first whose text is nearest to the keywords.

    Args:
        config: What they are about and put together from; its model options are ignored, as the bundle is loaded.
        drafts: What was written elsewhere, to choose from; by default the chat server is asked if there is one, or else
            a library's parts are put together.
        listener: Hears of texts encoded, and what could not be done.
        settings: Fields of `ComposeConfig`, on top of `config`.

    Raises:
        InputError: a library that cannot be read, a keyword that the model cannot, no drafts, or a chat server without
            an answer.
    """
    check_for_loaded(bundle, settings)
    config = ComposeConfig.build(ComposeConfig.given_with(config, settings))
    space = _Space(bundle, listener)
    keywords = space.vectors(config.keyword)
    if drafts is None:
        drafts = (
            ask(config) if config.chat_url is not None else _put_together(bundle, config, space, keywords)
        )
    if not drafts:
        raise InputError("drafts: there is none to choose from")
    found = space.best_first(drafts, keywords, config.count)
    if len(found) < config.count:
        listener.note(f"{len(found)} that differ were found, where {config.count} were asked for")
    return found


class _Space:
    """Texts by what the text encoder makes of them."""

    def __init__(self, bundle: Bundle, listener: Listener):
        self._features, self.listener = BundleFeatures(bundle), listener

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """(n, d) of unit length.

        Raises:
            InputError: a text that cannot be read.
        """
        return F.normalize(self._features.texts(texts, {}), dim=1)

    def nearest(self, texts: Iterable[str], wanted: Tensor, count: int) -> list[str]:
        """Of some texts those nearest to vectors (n, d): the nearest to each in turn, then the second, and so on."""
        turns = zip_longest(*self._hits(texts, wanted, count))
        return list(dict.fromkeys(text for turn in turns for text in turn if text is not None))[:count]

    def nearest_to_each(self, texts: Sequence[str], others: Iterable[str]) -> list[str]:
        """For each text the nearest of others."""
        wanted = self._encoded(texts)
        return [text for (text,) in self._hits(others, wanted, 1)]

    def best_first(self, drafts: Sequence[str], keywords: Tensor, count: int) -> list[str]:
        """The `count` drafts that are near to keywords (k, d) and unlike each other, the nearest first.

        Of drafts with the same words the first counts; what the text encoder cannot read is left out.
        """
        distinct: dict[frozenset[str] | str, str] = {}
        for text in drafts:
            distinct.setdefault(_words(text) or text, text)
        read, _ = keep_readable(lambda text: (text, self.vectors([names_as_words(text)])), distinct.values())
        vectors = torch.cat([vector for _, vector in read])
        near = (vectors @ keywords.T).mean(dim=1)
        left, likest = near.clone(), torch.full_like(near, -1)
        chosen: list[int] = []
        for _ in range(min(count, len(read))):
            chosen.append(int((left - VARIETY * likest).argmax()))
            left[chosen[-1]] = -torch.inf
            likest = torch.maximum(likest, vectors @ vectors[chosen[-1]])
        return [read[place][0] for place in sorted(chosen, key=near.tolist().__getitem__, reverse=True)]

    def _hits(self, texts: Iterable[str], wanted: Tensor, count: int) -> list[list[str]]:
        """For each vector the nearest texts."""
        distinct = list(dict.fromkeys(texts))
        index = Index.build("flat-ip", self._features.space, _rows(distinct), self._encoded(distinct))
        return [[hit.row.text for hit in hits] for hits in index.search(wanted, count)]

    def _encoded(self, texts: Sequence[str]) -> Tensor:
        return encode_rows(_rows(texts), self._features, self.listener)


def _rows(texts: Sequence[str]) -> list[IndexRow]:
    return [IndexRow("prompt", text, "", text) for text in texts]


def _put_together(bundle: Bundle, config: ComposeConfig, space: _Space, keywords: Tensor) -> list[str]:
    """Prompts of a library's parts: the subjects nearest to the keywords, each with what is to be said about it."""
    family: Family = "emoji" if bundle.root == ASSETS / "emoji" else "general"
    named = family == "general" if config.name_keywords is None else config.name_keywords
    lines = read_lines(config.library) if config.library is not None else library_lines(family)
    rests: dict[str, list[list[str]]] = {}
    for subject, *rest in filter(None, map(parts_of, lines)):
        rests.setdefault(subject, []).append(rest)
    if not rests:
        raise InputError(f"{config.library}: holds no words, but commas alone; write a prompt a line")
    drawn, count = random.Random(config.seed), DRAFTS * config.count
    said = [
        _dealt(space.nearest(pool, keywords, CHOICE), drawn) for pool in _pools(config, family, rests, space)
    ]
    made = []
    for subject in islice(cycle(space.nearest(rests, keywords, count)), count):
        more = [next(parts) for parts in said] if config.about else drawn.choice(rests[subject])
        words = [each for each in config.keyword if named and not _words(each) <= _words(subject)]
        made.append(", ".join(dict.fromkeys([subject, *words, *more])))
    return made


def _pools(
    config: ComposeConfig, family: Family, rests: Mapping[str, Sequence[Sequence[str]]], space: _Space
) -> Iterator[Sequence[str]]:
    """Yields for each aspect what can be said about it.

    Of a library of one's own a part is about colour if what is nearest to it, of all that the lab's lists say, is a
    colour; about an aspect that they do not have are the parts nearest to its name.
    """
    if config.library is None:
        absent = [aspect for aspect in config.about if aspect not in aspects(family)]
        if absent:
            known = " and ".join(aspects(family))
            space.listener.note(f"left out {', '.join(absent)}: the bundled model knows {known} alone")
        yield from (attributes(family)[aspect] for aspect in config.about if aspect not in absent)
        return
    details = list(dict.fromkeys(part for each in rests.values() for rest in each for part in rest))
    if config.about and not details:
        raise InputError(f"{config.library}: nothing in it stands between commas to take for --about")
    lists = {aspect: attributes("general")[aspect] for aspect in aspects("general")}
    of_entry = {entry: aspect for aspect, entries in lists.items() for entry in entries}
    found = space.nearest_to_each(details, of_entry) if config.about else []
    for aspect in config.about:
        if aspect in lists:
            own = [part for part, entry in zip(details, found, strict=True) if of_entry[entry] == aspect]
            yield own or lists[aspect]
        else:
            yield space.nearest(details, space.vectors([aspect]), CHOICE)


def _dealt(parts: Sequence[str], drawn: random.Random) -> Iterator[str]:
    """The parts over and over, each time in another order."""
    while True:
        yield from drawn.sample(parts, len(parts))


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))
