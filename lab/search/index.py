"""A FAISS index and what its rows are: built, added to, searched, saved and loaded."""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lab.condition.conditioning import Pool
from lab.config import validated
from lab.errors import InputError
from lab.files import atomic, is_file, read_json
from lab.search.config import IndexKind
from lab.search.sources import IndexRow

ROWS = "rows.json"
"""The file of an index that says what its rows are; it is written last."""

PER_CELL = 39
"""Vectors that FAISS wants for each cell of an ivf index, to train it well."""

PROBED = 0.05
"""The share of an ivf index's cells that a search looks into; `scripts/bench_search.py` prints what that finds."""

Identity = tuple[str, str]
"""A row's kind, and what makes it the same thing again."""


class Hit(NamedTuple):
    """A row that was found. The score is the cosine, or for flat-l2 the distance."""

    row: IndexRow
    score: float


@dataclass(frozen=True)
class VectorSpace:
    """What makes the vectors of an index: vectors of two spaces do not compare.

    Attributes:
        model: SHA-256 of the weights that make them.
        source: The model by its name.
        pooling: What stands for a text.
    """

    model: str
    source: str
    pooling: Pool


@dataclass(frozen=True)
class _Stored:
    """What `rows.json` holds."""

    kind: IndexKind
    space: VectorSpace
    vectors: str
    sha256: str
    rows: list[IndexRow]


