"""The words that two models share, by the vectors that each has for them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lab.condition.effect import Spoken
from lab.embeddings.maps import Anchors, Map
from lab.errors import InputError
from lab.models.bundle import Bundle, TextTower
from lab.models.vocabulary import whole_word

LEAST_SHARED = 0.9
"""Of the larger vocabulary's tokens, how many the other one needs to have."""

MOST_APART = 256
"""Words kept apart at most, and no more than one in five: of each two, one chooses and one measures."""


class SharedWords:
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

    def in_source(self, places: Tensor) -> dict[str, Tensor]:
        """The source's vectors of some anchors, by text encoder."""
        return {key: rows[places] for key, rows in self._words.items()}

    def in_target(self, places: Tensor) -> dict[str, Tensor]:
        """The target's of them."""
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
