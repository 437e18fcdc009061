"""The compel library's weight arithmetic, fed with our chunks and our encoder.

The library's `EmbeddingsProvider` does the arithmetic. What it would ask of a tokenizer and a text encoder is
answered from an `EncodedText`, so that chunks, learned vectors and clip skip are the same as in every other mode.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from compel.embeddings_provider import EmbeddingsProvider, SplitLongTextMode
from torch import Tensor

from lab.condition.weighting import EncodedText


def weigh_by_compel(text: EncodedText) -> Tensor:
    """(chunks, context, width): the text's hidden states under its weights."""
    fragments = [list(ids) for ids, _ in text.fragments]
    weights = [weight for _, weight in text.fragments]
    weighted = _Provider(text).get_embeddings_for_weighted_prompt_fragments(
        [fragments], [weights], device=text.ids.device
    )
    return weighted.view(text.z.shape)


def blend_by_compel(members: Sequence[Tensor], shares: Sequence[float], normalized: bool) -> Tensor:
    """(n, width): the sum of members (n, width) times their shares, over the sum of the shares if `normalized`."""
    stacked = torch.stack(list(members))[None]
    return EmbeddingsProvider.apply_embedding_weights(stacked, list(shares), normalized)[0]


class _Encoder:
    """Looks to the library like a text encoder of transformers."""

    def __init__(self, text: EncodedText):
        self._text = text
        self.device = text.ids.device
        self.dtype = text.z.dtype

    def __call__(self, ids: Tensor, mask: Tensor | None = None, **_: Any) -> SimpleNamespace:
        mask = torch.ones_like(ids) if mask is None else mask
        return SimpleNamespace(last_hidden_state=self._text.encode(ids, mask))


class _Provider(EmbeddingsProvider):
    """The library's provider, whose fragments are token ids already and whose chunks are given."""

    def __init__(self, text: EncodedText):
        start, end, pad = text.special_ids
        tokenizer = SimpleNamespace(
            bos_token_id=start, eos_token_id=end, pad_token_id=pad, model_max_length=text.ids.shape[1]
        )
        super().__init__(
            tokenizer, _Encoder(text), truncate=False, split_long_text_mode=SplitLongTextMode.WORDS
        )
        self._text = text

    def get_token_ids(self, texts: list[list[int]], *_: Any, **__: Any) -> list[list[int]]:
        return texts

    def get_token_ids_and_expand_weights(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
        ids = self._text.ids.flatten()
        return ids, self._text.w.flatten().to(ids.device), torch.ones_like(ids)