class Index:
    """Rows that can be found by their vectors: prompts, images, embeddings and tokens, and FAISS's index of them.

    Attributes:
        kind: `flat-ip`, `flat-l2` or `ivf`.
        rows: In the order of their vectors.
        space: What makes its vectors.
        known: The identities of all rows.
    """

    def __init__(self, kind: IndexKind, space: VectorSpace, vectors: faiss.Index, rows: list[IndexRow]):
        self.kind = kind
        self.space = space
        self.rows = rows
        self._vectors = vectors
        self.known = {(row.kind, row.identity) for row in rows}

    @classmethod
    def build(cls, kind: IndexKind, space: VectorSpace, rows: Sequence[IndexRow], vectors: Tensor) -> "Index":
        """A new index of rows with their vectors (n, d), on which the cells of an ivf index are trained."""
        made = _empty_index(kind, _for_faiss(kind, vectors))
        index = cls(kind, space, made, [])
        index.add(rows, vectors)
        return index

    def add(self, rows: Sequence[IndexRow], vectors: Tensor) -> None:
        """Adds rows with their vectors (n, d).

        Raises:
            InputError: vectors of another width than the index's.
        """
        self._vectors.add(self._ready(vectors))
        self.rows.extend(rows)
        self.known.update((row.kind, row.identity) for row in rows)

    def without(self, places: Collection[int]) -> "Index":
        """An index of the other rows; of an ivf index, the cells are trained anew."""
        kept = [place for place in range(len(self.rows)) if place not in places]
        stored: Any = self._vectors
        if self.kind == "ivf":
            stored.make_direct_map()
        vectors = stored.reconstruct_batch(np.array(kept, dtype=np.int64))
        return self.build(
            self.kind, self.space, [self.rows[place] for place in kept], torch.from_numpy(vectors)
        )

    def with_rows(self, rows: Sequence[IndexRow]) -> "Index":
        """An index of the same vectors whose rows say something else, such as the lines where prompts stand now."""
        return Index(self.kind, self.space, self._vectors, list(rows))

    def search(self, vectors: Tensor, count: int) -> list[list[Hit]]:
        """For each vector (n, d) the `count` nearest rows, the nearest first.

        Raises:
            InputError: vectors of another width than the index's.
        """
        scores, places = self._vectors.search(self._ready(vectors), min(count, len(self.rows)))
        if self.kind == "flat-l2":
            scores = np.sqrt(np.maximum(scores, 0))  # FAISS gives squares
        return [
            [Hit(self.rows[place], float(score)) for place, score in zip(*nearest, strict=True) if place >= 0]
            for nearest in zip(places, scores, strict=True)
        ]

    def _ready(self, vectors: Tensor) -> np.ndarray:
        if vectors.shape[1] != self._vectors.d:
            raise InputError(
                f"the index has vectors {self._vectors.d} wide, the model {vectors.shape[1]}; build the index again"
            )
        return _for_faiss(self.kind, vectors)

    def save(self, folder: Path) -> None:
        """Writes the index to a folder: `rows.json`, which names the file with the vectors.

        That file's name comes from its content, and `rows.json` is renamed into place last: whoever reads sees the
        old index or the new one.

        Raises:
            InputError: the folder cannot be written.
        """
        data = faiss.serialize_index(self._vectors).tobytes()
        digest = hashlib.sha256(data).hexdigest()
        name = f"vectors-{digest[:16]}.faiss"
        with atomic(folder / name) as temporary:
            temporary.write_bytes(data)
        told = {"kind": self.kind, "space": asdict(self.space), "vectors": name, "sha256": digest}
        text = json.dumps(told | {"rows": [asdict(row) for row in self.rows]}, ensure_ascii=False, indent=0)
        with atomic(folder / ROWS) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        for old in folder.glob("vectors-*.faiss"):
            if old.name != name:
                old.unlink()

    @classmethod
    def load(cls, folder: Path) -> "Index":
        """Reads an index that `save` wrote.

        Raises:
            InputError: not there, damaged or edited.
        """
        if not is_file(folder / ROWS):
            raise InputError(f"{folder}: no index there")
        try:
            told = validated(_Stored, read_json(folder / ROWS), folder / ROWS)
            data = (folder / Path(told.vectors).name).read_bytes()
        except OSError as error:
            raise InputError(f"{folder}: no index there that can be read: {error.strerror}") from None
        except ValueError as error:
            problem = (
                error if isinstance(error, InputError) else f"{folder / ROWS}: {error}"
            )  # a name with a NUL
            raise InputError(f"{problem}; damaged: delete the folder and build the index again") from None
        if hashlib.sha256(data).hexdigest() != told.sha256:
            raise InputError(f"{folder}: its vectors are not those it was saved with; build the index again")
        try:
            vectors = faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
        except RuntimeError:
            raise InputError(f"{folder}: its vectors are damaged; build the index again") from None
        if told.kind != "ivf" and not np.isfinite(vectors.reconstruct_n(0, vectors.ntotal)).all():
            raise InputError(f"{folder}: its vectors hold NaN or infinity; build the index again")
        if vectors.ntotal != len(told.rows):
            raise InputError(
                f"{folder}: {vectors.ntotal} vectors for {len(told.rows)} rows; build the index again"
            )
        return cls(told.kind, told.space, vectors, told.rows)

    def check_same_space(self, space: VectorSpace, folder: Path) -> None:
        """Refuses vectors that were made otherwise than the index's own.

        Args:
            folder: Of the index, for errors.

        Raises:
            InputError: another model, or another pooling.
        """
        if space.model != self.space.model:
            raise InputError(
                f"{folder}: is an index of another model, {self.space.source} ({self.space.model[:10]}), not of "
                f"{space.source} ({space.model[:10]}); search with that model, or build another index"
            )
        if space.pooling != self.space.pooling:
            raise InputError(
                f"{folder}: is an index of texts pooled by '{self.space.pooling}', not by '{space.pooling}'; "
                f"leave out --pooling, or build another index"
            )


def unknown_rows(rows: Sequence[IndexRow], known: Collection[Identity]) -> list[IndexRow]:
    """Those of the rows whose identities are not known, each once, in their order."""
    first: dict[Identity, IndexRow] = {}
    for row in rows:
        first.setdefault((row.kind, row.identity), row)
    return [row for key, row in first.items() if key not in known]


def _empty_index(kind: IndexKind, vectors: np.ndarray) -> faiss.Index:
    count, width = vectors.shape
    if kind == "flat-l2":
        return faiss.IndexFlatL2(width)
    flat = faiss.IndexFlatIP(width)
    if kind == "flat-ip":
        return flat
    cells = max(min(round(4 * count**0.5), count // PER_CELL), 1)
    index = faiss.IndexIVFFlat(flat, width, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1  # else FAISS prints that it would like more
    index.nprobe = max(round(PROBED * cells), 1)
    index.train(vectors)
    return index


def _for_faiss(kind: IndexKind, vectors: Tensor) -> np.ndarray:
    """(n, d) float32 as the index takes them: of unit length, but for distances."""
    rows = vectors.float() if kind == "flat-l2" else F.normalize(vectors.float(), dim=1)
    return np.ascontiguousarray(rows.numpy())
