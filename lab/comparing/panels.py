"""What a report shows beside effects and images: heat maps, the guidance curve, the geometry of embeddings."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lab.analysis.figures import as_svg
from lab.analysis.geometry import Geometry, draw_geometries, learned_geometry
from lab.analysis.guidance_curve import check_pair, curve_svg, guidance_difference
from lab.analysis.heatmaps import HeatMaps, Target, check_layers_open, check_target, heat_maps, overlay
from lab.comparing.cells import is_own, plan_cells
from lab.comparing.experiment import Cell, Experiment, Variant
from lab.errors import InputError
from lab.models.attention import cross_attention_layers
from lab.models.bundle import Bundle
from lab.sample.plan import Job


@dataclass(frozen=True)
class PanelPicture:
    """One picture of a panel.

    Attributes:
        data: PNG bytes, or the text of an SVG element.
        caption: A few words under it.
        alt: What it shows, for those who cannot see it.
        double: It is twice as wide as others.
    """

    data: bytes | str
    caption: str
    alt: str
    double: bool = False


@dataclass(frozen=True)
class ReportPanel:
    """A section of the report.

    Attributes:
        title: Its heading.
        text: What its pictures show, in a sentence or two.
        pictures: In the order shown.
    """

    title: str
    text: str
    pictures: Sequence[PanelPicture]


MAPPED = 4
"""Variants whose heat maps are shown, the baseline among them."""

_OTHER_MODELS = "no variant is of the run's own model; give one of the axis' models as --model"

CURVE_PAIRS, CURVE_VARIANTS = 8, 6
"""Pairs that a curve is measured on, and variants that get one."""


def check_panels(bundle: Bundle, experiment: Experiment) -> None:
    """Refuses, before anything is generated, heat maps of what is not there, and curves that cannot be.

    Raises:
        InputError: a word that is in the prompt of no variant, with the nearest words; an unknown layer; a U-Net that
            is compiled; a curve of variants of which none shares latents with the baseline.
    """
    if experiment.config.guidance_curve:
        _curved(bundle, experiment)
    if experiment.config.heat_map:
        check_layers_open(bundle)
    jobs = plan_cells(bundle, experiment, _mapped(bundle, experiment)) if experiment.config.heat_map else []
    if experiment.config.heat_map and not jobs:
        raise InputError(f"heat_map: {_OTHER_MODELS}")
    if experiment.config.heat_layers and not experiment.config.heat_map:
        raise InputError("heat_layers: there is no heat map to take them for; name a word with --heat-map")
    cross_attention_layers(bundle.unet, experiment.config.heat_layers)
    for target in map(_read_target, experiment.config.heat_map):
        if not any(_has(job, target) for job in jobs):
            for job in jobs:
                check_target(job, target)


def make_panels(bundle: Bundle, experiment: Experiment, folder: Path) -> list[ReportPanel]:
    """The panels that were asked for and checked, and the geometry if there are embeddings.

    Args:
        folder: Of the run, which gets the arrays of heat maps.
    """
    panels = []
    if experiment.config.heat_map:
        panels.append(_heat_panel(bundle, experiment, folder))
    if experiment.config.guidance_curve:
        panels.append(_curve_panel(bundle, experiment))
    # Saved steps of a training run share a name.
    used = {one.provenance.sha256: one for cell in experiment.pictures for one in cell.embeddings}
    spaces = [
        learned_geometry(list(used.values()), tower.key)
        for tower in bundle.towers
        if any(tower.key in embedding.vectors for embedding in used.values())
    ]
    if spaces:
        panels.append(_geometry_panel(spaces, [embedding.name for embedding in used.values()]))
    return panels


def _geometry_panel(spaces: Sequence[Geometry], names: Sequence[str]) -> ReportPanel:
    figure = PanelPicture(
        as_svg(draw_geometries(spaces)),
        "Cosines, dot products, norms, and a map of the first two principal components.",
        f"Geometry of the learned vectors of {', '.join(names)}",
    )
    text = "How the learned vectors of the embeddings compared lie to each other."
    return ReportPanel("Geometry of the embeddings", text, [figure])


def _heat_panel(bundle: Bundle, experiment: Experiment, folder: Path) -> ReportPanel:
    cells = _mapped(bundle, experiment)
    jobs = plan_cells(bundle, experiment, cells)
    targets = [_read_target(text) for text in experiment.config.heat_map]
    layers = experiment.config.heat_layers
    mapped = list(zip(cells, jobs, heat_maps(bundle, jobs, layers=layers), strict=True))
    for cell, job, maps in mapped:
        present = [target for target in targets if _has(job, target)]
        if present:
            maps.save_arrays(folder / "heatmaps" / f"{cell.index:05d}.npz", present)
    pictures = []
    for target in targets:
        shown = [(cell, maps) for cell, job, maps in mapped if _has(job, target)]
        high = max(float(maps.of(target).max()) for _, maps in shown)
        pictures += [_overlaid(cell, maps, target, high) for cell, maps in shown]
    where = f" in {', '.join(layers)}" if layers else ""
    text = (
        f"Share of the cross-attention that goes to each word, over all steps, heads and layers{where}; from blue to "
        f"red, on one scale for all variants. Seed {cells[0].seed}: {cells[0].prompt}. The arrays are in heatmaps/."
    )
    return ReportPanel("Where words act", text, pictures)


def _overlaid(cell: Cell, maps: HeatMaps, target: Target, high: float) -> PanelPicture:
    heat = maps.of(target)
    caption = f"{target.label}: {cell.variant.name}; largest share {float(heat.max()):.2f}"
    return PanelPicture(as_png(overlay(maps.image, heat, high)), caption, f"Heat map of {caption}")


def as_png(image: Image.Image) -> bytes:
    """A map as a PNG that is large enough to be looked at."""
    side = max(256 // image.height, 1)
    stream = io.BytesIO()
    image.resize((image.width * side, image.height * side), Image.Resampling.BICUBIC).save(stream, "PNG")
    return stream.getvalue()


def _curve_panel(bundle: Bundle, experiment: Experiment) -> ReportPanel:
    pairs = [
        (prompt, seed) for seed in range(len(experiment.seeds)) for prompt in range(len(experiment.prompts))
    ]
    pairs = pairs[:CURVE_PAIRS]

    def jobs(variant: Variant) -> list[Job]:
        return plan_cells(bundle, experiment, [experiment.cell(variant, *pair) for pair in pairs])

    base = jobs(experiment.baseline)
    curves = {
        variant.name: guidance_difference(bundle, list(zip(base, jobs(variant), strict=True)))
        for variant in _curved(bundle, experiment)
    }
    picture = PanelPicture(
        curve_svg(curves),
        f"Median over {len(pairs)} pairs, and their 10th to 90th percentiles.",
        "Curves of the guidance difference between each variant and the baseline, step by step",
    )
    text = "How far the variants' guidance is from the baseline's along the baseline's own latents."
    return ReportPanel("When it acts", text, [picture])


def _curved(bundle: Bundle, experiment: Experiment) -> list[Variant]:
    """The first variants that share latents with the baseline: same model, size, scheduler, steps and seed."""
    others = [cell for cell in _first_pair(bundle, experiment) if cell.variant is not experiment.baseline]
    (base,) = plan_cells(bundle, experiment, [experiment.cell(experiment.baseline, 0, 0)])
    curved, reason = [], _OTHER_MODELS
    for cell, job in zip(others, plan_cells(bundle, experiment, others), strict=True):
        try:
            check_pair(base, job)
        except InputError as error:
            reason = str(error)
        else:
            curved.append(cell.variant)
    if not curved or experiment.cell(experiment.baseline, 0, 0) not in _first_pair(bundle, experiment):
        raise InputError(f"guidance_curve: {reason}")
    return curved[:CURVE_VARIANTS]


def _mapped(bundle: Bundle, experiment: Experiment) -> Sequence[Cell]:
    return _first_pair(bundle, experiment)[:MAPPED]


def _first_pair(bundle: Bundle, experiment: Experiment) -> list[Cell]:
    """The first pair's cells that the bundle itself makes, the baseline's first."""
    ordered = sorted(experiment.variants, key=lambda variant: variant is not experiment.baseline)
    cells = [experiment.cell(variant, 0, 0) for variant in ordered]
    return [cell for cell in cells if is_own(bundle, cell)]


def _read_target(text: str) -> Target:
    if text.startswith("negative:"):
        return Target(text.removeprefix("negative:"), "negative")
    return Target(text)


def _has(job: Job, target: Target) -> bool:
    try:
        check_target(job, target)
    except InputError:
        return False
    return True
