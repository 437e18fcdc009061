"""Learned vectors for another model's text encoders.

Two encoders with one vocabulary know the same words by vectors in two spaces: tens of thousands of pairs to learn a map
from, of a kind that words kept apart choose. The nearest token, as SD.Next takes it (`convert_embedding` in
modules/textual_inversion), is measured beside it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor

from lab.condition.effect import Said, Spoken
from lab.condition.refine import aims, refine
from lab.condition.shared_words import SharedWords
from lab.condition.towers import vectors_for
from lab.embeddings.embedding import INITIAL_TEXT, Embedding, Provenance, check_vectors
from lab.embeddings.maps import METHODS, Anchors, Map, lost
from lab.errors import InputError, did_you_mean
from lab.listening import Listener
from lab.models.bundle import Bundle

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


class Converter:
    """Converts embeddings from one model to another; what words say of the two is learned once.

    Both may have been loaded with `text_only`.

    Raises:
        InputError: the models have other vocabularies.
    """

    def __init__(self, source: Bundle, target: Bundle):
        self._source, self._target = source, target
        self._shared = SharedWords(source, target)

    def convert(
        self,
        embedding: Embedding,
        method: str | None = None,
        refined: bool = False,
        listener: Listener = Listener(),
    ) -> Conversion:
        """Makes an embedding for the other model.

        Args:
            method: A name in `METHODS`; by default the one that loses least of words kept apart.
            refined: Goes on from there by what vectors do (`lab.condition.refine`), as far as words kept apart gain by
                it. That takes thousands of passes through the text encoders.
            listener: Hears of the steps.

        Raises:
            InputError: it is not for the source or acts elsewhere than in front of the text encoder, or there is no
                such method.
        """
        _check(method)
        if embedding.outputs or embedding.layers:
            where = "in the U-Net's layers" if embedding.layers else "behind the text encoder"
            raise InputError(f"{embedding.name}: acts {where}, where another model has no place for it")
        given = vectors_for(self._source, embedding)
        vectors: Spoken = self._shared.taken(given)
        how, losses = TAKEN, dict[str, Loss]()
        if len(vectors) < len(self._target.towers):
            how, losses = method or self._tried.best, dict(self._tried.losses)
            vectors = self._shared.mapped(self._tried.ways[how](self._shared.anchors), given)
            if refined:
                vectors, loss = _refined(self._shared, self._tried.maps[how], given, vectors, listener)
                if loss is not None:
                    how = f"{how}, {REFINED}"
                    losses[how] = loss
        made = Embedding(
            embedding.name,
            check_vectors(vectors),
            embedding.kind,
            self._provenance(embedding.provenance, how, losses),
        )
        return Conversion(made, tuple(self._shared.twins), how, losses)

    @cached_property
    def _tried(self) -> "_Tried":
        return _Tried(self._shared)

    def _provenance(self, known: Provenance, how: str, losses: Mapping[str, Loss]) -> Provenance:
        """What a file says of where its vectors come from; where they began, in words, holds for them too."""
        kept = {key: known.metadata[key] for key in (INITIAL_TEXT,) if key in known.metadata}
        about = {
            "lab.converted_from": known.sha256,
            "lab.converted_from_model": f"{self._source.source} {self._source.short_hash}",
            "lab.converted_to_model": f"{self._target.source} {self._target.short_hash}",
            "lab.converted_how": how,
            "lab.converted_loss": f"{losses[how].effect:.3f}" if losses else "0",
        }
        return Provenance(
            internal_name=known.internal_name, base_model=self._target.source, metadata=kept | about
        )


class _Tried:
    """What words kept apart say of every method.

    Attributes:
        maps: By method the best map from the other anchors; `ways` how it was made, `losses` what measuring words lose.
        best: The method that loses least of the choosing words.
    """

    def __init__(self, shared: SharedWords):
        rest, shares = shared.anchors.without(shared.apart), dict[str, float]()
        self.maps, self.ways = dict[str, Map](), dict[str, Callable[[Anchors], Map]]()
        for name, settings in METHODS.items():
            found = [way(rest) for way in settings]
            lost_by = [lost(each, shared.anchors, shared.choosing) for each in found]
            shares[name] = min(lost_by)
            place = lost_by.index(shares[name])
            self.maps[name], self.ways[name] = found[place], settings[place]
        self.best = min(shares, key=shares.__getitem__)
        said, spoken = Said(shared.target, SAID_IN), shared.measuring[:SPOKEN]
        expected = said.expected(shared.in_target(spoken))
        self.losses = {
            name: Loss(
                lost(each, shared.anchors, shared.measuring),
                said.lost(shared.mapped(each, shared.in_source(spoken)), expected),
            )
            for name, each in self.maps.items()
        }


def _refined(
    shared: SharedWords, method: Map, given: Spoken, begun: Spoken, listener: Listener
) -> tuple[Spoken, Loss | None]:
    """Vectors by what they do, from where a method has brought them, and what is lost so; None if words gain nothing.

    Words kept apart go the same way: half of them say after how many steps to stop, the others what is lost then.
    """
    taught, first = shared.others[:MAPPED], len(shared.choosing[:SPOKEN])
    spoken = torch.cat([shared.choosing[:SPOKEN], shared.measuring[:SPOKEN]])
    said = Said(shared.target, SAID_IN)
    expected = {
        part: said.expected(shared.in_target(spoken[slice(*part)]))
        for part in ((0, first), (first, len(spoken)))
    }

    def loss_of(part: tuple[int, int], vectors: Spoken) -> float:
        return said.lost({key: rows[slice(*part)] for key, rows in vectors.items()}, expected[part])

    choosing, measuring = expected
    here, there = (Said(bundle, LEARNED_IN) for bundle in (shared.source, shared.target))
    asked = _joined(shared.in_source(spoken), given)
    goal = aims(here, there, shared.in_source(taught), shared.in_target(taught), asked)
    begun = _joined(shared.mapped(method, shared.in_source(spoken)), begun)
    found, steps = refine(there, goal, begun, shared.twins, partial(loss_of, choosing), listener)
    loss = Loss(None, loss_of(measuring, found)) if steps else None
    return {key: rows[len(spoken) :] for key, rows in found.items()}, loss


def _joined(first: Spoken, second: Spoken) -> dict[str, Tensor]:
    return {key: torch.cat([rows, second[key]]) for key, rows in first.items()}


def _check(method: str | None) -> None:
    if method is not None and method not in METHODS:
        raise InputError(f"no method '{method}' to convert by{did_you_mean(method, METHODS)}")
