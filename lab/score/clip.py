"""CLIP as a judge: images and texts to features of unit length."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.images import read_pixels
from lab.models.bundle import Bundle
from lab.models.clip import LoadedClip, load_clip
from lab.text import check_text

RESAMPLING = {0: "nearest", 1: "bicubic", 2: "bilinear", 3: "bicubic", 4: "area", 5: "bilinear"}
"""Pillow's numbers of its filters, and the nearest of `torch.nn.functional.interpolate` (bicubic is Pillow's own)."""


@dataclass(frozen=True)
class Preparation:
    """How pixels are made ready for a network.

    Attributes:
        side: Pixels of the square that the network takes.
        mean, std: Of each channel, in 0..1.
        mode: The `interpolate` mode.
    """

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str = "bicubic"

    def __call__(self, pixels: Tensor) -> Tensor:
        """(n, 3, H, W) in 0..1 -> (n, 3, side, side), normalised: shorter side fitted, centre cut out."""
        height, width = pixels.shape[-2:]
        if (height, width) != (self.side, self.side):
            scale = self.side / min(height, width)
            size = max(round(height * scale), self.side), max(round(width * scale), self.side)
            smooth = self.mode in ("bilinear", "bicubic")
            pixels = F.interpolate(pixels, size, mode=self.mode, antialias=smooth).clamp(0, 1)
            top, left = (size[0] - self.side) // 2, (size[1] - self.side) // 2
            pixels = pixels[..., top : top + self.side, left : left + self.side]
        mean, std = (torch.tensor(channels).view(-1, 1, 1).to(pixels) for channels in (self.mean, self.std))
        return (pixels - mean) / std


class Clip:
    """A CLIPModel that judges."""

    def __init__(self, loaded: LoadedClip):
        self._model = loaded.model
        self._tokenizer = loaded.tokenizer
        self._prepare = Preparation(
            loaded.image_size, loaded.mean, loaded.std, RESAMPLING.get(loaded.resample, "bicubic")
        )
        self._texts: dict[str, Tensor] = {}

    @property
    def scale(self) -> Tensor:
        """The learned factor (exp of the logit scale) that cosines are multiplied with in training."""
        return self._model.logit_scale.exp()

    @property
    def width(self) -> int:
        """Length of a feature vector."""
        return self._model.config.projection_dim

    def images(self, pixels: Tensor) -> Tensor:
        """Features (n, p) float32 of unit length, of pixels (n, 3, H, W) in 0..1; differentiable."""
        prepared = self._prepare(pixels.to(self._model.device, torch.float32))
        return _unit(self._model.get_image_features(pixel_values=prepared))

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Features (n, p) float32 of unit length; each distinct text is encoded once and cut at the context's end.

        Raises:
            InputError: a text with half a character.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        for text in new:
            check_text(text)
        if new:
            length = min(
                self._model.config.text_config.max_position_embeddings, self._tokenizer.model_max_length
            )
            tokens = self._tokenizer(
                new, padding=True, truncation=True, max_length=length, return_tensors="pt"
            ).to(self._model.device)
            features = _unit(
                self._model.get_text_features(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
                )
            )
            self._texts.update(zip(new, features, strict=True))
        return torch.stack([self._texts[text] for text in texts])


def open_clip(bundle: Bundle, folder: Path | None = None) -> Clip | None:
    """The CLIP in a folder, or else the bundle's own, or None if it has none.

    Raises:
        InputError: no CLIPModel in the folder.
    """
    if folder is None and bundle.clip_folder is None:
        return None
    return Clip(load_clip(folder or bundle, bundle.device))


MOST_IMAGES = 64
"""Images that are looked at to learn what a folder shows; more change little."""


@torch.no_grad()
def image_features(clip: Clip, paths: Sequence[Path], most: int | None = MOST_IMAGES) -> Tensor:
    """(n, p) float32 features of unit length of the first `most` image files (None: of all), read one at a time.

    Raises:
        InputError: a file that is no image.
    """
    return torch.cat([clip.images(read_pixels(path)[None]) for path in paths[:most]])


def _unit(output: Any) -> Tensor:
    """(n, p) float32 features of unit length, of what a CLIPModel gives."""
    rows = getattr(output, "pooler_output", output)  # transformers 5 gives an output object
    return F.normalize(rows.float(), dim=-1)
