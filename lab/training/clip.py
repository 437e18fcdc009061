"""CLIP, as far as training needs it: words that say what images show, and how like two sets of images are."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from transformers import CLIPModel

from lab.errors import InputError
from lab.models.bundle import Bundle

BATCH = 256
SHORTEST_WORD = 3
"""Letters; shorter tokens are mostly parts of words."""

MOST_IMAGES = 64
"""Images that `auto` and the similarity curve look at; more change little."""


class Clip:
    """Image and word features of unit length, (n, p) float32 on the CPU."""

    def __init__(self, bundle: Bundle, folder: Path):
        self._tokenizer = bundle.towers[0].tokenizer
        self._device = bundle.device
        try:
            model, found = CLIPModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
            if any(key.startswith("text_model.") for key in found["missing_keys"]):
                _take_text_tower(model, bundle)
            self._model = model.to(bundle.device).eval()
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: no CLIPModel there: {error}") from None
        self._side = self._model.config.vision_config.image_size
        stated = folder / "preprocessor_config.json"
        settings = json.loads(stated.read_text(encoding="utf-8")) if stated.is_file() else {}
        self._mean = settings.get("image_mean", [0.5, 0.5, 0.5])
        self._std = settings.get("image_std", [0.5, 0.5, 0.5])

    @torch.no_grad()
    def images(self, images: Iterable[Image.Image]) -> Tensor:
        """Features of images."""
        pixels = torch.stack([self._pixels(image) for image in images]).to(self._device)
        found = [self._model.get_image_features(pixel_values=some) for some in pixels.split(BATCH)]
        return _unit(found)

    def _pixels(self, image: Image.Image) -> Tensor:
        fitted = ImageOps.fit(image.convert("RGB"), (self._side, self._side), Image.Resampling.BICUBIC)
        array = (np.asarray(fitted, dtype=np.float32) / 255 - self._mean) / self._std
        return torch.from_numpy(array).float().permute(2, 0, 1)

    @torch.no_grad()
    def words(self) -> tuple[list[str], Tensor]:
        """The vocabulary's whole words, and the features of each: as a text of its own, without padding."""
        ids = {
            token.removesuffix("</w>"): number
            for token, number in self._tokenizer.get_vocab().items()
            if token.endswith("</w>") and token[:-4].isalpha() and len(token) >= SHORTEST_WORD + 4
        }
        start, end = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        rows = torch.tensor([[start, number, end] for number in ids.values()], device=self._device)
        return list(ids), _unit([self._model.get_text_features(input_ids=some) for some in rows.split(BATCH)])


def _take_text_tower(model: CLIPModel, bundle: Bundle) -> None:
    """Completes a model whose text half is the bundle's first text encoder, stored once."""
    weights = bundle.towers[0].encoder.state_dict()
    model.text_model.load_state_dict(
        {key.removeprefix("text_model."): value for key, value in weights.items()}
    )


def nearest_words(clip: Clip, images: Sequence[Path]) -> Callable[[int], list[str]]:
    """A function that gives the n words whose features are nearest the mean of the images'."""

    def find(count: int) -> list[str]:
        words, features = clip.words()
        shown = clip.images(map(Image.open, images[:MOST_IMAGES])).mean(dim=0)
        best = (features @ shown).topk(min(count, len(words))).indices.tolist()
        return [words[place] for place in best]

    return find


def _unit(found: Iterable[Tensor]) -> Tensor:
    rows = [getattr(some, "pooler_output", some) for some in found]  # transformers 5 gives an output object
    return F.normalize(torch.cat(rows).float(), dim=-1).cpu()
