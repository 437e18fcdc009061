"""Words of the vocabulary that say what images show, by CLIP."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.images import read_pixels
from lab.models.bundle import Bundle
from lab.models.clip import load_clip
from lab.score.clip import Clip

MOST_IMAGES = 64
"""Images that are looked at; more change little."""

_SHORTEST = 3
"""Letters; shorter tokens are mostly parts of words."""

_BATCH = 1024


def open_clip(bundle: Bundle, folder: Path | None) -> Clip | None:
    """The CLIP in a folder, or else the bundle's own, if it has one.

    Raises:
        InputError: no CLIPModel in the folder.
    """
    if folder is None and bundle.clip_folder is None:
        return None
    return Clip(load_clip(folder or bundle, bundle.device))


def image_features(clip: Clip, paths: Sequence[Path]) -> Tensor:
    """(n, p) features of unit length of the first images."""
    with torch.no_grad():
        return torch.cat([clip.images(read_pixels(path)[None]) for path in paths[:MOST_IMAGES]])


def nearest_words(bundle: Bundle, clip: Clip, images: Sequence[Path]) -> Callable[[int], list[str]]:
    """A function that gives the n words whose text features are nearest the mean of the images' features."""

    def find(count: int) -> list[str]:
        words = vocabulary_words(bundle)
        shown = F.normalize(image_features(clip, images).mean(dim=0), dim=0)
        batches = [words[start : start + _BATCH] for start in range(0, len(words), _BATCH)]
        cosines = torch.cat([clip.texts(batch) @ shown for batch in batches])
        return [words[place] for place in cosines.topk(min(count, len(words))).indices.tolist()]

    return find


def vocabulary_words(bundle: Bundle) -> list[str]:
    """The tokens of the first text encoder that are words by themselves."""
    tokens = (token for token in bundle.towers[0].tokenizer.get_vocab() if token.endswith("</w>"))
    words = (token.removesuffix("</w>") for token in tokens)
    return sorted(word for word in words if word.isalpha() and len(word) >= _SHORTEST)
