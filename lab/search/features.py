"""Rows and queries as vectors of one space, in which near means alike."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lab.condition.encode import encode
from lab.condition.options import Dialect
from lab.condition.pooling import Pool, pool
from lab.condition.towers import layers_back, run_tower
from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.models.bundle import Bundle, TextTower
from lab.models.clip import LoadedClip, load_clip
from lab.models.weights import sha256
from lab.score.clip import Clip
from lab.score.pixels import read_pixels

BLOCK = 256
"""Texts encoded together: what is kept of each is one vector, not its rows."""

TOKEN_BLOCK = 4096
"""Vocabulary tokens encoded together."""

WORD_END = "</w>"


class Features(Protocol):
    """Turns texts, vocabulary tokens and images into vectors (n, d), float32 on the CPU.

    Attributes:
        model: SHA-256 of the weights that make the vectors.
        source: The model by its name.
        pooling: What stands for a text.
    """

    model: str
    source: str
    pooling: Pool

    def texts(self, texts: Sequence[str], embeddings: Mapping[str, Embedding]) -> Tensor:
        """Vectors of texts, which may name embeddings."""

    def tokens(self, tokens: Sequence[str]) -> Tensor:
        """Vectors of vocabulary tokens, each a text of its own."""

    def images(self, paths: Sequence[Path]) -> Tensor:
        """Vectors of images."""


class BundleFeatures:
    """Vectors by a bundle's own text encoders.

    End tokens' states go through CLIP's projection where the bundle has its vision half; texts then compare with
    images (Radford et al. 2103.00020, figure 3). Otherwise vectors are the encoders' states.
    """

    def __init__(self, bundle: Bundle, pooling: Pool = "eos", dialect: Dialect = "a1111"):
        self._bundle = bundle
        self._dialect = dialect
        self._context = min(tower.context_length for tower in bundle.towers)
        complete = pooling == "eos" and bundle.clip_folder is not None and len(bundle.towers) == 1
        self._clip: LoadedClip | None = load_clip(bundle) if complete else None
        self.model, self.source, self.pooling = bundle.hash, bundle.source, pooling

    def texts(self, texts: Sequence[str], embeddings: Mapping[str, Embedding]) -> Tensor:
        """Vectors of texts, of prompts with schedules those of what is in force first."""
        blocks = (texts[start : start + BLOCK] for start in range(0, len(texts), BLOCK))
        return torch.cat([self._projected(self._pooled(block, embeddings)) for block in blocks])

    @torch.no_grad()
    def tokens(self, tokens: Sequence[str]) -> Tensor:
        """Vectors of vocabulary tokens: start, token and end alone, since nothing after it changes a state."""
        row = 2 if self.pooling == "eos" else 1
        blocks, towers = [], self._bundle.towers
        for start in range(0, len(tokens), TOKEN_BLOCK):
            states = [self._states(tower, tokens[start : start + TOKEN_BLOCK])[:, row] for tower in towers]
            blocks.append(self._projected(torch.cat(states, dim=-1)))
        return torch.cat(blocks)

    def images(self, paths: Sequence[Path]) -> Tensor:
        """Vectors of images.

        Raises:
            InputError: the texts' vectors do not compare with images.
        """
        if self.pooling != "eos":
            raise InputError(f"pooling '{self.pooling}' cannot be compared with images; use --pooling eos")
        if self._clip is None:
            raise InputError(
                f"{self.source}: has no vision half, so images cannot be searched with it; give --clip FOLDER"
            )
        return _image_vectors(Clip(self._clip), paths)

    def _states(self, tower: TextTower, tokens: Sequence[str]) -> Tensor:
        """(n, 3, width): what conditions the U-Net, for texts of one token each."""
        tokenizer, family = tower.tokenizer, self._bundle.family
        ids = [
            [tokenizer.bos_token_id, number, tokenizer.eos_token_id]
            for number in tokenizer.convert_tokens_to_ids(list(tokens))
        ]
        batch = torch.tensor(ids, device=self._bundle.device)
        return run_tower(family, tower, batch, layers_back(family, tower, 0))[0].float().cpu()

    def _pooled(self, texts: Sequence[str], embeddings: Mapping[str, Embedding]) -> Tensor:
        found = encode(self._bundle, list(texts), embeddings, self._dialect, "ignore", steps=1)
        first = [cond.parts[0].entries[0][1] for cond in found]
        return torch.stack([pool(encoding, self.pooling, self._context) for encoding in first])

    @torch.no_grad()
    def _projected(self, states: Tensor) -> Tensor:
        if self._clip is None:
            return states
        return self._clip.model.text_projection(states.to(self._bundle.device)).float().cpu()


class ClipFeatures:
    """Vectors by a CLIPModel in a folder of its own, which knows nothing of learned embeddings."""

    pooling: Pool = "eos"

    def __init__(self, folder: Path, device: torch.device):
        self._clip = Clip(load_clip(folder, device))
        self.model, self.source = sha256(sorted(folder.glob("*.safetensors"))), str(folder)

    def texts(self, texts: Sequence[str], embeddings: Mapping[str, Embedding]) -> Tensor:
        """Vectors of texts as they stand, cut at the context's end."""
        for name in embeddings:
            if any(f"<{name}>" in text for text in texts):
                raise InputError(
                    f"--clip {self.source}: was not made for <{name}>; search with --model instead"
                )
        blocks = (list(texts[start : start + BLOCK]) for start in range(0, len(texts), BLOCK))
        return torch.cat([self._clip.texts(block).cpu() for block in blocks])

    def tokens(self, tokens: Sequence[str]) -> Tensor:
        """Vectors of vocabulary tokens, as words."""
        return self.texts([token.removesuffix(WORD_END) for token in tokens], {})

    def images(self, paths: Sequence[Path]) -> Tensor:
        """Vectors of images."""
        return _image_vectors(self._clip, paths)


@torch.no_grad()
def _image_vectors(clip: Clip, paths: Sequence[Path]) -> Tensor:
    return torch.cat([clip.images(read_pixels(path)[None]).cpu() for path in paths])
