"""Rows and queries as vectors of one space, in which near means alike."""

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from lab.condition.chunks import Chunk
from lab.condition.conditioning import Pool, pool_words
from lab.condition.config import TextOptions
from lab.condition.prompt_encoder import PromptEncoder
from lab.condition.towers import encode_chunks, run_tower, vectors_for
from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.listening import Listener
from lab.models.bundle import Bundle, TextTower
from lab.models.facts import layers_back
from lab.models.vocabulary import token_text
from lab.models.weights import hash_files
from lab.score.clip import image_features, load_clip
from lab.search.index import VectorSpace

BLOCK = 256
"""Texts encoded together: what is kept of each is one vector, not its rows."""

CHUNK_BLOCK = 64
"""Chunks of these texts encoded together, those of like length: none is padded beyond the longest of them."""

TOKEN_BLOCK = 4096
"""Vocabulary tokens encoded together."""


class Features(Protocol):
    """Turns texts, vocabulary tokens and images into vectors (n, d), float32 on the CPU.

    Attributes:
        space: What makes the vectors.
    """

    space: VectorSpace

    def texts(self, texts: Sequence[str], embeddings: Mapping[str, Embedding]) -> Tensor:
        """(n, d) for n texts, which may name embeddings.

        Raises:
            InputError: a text that cannot be read, or that names an embedding which is not there.
        """

    def tokens(self, tokens: Sequence[str]) -> Tensor:
        """(n, d) for n vocabulary tokens, each a text of its own."""

    def images(self, paths: Sequence[Path]) -> Tensor:
        """(n, d) for n image files.

        Raises:
            InputError: a file that is no image, or texts' vectors that do not compare with images.
        """


