"""The metrics: one signature, one table entry each.

A metric takes a `Batch` and returns a value for each of its images, (n,), or for all of them together, a scalar.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from lab.errors import InputError, did_you_mean
from lab.score import sets, structure
from lab.score.tools import Tools


class Batch:
    """Images to judge, with what each shall show and, where it has one, its counterpart in the baseline.

    Gradients flow from the metrics to `pixels` if it asks for them.
    """

    def __init__(
        self,
        tools: Tools,
        pixels: Tensor,
        texts: Sequence[str] = (),
        baseline: Tensor | None = None,
        features: Tensor | None = None,
        baseline_features: Tensor | None = None,
    ):
        """Takes pixels (n, 3, H, W) in 0..1, n texts without weight syntax, and the baseline's pixels.

        CLIP features (n, p) that are known already are not computed again.
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
    def features(self) -> Tensor:
        """(n, p) CLIP features of unit length."""
        assert self.tools.clip is not None
        return self.tools.clip.images(self.pixels)

    @cached_property
    def baseline_features(self) -> Tensor:
        """(n, p) CLIP features of the baseline's images."""
        assert self.tools.clip is not None and self.baseline is not None
        return self.tools.clip.images(self.baseline)


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        label: What it measures, as a sentence can name it.
        unit: Of its values; empty for a bare number.
        low, high: The range of its values.
        better: 1 if higher is better, -1 if lower is, 0 if neither is.
        source: The paper or the tool.
        compute: The function.
        needs: The tools without which it cannot run.
        over: What one value speaks of: an image, all images of a prompt, or all images of a variant.
        paired: Compares each image with its counterpart in the baseline, so that the baseline's own value is fixed.
        differentiable: With respect to the pixels.
    """

    label: str
    unit: str
    low: float
    high: float
    better: Literal[-1, 0, 1]
    source: str
    compute: Callable[[Batch], Tensor]
    needs: tuple[str, ...] = ()
    over: Literal["image", "prompt", "variant"] = "image"
    paired: bool = False
    differentiable: bool = True


def _clip_text(batch: Batch) -> Tensor:
    assert batch.tools.clip is not None
    return (batch.features * batch.tools.clip.texts(batch.texts)).sum(dim=-1)


def _clip_reference(batch: Batch) -> Tensor:
    assert batch.tools.references is not None
    return (batch.features @ batch.tools.references.T).mean(dim=-1)


def _clip_baseline(batch: Batch) -> Tensor:
    return (batch.features * batch.baseline_features).sum(dim=-1)


def _ssim_baseline(batch: Batch) -> Tensor:
    if batch.baseline is None or batch.baseline.shape != batch.pixels.shape:  # models of different sizes
        return batch.pixels.new_full((len(batch.pixels),), torch.nan)
    return structure.ssim(batch.pixels, batch.baseline)


def _cmmd(batch: Batch) -> Tensor:
    assert batch.tools.references is not None
    return sets.cmmd(batch.features, batch.tools.references)


def _degraded(batch: Batch) -> Tensor:
    assert batch.tools.quality is not None
    return batch.tools.quality.degraded(batch.pixels)


def _pickscore(batch: Batch) -> Tensor:
    judge = batch.tools.pickscore
    assert judge is not None
    return judge.scale * (judge.images(batch.pixels) * judge.texts(batch.texts)).sum(dim=-1)


def _aesthetic(batch: Batch) -> Tensor:
    assert batch.tools.aesthetic is not None
    return batch.tools.aesthetic(batch.features).squeeze(-1)


INFINITE = float("inf")
CLIP_SCORE = "Radford et al. 2103.00020; Hessel et al. 2104.08718 without their factor of 2.5"

METRICS: Mapping[str, Metric] = {
    "clip_text": Metric(
        "CLIP similarity to the prompt", "cosine", -1, 1, 1, CLIP_SCORE, _clip_text, ("clip",)
    ),
    "clip_reference": Metric(
        *("CLIP similarity to the reference images", "cosine", -1, 1, 1),
        *("CLIP-I as in Gal et al. 2208.01618", _clip_reference, ("clip", "references")),
    ),
    "clip_baseline": Metric(
        *("CLIP similarity to the baseline's image", "cosine", -1, 1, 0, "Radford et al. 2103.00020"),
        *(_clip_baseline, ("clip",), "image", True),
    ),
    "ssim_baseline": Metric(
        *("structural similarity to the baseline's image", "SSIM", -1, 1, 0, "Wang et al. 2004, eq. 13"),
        *(_ssim_baseline, (), "image", True),
    ),
    "diversity": Metric(
        *("diversity within a prompt", "mean pairwise CLIP distance", 0, 2, 1, "Ruiz et al. 2208.12242, DIV"),
        *(lambda batch: sets.diversity(batch.features), ("clip",), "prompt"),
    ),
    "cmmd": Metric(
        *("distance to the reference images", "CMMD", 0, INFINITE, -1, "Jayasumana et al. 2401.09603"),
        *(_cmmd, ("clip", "references"), "variant"),
    ),
    "sharpness": Metric(
        *("sharpness", "variance of the Laplacian", 0, INFINITE, 0, "Pech-Pacheco et al. 2000"),
        lambda batch: structure.sharpness(batch.pixels),
    ),
    "colourfulness": Metric(
        *("colourfulness", "M3", 0, INFINITE, 0, "Hasler & Suesstrunk 2003"),
        lambda batch: structure.colourfulness(batch.pixels),
    ),
    "degraded": Metric(
        *("the probability of a degraded image", "probability", 0, 1, -1, "the model's quality classifier"),
        *(_degraded, ("quality",)),
    ),
    "pickscore": Metric(
        *("PickScore", "logit", -INFINITE, INFINITE, 1, "Kirstain et al. 2305.01569"),
        *(_pickscore, ("pickscore",)),
    ),
    "aesthetic": Metric(
        *("the aesthetic score", "rating of 1 to 10", -INFINITE, INFINITE, 1, "LAION aesthetic predictors"),
        *(_aesthetic, ("clip", "aesthetic")),
    ),
}


def choose_metrics(asked: Sequence[str], tools: Tools) -> tuple[list[str], dict[str, str]]:
    """The metrics to compute, and for the others why they are not: all that can run if none is asked for.

    Raises:
        InputError: an unknown metric (with the nearest names), or one that cannot run here (with the reason).
    """
    for name in asked:
        if name not in METRICS:
            raise InputError(f"metrics: unknown metric '{name}'{did_you_mean(name, METRICS)}")
        reason = tools.why_not(METRICS[name].needs)
        if reason:
            raise InputError(f"metrics: '{name}' cannot run here: {reason}")
    reasons = {name: tools.why_not(metric.needs) for name, metric in METRICS.items()}
    if asked:
        return list(dict.fromkeys(asked)), {}
    return [name for name, reason in reasons.items() if reason is None], {
        name: reason for name, reason in reasons.items() if reason is not None
    }
