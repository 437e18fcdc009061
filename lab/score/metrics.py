"""The metrics: one signature, one table entry each; choices, help and checks of `--metrics` come from the table.

A metric takes a `Batch` and returns a value for each of its images, (n,), or for all of them together, a scalar. The
table is read without the engine: what needs torch is imported where a value is computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lab.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from lab.score.tools import Batch, Tools


@dataclass(frozen=True)
class Metric:
    """One metric, an entry of `METRICS`.

    Attributes:
        label: What it measures, as a sentence can name it: "raises ...".
        unit: Of its values.
        low, high: The range of its values.
        better: 1 if higher is better, -1 if lower is, 0 if neither is.
        source: The paper or the tool.
        compute: Values (n,) of a batch's images, or a scalar where one value speaks of several images.
        needs: The attributes of `Tools` without which it cannot run.
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
    compute: "Callable[[Batch], Tensor]"
    needs: tuple[str, ...] = ()
    over: Literal["image", "prompt", "variant"] = "image"
    paired: bool = False
    differentiable: bool = True


def _clip_text(batch: "Batch") -> "Tensor":
    assert batch.tools.clip is not None
    return (batch.features * batch.tools.clip.texts(batch.texts)).sum(dim=-1)


def _clip_reference(batch: "Batch") -> "Tensor":
    assert batch.tools.references is not None
    return (batch.features @ batch.tools.references.T).mean(dim=-1)


def _clip_between(batch: "Batch") -> "Tensor":
    assert batch.tools.between is not None
    return batch.features @ batch.tools.between


def _clip_baseline(batch: "Batch") -> "Tensor":
    return (batch.features * batch.baseline_features).sum(dim=-1)


def _ssim_baseline(batch: "Batch") -> "Tensor":
    from lab.score.formulas import ssim

    if batch.baseline is None or batch.baseline.shape != batch.pixels.shape:  # models of different sizes
        return batch.pixels.new_full((len(batch.pixels),), float("nan"))
    return ssim(batch.pixels, batch.baseline)


def _diversity(batch: "Batch") -> "Tensor":
    from lab.score.formulas import diversity

    return diversity(batch.features)


def _cmmd(batch: "Batch") -> "Tensor":
    from lab.score.formulas import cmmd

    assert batch.tools.references is not None
    return cmmd(batch.features, batch.tools.references)


def _sharpness(batch: "Batch") -> "Tensor":
    from lab.score.formulas import sharpness

    return sharpness(batch.pixels)


def _colourfulness(batch: "Batch") -> "Tensor":
    from lab.score.formulas import colourfulness

    return colourfulness(batch.pixels)


def _degraded(batch: "Batch") -> "Tensor":
    assert batch.tools.quality is not None
    return batch.tools.quality.degraded(batch.pixels)


def _pickscore(batch: "Batch") -> "Tensor":
    clip = batch.tools.pickscore
    assert clip is not None
    return clip.scale * (clip.images(batch.pixels) * clip.texts(batch.texts)).sum(dim=-1)


def _hpsv2(batch: "Batch") -> "Tensor":
    judge = batch.tools.hpsv2
    assert judge is not None
    return (judge.images(batch.pixels) * judge.texts(batch.texts)).sum(dim=-1)


def _dino_reference(batch: "Batch") -> "Tensor":
    assert batch.tools.dino is not None and batch.tools.dino_references is not None
    return (batch.tools.dino.images(batch.pixels) @ batch.tools.dino_references.T).mean(dim=-1)


def _aesthetic(batch: "Batch") -> "Tensor":
    assert batch.tools.aesthetic is not None
    return batch.tools.aesthetic(batch.features).squeeze(-1)


INFINITE = float("inf")