class BundleFeatures:
    """Vectors by a bundle's own text encoders.

    End tokens' states go through CLIP's projection where the bundle has its vision half; texts then compare with
    images (Radford et al. 2103.00020, figure 3). Otherwise vectors are the encoders' states.
    """

    def __init__(self, bundle: Bundle, pooling: Pool = "eos", dialect: str = "a1111"):
        self._bundle = bundle
        self._dialect = dialect
        complete = pooling == "eos" and bundle.clip_folder is not None and len(bundle.towers) == 1
        self._clip = load_clip(bundle) if complete else None
        self.space = VectorSpace(bundle.hash, bundle.source, pooling)

    def in_dialect(self, dialect: str) -> Self:
        """The same, of texts in another prompt syntax; the encoders are shared."""
        other = copy(self)
        other._dialect = dialect
        return other

    def texts(self, texts: Sequence[str], embeddings: Mapping[str, Embedding]) -> Tensor:
        """(n, d) for n texts; of schedules, `AND` and blends, what is in force first counts."""
        return self.counted_texts(texts, embeddings)[0]

    def counted_texts(
        self, texts: Sequence[str], embeddings: Mapping[str, Embedding], listener: Listener = Listener()
    ) -> tuple[Tensor, list[int]]:
        """(n, d) for n texts, and how many tokens and learned vectors each has beside start and end.

        Args:
            listener: Hears before each batch how many chunks of a block are encoded.
        """
        vectors, counts = [], []
        for start in range(0, len(texts), BLOCK):
            laid_out = self._laid_out(texts[start : start + BLOCK], embeddings)
            counts += [sum(chunk.length for chunk in chunks) for chunks in laid_out]
            vectors.append(self._projected(self._pooled(laid_out, embeddings, listener)))
        return torch.cat(vectors), counts

    @torch.no_grad()
    def tokens(self, tokens: Sequence[str]) -> Tensor:
        """(n, d) for n vocabulary tokens: start, token and end alone, since nothing after it changes a state."""
        row = 2 if self.space.pooling == "eos" else 1
        blocks, towers = [], self._bundle.towers
        for start in range(0, len(tokens), TOKEN_BLOCK):
            states = [self._states(tower, tokens[start : start + TOKEN_BLOCK])[:, row] for tower in towers]
            blocks.append(self._projected(torch.cat(states, dim=-1)))
        return torch.cat(blocks)

    def images(self, paths: Sequence[Path]) -> Tensor:
        """(n, d) for n image files.

        Raises:
            InputError: a file that is no image, or the texts' vectors do not compare with images.
        """
        pooling = self.space.pooling
        if pooling != "eos":
            raise InputError(f"pooling '{pooling}' cannot be compared with images; use --pooling eos")
        if self._clip is None:
            raise InputError(
                f"{self.space.source}: has no vision half, so images cannot be searched with it; give --clip FOLDER"
            )
        return image_features(self._clip, paths, most=None).cpu()

    def _states(self, tower: TextTower, tokens: Sequence[str]) -> Tensor:
        """(n, 3, width): what conditions the U-Net, for texts of one token each."""
        tokenizer, family = tower.tokenizer, self._bundle.family
        ids = [
            [tokenizer.bos_token_id, number, tokenizer.eos_token_id]
            for number in tokenizer.convert_tokens_to_ids(list(tokens))
        ]
        batch = torch.tensor(ids, device=self._bundle.device)
        return run_tower(family, tower, batch, layers_back(family, tower.layers, 0))[0].float().cpu()

    def _laid_out(self, texts: Sequence[str], embeddings: Mapping[str, Embedding]) -> list[list[Chunk]]:
        """The chunks of each text."""
        options = TextOptions.build({"dialect": self._dialect, "weighting": "ignore"})
        encoder = PromptEncoder(self._bundle, embeddings, options, steps=1)
        return [encoder.chunks(encoder.read(text)[0].variants[0])[0] for text in texts]

    def _pooled(
        self, laid_out: Sequence[Sequence[Chunk]], embeddings: Mapping[str, Embedding], listener: Listener
    ) -> Tensor:
        states = iter(self._encoded([chunk for chunks in laid_out for chunk in chunks], embeddings, listener))
        return torch.stack([self._pool([next(states) for _ in chunks]) for chunks in laid_out])

    @torch.no_grad()
    def _encoded(
        self, chunks: Sequence[Chunk], embeddings: Mapping[str, Embedding], listener: Listener
    ) -> list[Tensor]:
        """For each chunk the states of its start token, its tokens and its end token (2 to context, d)."""
        names = {word.embedding for chunk in chunks for word in chunk if word.embedding is not None}
        vectors = {name: vectors_for(self._bundle, embeddings[name]) for name in names}
        lengths = [chunk.length + 2 for chunk in chunks]
        order = sorted(range(len(chunks)), key=lengths.__getitem__)
        made: dict[int, Tensor] = {}
        for start in range(0, len(order), CHUNK_BLOCK):
            listener.progress(start, len(order), "chunks")
            places = order[start : start + CHUNK_BLOCK]
            some = [chunks[place] for place in places]
            states = encode_chunks(self._bundle, some, vectors, padded=False).states.float().cpu()
            made.update((place, rows[: lengths[place]]) for place, rows in zip(places, states, strict=True))
        return [made[place] for place in range(len(chunks))]

    def _pool(self, chunks: Sequence[Tensor]) -> Tensor:
        """(d,): what stands for a text, of the states of its chunks."""
        return pool_words(torch.cat([states[1:-1] for states in chunks]), chunks[0][-1], self.space.pooling)

    @torch.no_grad()
    def _projected(self, states: Tensor) -> Tensor:
        if self._clip is None:
            return states
        return self._clip.model.text_projection(states.to(self._bundle.device)).float().cpu()


class ClipFeatures:
    """Vectors by a CLIPModel in a folder of its own, which knows nothing of learned embeddings."""

    def __init__(self, folder: Path, device: torch.device):
        self._clip = load_clip(folder, device)
        self.space = VectorSpace(hash_files(sorted(folder.glob("*.safetensors"))), str(folder), "eos")

    def texts(self, texts: Sequence[str], embeddings: Mapping[str, Embedding]) -> Tensor:
        """(n, d) for n texts as they stand, cut at the context's end.

        Raises:
            InputError: a text that names an embedding.
        """
        for name in embeddings:
            if any(f"<{name}>" in text for text in texts):
                raise InputError(
                    f"--clip {self.space.source}: was not made for <{name}>; search with --model instead"
                )
        blocks = (list(texts[start : start + BLOCK]) for start in range(0, len(texts), BLOCK))
        return torch.cat([self._clip.texts(block).cpu() for block in blocks])

    def tokens(self, tokens: Sequence[str]) -> Tensor:
        """(n, d) for n vocabulary tokens, as words."""
        return self.texts([token_text(token) for token in tokens], {})

    def images(self, paths: Sequence[Path]) -> Tensor:
        """(n, d) for n image files.

        Raises:
            InputError: a file that is no image.
        """
        return image_features(self._clip, paths, most=None).cpu()
