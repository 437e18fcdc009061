"""What learned vectors do to the words behind them, held against what a known word does there."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.condition.effect import laid_out
from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.training.data.caption_encoder import CaptionChunker, CaptionEncoder, vector_counts
from lab.training.data.captions import placeholder, read_templates

TEMPLATES = "context"
"""The set of prompts."""


class ContextDrift:
    """How far the words around learned vectors drift from what they are around a known word, by the text encoder alone.

    The text side of Context Regularization (CoRe, 2408.15914): in a prompt that no image belongs to, the mean of
    1 - cos(E(prompt with the vectors)_i, E(prompt with the word)_i) over the words i that stand behind the vectors, as
    those before them cannot see them. CoRe's other half, which does the same to attention maps, is not here.
    """

    def __init__(self, bundle: Bundle, encode: CaptionEncoder, names: Sequence[str], word: str):
        """Encodes the prompts with the known word.

        Args:
            encode: Knows the vectors.
            names: Of the embeddings, which stand side by side.
            word: The word in their place.

        Raises:
            InputError: so many vectors that no prompt has room for words behind them.
        """
        self._encode = encode
        chunker = CaptionChunker(bundle, vector_counts(encode.embeddings))
        filling, self._prompts, rows, expected = " ".join(map(placeholder, names)), [], [], []
        for template in read_templates([TEMPLATES]):
            prompt, known = (template.replace("{name}", text) for text in (filling, word))
            chunk = chunker(prompt)
            own = [row for each, found in chunk.rows() if each.embedding for row in found]
            behind = [
                row for each, found in chunk.rows() if not each.embedding for row in found if row > own[-1]
            ]
            if behind:
                with torch.no_grad():
                    states = encode([known])[0][0].float()
                tokens = chunker(known).length - (chunk.length - len(own))
                self._prompts.append(prompt)
                rows.append(behind)
                expected.append(laid_out(states, own, tokens)[behind])
        if not self._prompts:
            raise InputError(
                f"keep_context: {filling} are so many vectors that no words fit behind them; take fewer, or leave it "
                "out"
            )
        self._rows, self._expected = rows, expected

    def __call__(self, generators: Sequence[torch.Generator]) -> Tensor:
        """(b,) drifts in prompts that the generators draw, differentiable in the vectors."""
        drawn = [int(torch.randint(len(self._prompts), (), generator=each)) for each in generators]
        states = self._encode([self._prompts[number] for number in drawn]).embeds
        drifts = [
            1 - F.cosine_similarity(own.float()[self._rows[number]], self._expected[number], dim=1).mean()
            for own, number in zip(states, drawn, strict=True)
        ]
        return torch.stack(drifts)
