"""Learned vectors for another model's text encoders.

Two encoders with one vocabulary know the same words by vectors in two spaces: tens of thousands of pairs to learn a map
from, of a kind that words kept apart choose. The nearest token, as SD.Next takes it (`convert_embedding` in
modules/textual_inversion), is measured beside it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lab.condition.effect import Expected, Said, Spoken
from lab.condition.refine import aims, refine
from lab.condition.towers import vectors_for
from lab.embeddings.embedding import INITIAL_TEXT, Embedding, Provenance, check_vectors
from lab.embeddings.maps import METHODS, Anchors, Map, lost
from lab.errors import InputError
from lab.listening import Listener
from lab.models.bundle import Bundle, TextTower
from lab.models.vocabulary import whole_word

LEAST_SHARED = 0.9
"""Of the larger vocabulary's tokens, how many the other one needs to have."""

MOST_APART = 256
"""Words kept apart at most, and no more than one in five: of each two, one chooses and one measures."""

SPOKEN = 12
"""Of the words that measure, how many are also said in contexts."""

SAID_IN = ("{}, a house by the sea", "{} in winter")
"""Contexts that say what vectors do."""

LEARNED_IN = ("{}", "a photo of a dog, {}")
"""Contexts in which vectors are refined."""

MAPPED = 256
"""Words whose hidden states say what the target's should be."""


class Loss(NamedTuple):
    """What a method loses of words that were kept apart: 0 for nothing.

    Attributes:
        vectors: The share of their vectors' variance that is missing; None where these are not what is aimed at.
        effect: The share of what they do in contexts, in the target's prompt embeddings, that is missing.
    """

    vectors: float | None
    effect: float


@dataclass(frozen=True)
class Conversion:
    """An embedding for another model.

    Attributes:
        embedding: For the target.
        taken: The target's text encoders that have a token table of the source's: their vectors are the embedding's.
        how: The vectors of the others were made: a name in `METHODS`, with `REFINED` behind it where they were. Of an
            embedding that is taken whole, `TAKEN`.
        losses: By method; empty if it is taken whole.
    """

    embedding: Embedding
    taken: tuple[str, ...]
    how: str
    losses: Mapping[str, Loss]


TAKEN, REFINED = "as it is", "refined"


def convert(
    embedding: Embedding,
    source: Bundle,
    target: Bundle,
    method: str | None = None,
    refined: bool = True,
    listener: Listener = Listener(),
) -> Conversion:
    """Makes an embedding for another model; both may have been loaded with `text_only`.

    Args:
        method: A name in `METHODS`; by default the one that loses least of words kept apart.
        refined: Goes on from there by what vectors do (`lab.condition.refine`), as far as words kept apart gain by it.
            That takes thousands of passes through the text encoders.
        listener: Hears of the steps.

    Raises:
        InputError: it is not for the source, acts elsewhere than in front of the text encoder, or the models have other
            vocabularies.
    """
    if embedding.outputs or embedding.layers:
        where = "in the U-Net's layers" if embedding.layers else "behind the text encoder"
        raise InputError(f"{embedding.name}: acts {where}, where another model has no place for it")
    given, pairs = vectors_for(source, embedding), _Pairs(source, target)
    vectors: Spoken = pairs.taken(given)
    how, losses = TAKEN, dict[str, Loss]()
    if len(vectors) < len(target.towers):
        tried = _Tried(pairs)
        how, losses = method or tried.best, tried.losses
        vectors = pairs.mapped(tried.ways[how](pairs.anchors), given)
        if refined:
            vectors, loss = _refined(pairs, tried.maps[how], given, vectors, listener)
            if loss is not None:
                how = f"{how}, {REFINED}"
                losses[how] = loss
    known = embedding.provenance
    kept = {key: known.metadata[key] for key in (INITIAL_TEXT,) if key in known.metadata}
    about = {
        "lab.converted_from": known.sha256,
        "lab.converted_from_model": f"{source.source} {source.short_hash}",
        "lab.converted_to_model": f"{target.source} {target.short_hash}",
        "lab.converted_how": how,
        "lab.converted_loss": f"{losses[how].effect:.3f}" if losses else "0",
    }
    provenance = Provenance(
        internal_name=known.internal_name, base_model=target.source, metadata=kept | about
    )
    made = Embedding(embedding.name, check_vectors(vectors), embedding.kind, provenance)
    return Conversion(made, tuple(pairs.twins), how, losses)