METRICS: dict[str, Metric] = {
    "clip_text": Metric(
        label="CLIP similarity to the prompt",
        unit="cosine",
        low=-1,
        high=1,
        better=1,
        source="Radford et al. 2103.00020; Hessel et al. 2104.08718 without their factor of 2.5",
        compute=_clip_text,
        needs=("clip",),
    ),
    "clip_reference": Metric(
        label="CLIP similarity to the reference images",
        unit="cosine",
        low=-1,
        high=1,
        better=1,
        source="CLIP-I as in Gal et al. 2208.01618",
        compute=_clip_reference,
        needs=("clip", "references"),
    ),
    "clip_between": Metric(
        label="CLIP similarity to the second of two texts or folders rather than to the first",
        unit="difference of cosines",
        low=-2,
        high=2,
        better=0,
        source="a direction in CLIP's space, as in Gal et al. 2108.00946",
        compute=_clip_between,
        needs=("clip", "between"),
    ),
    "clip_baseline": Metric(
        label="CLIP similarity to the baseline's image",
        unit="cosine",
        low=-1,
        high=1,
        better=0,
        source="Radford et al. 2103.00020",
        compute=_clip_baseline,
        needs=("clip",),
        paired=True,
    ),
    "ssim_baseline": Metric(
        label="structural similarity to the baseline's image",
        unit="SSIM",
        low=-1,
        high=1,
        better=0,
        source="Wang et al. 2004, eq. 13",
        compute=_ssim_baseline,
        paired=True,
    ),
    "diversity": Metric(
        label="diversity within a prompt",
        unit="mean pairwise CLIP distance",
        low=0,
        high=2,
        better=1,
        source="Ruiz et al. 2208.12242, DIV",
        compute=_diversity,
        needs=("clip",),
        over="prompt",
    ),
    "cmmd": Metric(
        label="distance to the reference images",
        unit="CMMD",
        low=0,
        high=INFINITE,
        better=-1,
        source="Jayasumana et al. 2401.09603",
        compute=_cmmd,
        needs=("clip", "references"),
        over="variant",
    ),
    "sharpness": Metric(
        label="sharpness",
        unit="variance of the Laplacian",
        low=0,
        high=INFINITE,
        better=0,
        source="Pech-Pacheco et al. 2000",
        compute=_sharpness,
    ),
    "colourfulness": Metric(
        label="colourfulness",
        unit="M3",
        low=0,
        high=INFINITE,
        better=0,
        source="Hasler & Suesstrunk 2003",
        compute=_colourfulness,
    ),
    "degraded": Metric(
        label="the probability of a degraded image",
        unit="probability",
        low=0,
        high=1,
        better=-1,
        source="the model's quality classifier",
        compute=_degraded,
        needs=("quality",),
    ),
    "pickscore": Metric(
        label="PickScore",
        unit="logit",
        low=-INFINITE,
        high=INFINITE,
        better=1,
        source="Kirstain et al. 2305.01569",
        compute=_pickscore,
        needs=("pickscore",),
    ),
    "hpsv2": Metric(
        label="HPSv2",
        unit="cosine",
        low=-1,
        high=1,
        better=1,
        source="Wu et al. 2306.09341",
        compute=_hpsv2,
        needs=("hpsv2",),
    ),
    "dino_reference": Metric(
        label="DINOv2 similarity to the reference images",
        unit="cosine",
        low=-1,
        high=1,
        better=1,
        source="DINO as in Ruiz et al. 2208.12242, with Oquab et al. 2304.07193",
        compute=_dino_reference,
        needs=("dino", "references"),
    ),
    "aesthetic": Metric(
        label="the aesthetic score",
        unit="rating of 1 to 10",
        low=-INFINITE,
        high=INFINITE,
        better=1,
        source="LAION aesthetic predictors",
        compute=_aesthetic,
        needs=("clip", "aesthetic"),
    ),
}


def choose_metrics(asked: Sequence[str], tools: "Tools") -> tuple[list[str], dict[str, str]]:
    """The metrics to compute: those asked for, or all that can run if none is.

    Returns:
        Their names, and where none was asked for, the reason for each of the others why it cannot run.

    Raises:
        InputError: an unknown metric (with the nearest names), or one that was asked for and cannot run here (with
            the reason).
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
