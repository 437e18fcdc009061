"""Knock-outs: which parts of a prompt there are, what each does, and whether attention looks where that is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import stats
from torch import Tensor

from lab.analysis.heatmaps import HeatMaps, Target, check_target, heat_maps, overlay
from lab.comparing.cells import is_own, plan_cells
from lab.comparing.config import EACH, CompareConfig, with_knock_outs
from lab.comparing.experiment import Experiment, Variant
from lab.comparing.panels import PanelPicture, ReportPanel, as_png
from lab.comparing.scores import Scores
from lab.comparing.statistics import measure
from lab.condition.config import TextOptions
from lab.condition.encode import encode
from lab.condition.prompt_parts import END, PADDING, POOLED, parts_of
from lab.embeddings.library import Sources
from lab.errors import InputError
from lab.images import read_pixels
from lab.listening import Listener
from lab.models.bundle import Bundle

HARDLY = 0.95
"""Structural similarity to the whole prompt's images from which a part is said to do next to nothing."""

PLACES = 16
"""Places along each side of an image, over which attention and change are held against each other."""

MAPPED_SEEDS, MOST_SHOWN = 4, 12
"""Images that maps are taken of, and parts whose maps are shown: those that change the image most."""


def with_parts(bundle: Bundle, config: CompareConfig, embeddings: Sources = ()) -> CompareConfig:
    """The config with an axis over the parts of its prompts, where it asks for each (`knock_out: prompt`).

    Parts are words, learned vectors, the end token, the padding and SDXL's pooled text. Of several prompts, those
    that all have.

    Raises:
        InputError: prompts that cannot be read, or that have no part in common.
    """
    if config.knock_out != EACH or not config.prompts:
        return config
    options = {name: getattr(config, name) for name in TextOptions.model_fields if name != "knock_out"}
    encoded = encode(bundle, config.prompts, TextOptions.build(options), embeddings=embeddings)
    parts = [parts_of(one.first) for one in encoded]
    shared = [part for part in parts[0] if all(part in other for other in parts)]
    if config.knock_out_by == "text":
        shared = list(dict.fromkeys(_as_text(part) for part in shared if part not in (END, PADDING, POOLED)))
    if not shared:
        raise InputError("knock_out: the prompts have no word in common to leave out; give one prompt")
    return with_knock_outs(config, shared)


def _as_text(part: str) -> str:
    """A part as the prompt writes it: an embedding's vectors cannot be left out one by one."""
    return part.rpartition(":")[0] if part.startswith("<") else part


@dataclass(frozen=True)
class _Change:
    """What a part does on some seeds of the first prompt.

    Attributes:
        seen: (seeds, H, W) the share of attention that goes to it, or None for what is no word.
        changed: (seeds, H, W) how much the images differ without it, in 0..1.
    """

    part: str
    seen: Tensor | None
    changed: Tensor

    @property
    def agreement(self) -> float | None:
        """The mean correlation, over seeds, of attention and change over 16 x 16 places; None without attention."""
        if self.seen is None:
            return None
        pairs = zip(_coarse(self.seen), _coarse(self.changed), strict=True)
        found = [np.corrcoef(one, other)[0, 1] for one, other in pairs if one.std() > 0 and other.std() > 0]
        return float(np.mean(found)) if found else None


def _coarse(maps: Tensor) -> np.ndarray:
    return F.adaptive_avg_pool2d(maps, PLACES).flatten(1).double().numpy()


def knock_out_panels(
    bundle: Bundle,
    experiment: Experiment,
    scores: Scores,
    files: Mapping[int, Path],
    listener: Listener = Listener(),
) -> list[ReportPanel]:
    """The panel of a comparison that knocks parts out: what each does beside where attention sees it; none of others.

    Args:
        files: The images, by the index of their cell.
        listener: Hears which parts do next to nothing.
    """
    axis = next((name for name in ("knock_out", "left_out") if name in experiment.config.axes), None)
    base = experiment.cell(experiment.baseline, 0, 0)
    if axis is None or not is_own(bundle, base) or bundle.options.compile:
        return []
    variants = {
        variant.labels[axis]: variant for variant in experiment.variants if _alone(experiment, variant, axis)
    }
    seeds = range(min(len(experiment.seeds), MAPPED_SEEDS))
    jobs = plan_cells(bundle, experiment, [experiment.cell(experiment.baseline, 0, seed) for seed in seeds])
    maps = heat_maps(bundle, jobs)
    changes = [
        _Change(part, _seen(maps, part), _changed(experiment, variant, files, seeds))
        for part, variant in variants.items()
    ]
    changes.sort(key=lambda change: -float(change.changed.mean()))
    text = [*_nothing_done(experiment, scores, variants), *_agreement(changes), *_shown(changes)]
    listener.note(text[0])
    pictures = [_picture(change, maps[0].image, changes) for change in changes[:MOST_SHOWN]]
    return [ReportPanel("What each part of the prompt does", " ".join(text), pictures)]


