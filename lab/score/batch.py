"""What metrics are asked about: images, what they shall show, and the images that they are compared with."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from lab.score.tools import Tools


class Batch:
    """Images to judge, with what each shall show and, where it has one, its counterpart in the baseline.

    Gradients flow from the metrics to `pixels` if it asks for them.
    """

    def __init__(
        self,
        tools: "Tools",
        pixels: "Tensor",
        texts: Sequence[str] = (),
        baseline: "Tensor | None" = None,
        features: "Tensor | None" = None,
        baseline_features: "Tensor | None" = None,
    ):
        """Takes what is known of n images.

        Args:
            tools: The judges.
            pixels: (n, 3, H, W) in 0..1.
            texts: What the n images shall show, without weight syntax and names of embeddings.
            baseline: Pixels of the images' counterparts in the baseline, with the same prompt and noise.
            features, baseline_features: (n, p) CLIP features of both where they are known; else they are computed
                when a metric first asks.
        """
        self.tools = tools
        self.pixels = pixels
        self.texts = texts
        self.baseline = baseline
        if features is not None:
            self.features = features
        if baseline_features is not None:
            self.baseline_features = baseline_features

    @cached_property
    def features(self) -> "Tensor":
        """(n, p) CLIP features of unit length of the images; differentiable with respect to `pixels`."""
        assert self.tools.clip is not None
        return self.tools.clip.images(self.pixels)

    @cached_property
    def baseline_features(self) -> "Tensor":
        """(n, p) CLIP features of unit length of the images' counterparts in the baseline."""
        assert self.tools.clip is not None and self.baseline is not None
        return self.tools.clip.images(self.baseline)
