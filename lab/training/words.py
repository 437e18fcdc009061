"""Words of the vocabulary that say what images show, by CLIP."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from lab.models.bundle import Bundle
from lab.models.vocabulary import whole_words
from lab.score.clip import Clip, image_features

_BATCH = 1024


def nearest_words(bundle: Bundle, clip: Clip, images: Sequence[Path]) -> Callable[[int], list[str]]:
    """A function that gives the n words whose text features are nearest the mean of the images' features."""

    def find(count: int) -> list[str]:
        words = whole_words(bundle.towers[0].tokenizer)
        shown = F.normalize(image_features(clip, images).mean(dim=0), dim=0)
        batches = [words[start : start + _BATCH] for start in range(0, len(words), _BATCH)]
        cosines = torch.cat([clip.texts(batch) @ shown for batch in batches])
        return [words[place] for place in cosines.topk(min(count, len(words))).indices.tolist()]

    return find