class _Tried:
    """What words kept apart say of every method.

    Attributes:
        maps: By method the best map from the other anchors; `ways` how it was made, `losses` what measuring words lose.
        best: The method that loses least of the choosing words.
    """

    def __init__(self, pairs: "_Pairs"):
        rest, shares = pairs.anchors.without(pairs.apart), dict[str, float]()
        self.maps, self.ways = dict[str, Map](), dict[str, Callable[[Anchors], Map]]()
        for name, settings in METHODS.items():
            found = [way(rest) for way in settings]
            lost_by = [lost(each, pairs.anchors, pairs.choosing) for each in found]
            shares[name] = min(lost_by)
            place = lost_by.index(shares[name])
            self.maps[name], self.ways[name] = found[place], settings[place]
        self.best = min(shares, key=shares.__getitem__)
        said, spoken = Said(pairs.target, SAID_IN), pairs.measuring[:SPOKEN]
        expected = said.expected(pairs.answers(spoken))
        self.losses = {
            name: Loss(
                lost(each, pairs.anchors, pairs.measuring),
                said.lost(pairs.mapped(each, pairs.words(spoken)), expected),
            )
            for name, each in self.maps.items()
        }


def _refined(
    pairs: "_Pairs", method: Map, given: Spoken, begun: Spoken, listener: Listener
) -> tuple[Spoken, Loss | None]:
    """Vectors by what they do, from where a method has brought them, and what is lost so; None if words gain nothing.

    Words kept apart go the same way: half of them say after how many steps to stop, the others what is lost then.
    """
    words = torch.cat([pairs.choosing[:SPOKEN], pairs.measuring[:SPOKEN]])
    taught, count = pairs.others[:MAPPED], len(pairs.choosing[:SPOKEN])
    here, there = (Said(bundle, LEARNED_IN) for bundle in (pairs.source, pairs.target))
    said = Said(pairs.target, SAID_IN)
    choosing, measuring = (
        (part, said.expected(pairs.answers(words[part]))) for part in (slice(count), slice(count, len(words)))
    )

    def loss_by(judges: tuple[slice, Expected], vectors: Spoken) -> float:
        part, expected = judges
        return said.lost({key: rows[part] for key, rows in vectors.items()}, expected)

    goal = aims(here, there, pairs.words(taught), pairs.answers(taught), _joined(pairs.words(words), given))
    begun = _joined(pairs.mapped(method, pairs.words(words)), begun)
    found, steps = refine(there, goal, begun, pairs.twins, partial(loss_by, choosing), listener)
    loss = Loss(None, loss_by(measuring, found)) if steps else None
    return {key: rows[len(words) :] for key, rows in found.items()}, loss


def _joined(first: Spoken, second: Spoken) -> dict[str, Tensor]:
    return {key: torch.cat([rows, second[key]]) for key, rows in first.items()}