def _alone(experiment: Experiment, variant: Variant, axis: str) -> bool:
    """Whether a variant differs from the baseline in what it knocks out, and in nothing else."""
    base = experiment.baseline.labels
    return {name for name, label in variant.labels.items() if label != base[name]} == {axis}


def _seen(maps: Sequence[HeatMaps], part: str) -> Tensor | None:
    if part in (END, PADDING, POOLED):
        return None
    target = Target(_as_text(part))
    try:
        check_target(maps[0].job, target)
    except InputError:  # cut between chunks, or only in what AND joins
        return None
    return torch.stack([one.of(target) for one in maps])


def _changed(experiment: Experiment, variant: Variant, files: Mapping[int, Path], seeds: range) -> Tensor:
    def pixels(one: Variant) -> Tensor:
        return torch.stack([read_pixels(files[experiment.cell(one, 0, seed).picture]) for seed in seeds])

    return (pixels(variant) - pixels(experiment.baseline)).abs().mean(dim=1)


def _nothing_done(experiment: Experiment, scores: Scores, variants: Mapping[str, Variant]) -> Iterator[str]:
    """Which parts hardly change the images, as far as the intervals are sure of it."""
    if "ssim_baseline" not in scores.values:
        return
    idle = []
    for part, variant in variants.items():
        effect = measure(scores.differences("ssim_baseline", variant.index, experiment.baseline.index))
        if 1 + (effect.difference if effect.low is None else effect.low) >= HARDLY:
            idle.append(part)
    said = f": {', '.join(idle)}" if idle else ""
    yield (
        f"{len(idle) or 'None'} of {len(variants)} parts {'does' if len(idle) == 1 else 'do'} next to nothing, "
        f"that is, leave a structural similarity of {HARDLY:g} or more{said}."
    )


def _agreement(changes: Sequence[_Change]) -> Iterator[str]:
    """How far attention and knock-outs agree: on where a word acts, and on which words act."""
    words = [(change, change.agreement) for change in changes if change.seen is not None]
    known = [agreement for _, agreement in words if agreement is not None]
    if known:
        yield (
            f"Where a word is looked at and where the image changes without it correlate by "
            f"{_correlation(float(np.mean(known)))} on average, over {PLACES} x {PLACES} places."
        )
    if len(words) > 2:
        seen = [float(change.seen.mean()) for change, _ in words if change.seen is not None]
        rank = stats.spearmanr(seen, [float(change.changed.mean()) for change, _ in words]).statistic
        if np.isfinite(rank):
            yield f"That words which are looked at more change it more has a rank correlation of {_correlation(rank)}."


def _shown(changes: Sequence[_Change]) -> Iterator[str]:
    if len(changes) > MOST_SHOWN:
        yield f"Shown are the {MOST_SHOWN} parts that change most."
    yield "Of each, attention to it on the left (of no word, the image), and what changes without it on the right."


def _picture(change: _Change, image: Image.Image, changes: Sequence[_Change]) -> PanelPicture:
    """Attention to a part beside the change without it, each on one scale for all parts."""
    high = (
        max(float(one.seen[0].max()) for one in changes if one.seen is not None)
        if change.seen is not None
        else 0
    )
    seen = image.convert("RGB") if change.seen is None else overlay(image, change.seen[0], high)
    changed = overlay(image, change.changed[0], max(float(one.changed[0].max()) for one in changes))
    both = Image.new("RGB", (2 * image.width, image.height))
    both.paste(seen, (0, 0))
    both.paste(changed, (image.width, 0))
    agreement = change.agreement
    told = f"; the two agree {_correlation(agreement)}" if agreement is not None else ""
    caption = f"{change.part}: mean change {float(change.changed.mean()):.3f}{told}"
    return PanelPicture(as_png(both), caption, f"Maps of attention and change: {caption}", double=True)


def _correlation(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
