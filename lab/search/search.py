"""From the options of a search to what was found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.condition.conditioning import Pool
from lab.embeddings.embedding import Embedding
from lab.embeddings.library import collect
from lab.errors import InputError
from lab.files import is_there
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.config import check_for_loaded
from lab.search.config import SearchConfig
from lab.search.features import BLOCK, TOKEN_BLOCK, BundleFeatures, ClipFeatures, Features
from lab.search.index import ROWS, Hit, Index, unknown_rows
from lab.search.sources import IndexRow, IndexRowKind, holds, read_source

BLOCKS: Mapping[IndexRowKind, int] = {"prompt": BLOCK, "embedding": BLOCK, "image": 16, "token": TOKEN_BLOCK}
"""Rows of each kind that are encoded between two reports of progress."""


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        index: The index that was searched.
        added: How many rows were new to it.
        hits: For each query, by what was asked, the nearest rows.
    """

    index: Index
    added: int
    hits: dict[str, list[Hit]]


def search(
    bundle: Bundle, config: SearchConfig | None = None, *, listener: Listener = Listener(), **settings: Any
) -> SearchResult:
    """Builds, extends or loads an index, and looks for every query in it.

    Args:
        config: What to look for and where; its model options are ignored, as the bundle is loaded.
        listener: Hears of rows encoded, and which embeddings of a folder do not fit the model and are left out.
        settings: Fields of `SearchConfig`, on top of `config`.

    Raises:
        InputError: nothing to search or to look for, a source or query that cannot be read, or an index of another
            model.
    """
    check_for_loaded(bundle, settings)
    config = SearchConfig.build(SearchConfig.given_with(config, settings))
    old = _load_index(config)
    features = _features(bundle, config, old)
    if old is not None:
        old.check_same_space(features.space, _folder(config))
    queries = _queries(config, features)
    rows = [row for over in config.over for row in read_source(over, bundle, listener)]
    found = _without_gone(old, config, rows) if old is not None else None
    index, added = _build_or_extend(found, config, rows, features, listener)
    if config.index is not None and (added or found is not old):
        index.save(config.index)
    if not queries:
        return SearchResult(index, added, {})
    hits = index.search(torch.cat(list(queries.values())), config.top)
    return SearchResult(index, added, dict(zip(queries, hits, strict=True)))


def _folder(config: SearchConfig) -> Path:
    assert config.index is not None
    return config.index


def _load_index(config: SearchConfig) -> Index | None:
    """The index that is there, or None if one is to be made."""
    if config.index is None or (config.over and not is_there(config.index / ROWS)):
        return None
    index = Index.load(config.index)
    if config.kind is not None and config.kind != index.kind:
        raise InputError(f"{config.index}: is a {index.kind} index; leave out --kind, or build another index")
    return index


def _features(bundle: Bundle, config: SearchConfig, index: Index | None) -> Features:
    pooling: Pool = config.pooling or (index.space.pooling if index else "eos")
    if config.clip is None:
        return BundleFeatures(bundle, pooling, config.dialect)
    if pooling != "eos":
        raise InputError(f"--pooling {pooling}: a CLIPModel's own features are pooled by eos; leave it out")
    return ClipFeatures(config.clip, bundle.device)


def _queries(config: SearchConfig, features: Features) -> dict[str, Tensor]:
    """(1, d) for each query, by what was asked."""
    library = collect(config.embedding, config.embeddings)
    texts = list(config.text)
    if not texts and not config.image:
        texts = [f"<{name}>" for name in collect(config.embedding)]
    queries = {text: features.texts([text], library) for text in texts}
    return queries | {str(path): features.images([path]) for path in config.image}


def _without_gone(index: Index, config: SearchConfig, rows: Sequence[IndexRow]) -> Index | None:
    """The index without what its sources do not hold any more, and with where things stand now.

    A source that is not searched now says nothing of its rows. None if nothing is left.
    """
    now = {(row.kind, row.identity): row for row in rows}
    gone = {
        place
        for place, row in enumerate(index.rows)
        if (row.kind, row.identity) not in now and any(holds(over, row) for over in config.over)
    }
    if len(gone) == len(index.rows):
        return None
    kept = index.without(gone) if gone else index
    moved = [now.get((row.kind, row.identity), row) for row in kept.rows]
    return kept if moved == kept.rows else kept.with_rows(moved)


def _build_or_extend(
    index: Index | None,
    config: SearchConfig,
    rows: Sequence[IndexRow],
    features: Features,
    listener: Listener,
) -> tuple[Index, int]:
    """The index with the rows that it did not have, and how many they were."""
    if index is None:
        kind = config.kind or "flat-ip"
        distinct = unknown_rows(rows, set())
        return Index.build(kind, features.space, distinct, encode_rows(distinct, features, listener)), len(
            distinct
        )
    new = unknown_rows(rows, index.known)
    if new:
        index.add(new, encode_rows(new, features, listener))
    return index, len(new)


def encode_rows(rows: Sequence[IndexRow], features: Features, listener: Listener = Listener()) -> Tensor:
    """(n, d): the vectors of rows of any kinds, in their order.

    Args:
        listener: Hears of rows encoded.

    Raises:
        InputError: an image or an embedding that cannot be read any more, or that the features do not take.
    """
    made: list[Tensor] = []
    for (kind, place), group in groupby(
        rows, key=lambda row: (row.kind, row.source * (row.kind == "embedding"))
    ):
        texts = [row.text for row in group]
        library = collect([Path(place)]) if kind == "embedding" else {}
        size = BLOCKS[kind]
        for start in range(0, len(texts), size):
            made.append(_encode_kind(kind, texts[start : start + size], features, library))
            listener.progress(sum(map(len, made)), len(rows), "rows")
    return torch.cat(made)


def _encode_kind(
    kind: IndexRowKind, texts: Sequence[str], features: Features, library: Mapping[str, Embedding]
) -> Tensor:
    if kind == "prompt":
        return _encode_prompts(texts, features)
    if kind == "embedding":
        return features.texts([f"<{name}>" for name in texts], library)
    if kind == "image":
        return features.images([Path(text) for text in texts])
    return features.tokens(texts)


def _encode_prompts(texts: Sequence[str], features: Features) -> Tensor:
    """Vectors of a library's prompts: names of embeddings that are not here stand for the words that they are.

    Halves what cannot be read until the texts at fault are alone; reading comes before all encoding.
    """
    try:
        return features.texts(texts, {})
    except InputError:
        if len(texts) == 1:
            return features.texts([names_as_words(texts[0])], {})
    half = len(texts) // 2
    return torch.cat([_encode_prompts(some, features) for some in (texts[:half], texts[half:])])


def names_as_words(text: str) -> str:
    """A text in which names of embeddings are the words that they are."""
    return text.replace("<", " ").replace(">", " ").replace("embedding:", " ")