class _Pairs:
    """The words that two models share: the vectors of each, and which are kept apart.

    Attributes:
        twins: The target's text encoders that have the token table of one of the source's, and which.
        anchors: All shared tokens, in the source's space and in that of the target's other encoders.
        choosing, measuring: Places of the words kept apart in the anchors; `apart` are both.
        others: Places of the other words.
    """

    def __init__(self, source: Bundle, target: Bundle):
        self.source, self.target = source, target
        known, wanted = _shared_ids(source, target)
        self._words = {tower.key: _table(tower)[known] for tower in source.towers}
        self._answers = {tower.key: _table(tower)[wanted] for tower in target.towers}
        found = {key: _twin(rows, self._words) for key, rows in self._answers.items()}
        self.twins = {key: twin for key, twin in found.items() if twin is not None}
        others = {key: rows for key, rows in self._answers.items() if key not in self.twins}
        self._mine, self._theirs = _Space(self._words), _Space(others)
        self.anchors = Anchors(self._mine.joined(self._words), self._theirs.joined(others))
        tokens = source.towers[0].tokenizer.convert_ids_to_tokens(known.tolist())
        words = [place for place, token in enumerate(tokens) if (whole_word(token) or "").isalpha()]
        mixed = torch.tensor(words)[torch.randperm(len(words), generator=torch.Generator().manual_seed(0))]
        self.apart = mixed[: min(MOST_APART, len(words) // 5)]
        self.choosing, self.measuring = self.apart[::2], self.apart[1::2]
        self.others = mixed[len(self.apart) :]

    def words(self, places: Tensor) -> dict[str, Tensor]:
        """The source's vectors of some anchors, by text encoder."""
        return {key: rows[places] for key, rows in self._words.items()}

    def answers(self, places: Tensor) -> dict[str, Tensor]:
        """The target's."""
        return {key: rows[places] for key, rows in self._answers.items()}

    def taken(self, given: Spoken) -> dict[str, Tensor]:
        """What is taken as it is of vectors for the source."""
        return {key: given[twin] for key, twin in self.twins.items()}

    def mapped(self, method: Map, given: Spoken) -> dict[str, Tensor]:
        """Vectors for the target of vectors for the source."""
        return self.taken(given) | self._theirs.parted(method(self._mine.joined(given)))


class _Space:
    """The vectors of text encoders side by side, so scaled that the words of each count alike."""

    def __init__(self, tables: Mapping[str, Tensor]):
        self._scales = {key: float(table.square().mean().sqrt()) for key, table in tables.items()}
        self._widths = [table.shape[1] for table in tables.values()]

    def joined(self, vectors: Spoken) -> Tensor:
        """(n, all widths)."""
        parts = [vectors[key] / scale for key, scale in self._scales.items()]
        return torch.cat(parts, dim=1) if parts else torch.empty(0, 0)

    def parted(self, rows: Tensor) -> dict[str, Tensor]:
        """By text encoder again."""
        parts = zip(self._scales.items(), rows.split(self._widths, dim=1), strict=True)
        return {key: part * scale for (key, scale), part in parts}


def _shared_ids(source: Bundle, target: Bundle) -> tuple[Tensor, Tensor]:
    """The ids of the tokens that both vocabularies have, start and end left out, in the source's order.

    Raises:
        InputError: they share too few.
    """
    first, second = (bundle.towers[0].tokenizer for bundle in (source, target))
    mine, theirs = first.get_vocab(), second.get_vocab()
    shared = sorted((number, theirs[token]) for token, number in mine.items() if token in theirs)
    if len(shared) < LEAST_SHARED * max(len(mine), len(theirs)):
        raise InputError(
            f"{source.source} knows {len(mine)} tokens and {target.source} {len(theirs)}, of which they share "
            f"{len(shared)}; embeddings are converted between text encoders of one vocabulary"
        )
    special = (first.bos_token_id, first.eos_token_id)
    rows, others = (min(len(_table(tower)) for tower in bundle.towers) for bundle in (source, target))
    ids = [pair for pair in shared if pair[0] not in special and pair[0] < rows and pair[1] < others]
    return torch.tensor(ids)[:, 0], torch.tensor(ids)[:, 1]


def _table(tower: TextTower) -> Tensor:
    return tower.encoder.get_input_embeddings().weight.detach().float().cpu()


def _twin(rows: Tensor, tables: Mapping[str, Tensor]) -> str | None:
    """Which of the tables holds these rows, but for rounding to half precision."""
    alike = (
        key
        for key, table in tables.items()
        if table.shape == rows.shape and torch.allclose(table, rows, rtol=2**-8, atol=1e-6)
    )
    return next(alike, None)
