"""When a change to the prompt acts: the difference between two guidance terms, step by step."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lab.analysis.figures import as_svg, drawing
from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.models.schedulers import make_scheduler
from lab.sample.denoise import Step, denoise
from lab.sample.engine import batch_key
from lab.sample.plan import Job
from lab.sample.predict import Predictor
from lab.sample.settings import Settings

BATCH = 16
"""Pairs denoised together."""

JobPair = tuple[Job, Job]
"""The baseline's image and the variant's, with the same noise."""


@dataclass(frozen=True)
class GuidanceCurve:
    """How far two guidance terms are apart while one trajectory is denoised.

    The guidance term is what guidance adds to the prediction for the negative prompt (Ho & Salimans 2207.12598,
    eq. 6), in the units of what the U-Net predicts. Values are root mean squares over an image's latents.

    Attributes:
        timesteps: (calls,) of the U-Net's calls, the noisiest first.
        difference: (calls, pairs) between the variant's term and the baseline's, on the CPU; pairs that were denoised
            together stand together.
        baseline: (calls, pairs), the baseline's term, for scale.
    """

    timesteps: Tensor
    difference: Tensor
    baseline: Tensor

    @property
    def rows(self) -> list[dict[str, float]]:
        """The means over the pairs, one row a call: plain values for a CSV or JSON file."""
        columns = (self.timesteps, self.difference.mean(dim=1), self.baseline.mean(dim=1))
        names = ("timestep", "difference", "baseline")
        return [
            {"call": float(call), **dict(zip(names, row, strict=True))}
            for call, row in enumerate(torch.stack(columns, dim=1).tolist())
        ]


def guidance_difference(bundle: Bundle, pairs: Sequence[JobPair]) -> GuidanceCurve:
    """Measures when variants differ from their baselines.

    Both sides of a pair (baseline, variant) predict from the same noisy latents, those of the baseline's image:
    along trajectories of their own, later differences would echo earlier ones.

    Raises:
        InputError: no pairs, or sides that cannot share a trajectory because more than texts and guidance differs.
    """
    if not pairs:
        raise InputError("guidance difference: there are no pairs to compare")
    groups: dict[Hashable, list[JobPair]] = defaultdict(list)
    for pair in pairs:
        check_pair(*pair)
        groups[batch_key(pair[0]), batch_key(pair[1])].append(pair)
    curves = [
        _measure(bundle, group[start : start + BATCH])
        for group in groups.values()
        for start in range(0, len(group), BATCH)
    ]
    if any(not torch.equal(curve.timesteps, curves[0].timesteps) for curve in curves):
        raise InputError("guidance difference: the pairs differ in scheduler or steps; measure them apart")
    sides = (
        torch.cat([getattr(curve, side) for curve in curves], dim=1) for side in ("difference", "baseline")
    )
    return GuidanceCurve(curves[0].timesteps, *sides)


def curve_svg(curves: Mapping[str, GuidanceCurve]) -> str:
    """Draws curves by name, with the spread over their pairs and the baseline's term, as an SVG element."""
    with drawing(6.4, 3.0) as figure:
        axes = figure.add_subplot()
        for name, curve in curves.items():
            calls = range(1, len(curve.timesteps) + 1)
            low, middle, high = curve.difference.quantile(torch.tensor([0.1, 0.5, 0.9]), dim=1)
            (line,) = axes.plot(calls, middle, label=name, marker="o", markersize=2.5)
            axes.fill_between(calls, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        if curves:
            axes.plot(
                calls, curve.baseline.median(dim=1).values, "--", color="grey", label="the baseline's term"
            )
        axes.set(xlabel="call of the U-Net", ylabel="guidance difference (RMS)", ylim=(0, None))
        axes.legend()
    return as_svg(figure)


def _measure(bundle: Bundle, pairs: Sequence[JobPair]) -> GuidanceCurve:
    """One batch of pairs, along the baselines' trajectories."""
    baselines, variants = ([pair[side] for pair in pairs] for side in (0, 1))
    settings = baselines[0].settings
    scheduler = make_scheduler(settings.scheduler, settings.karras, bundle.scheduler_config, settings.steps)
    predict = Predictor(bundle, variants, scheduler)
    timesteps, differences, scales = [], [], []

    def observe(step: Step) -> None:
        own = _term(step.prediction, step.unconditional)
        other = predict(step.noisy, step.timestep, step.index)
        timesteps.append(step.timestep.float())
        differences.append(_rms(_term(other.guided, other.unconditional) - own))
        scales.append(_rms(own))

    denoise(bundle, baselines, observe)
    return GuidanceCurve(torch.stack(timesteps), torch.stack(differences).cpu(), torch.stack(scales).cpu())


def _term(prediction: Tensor, unconditional: Tensor | None) -> Tensor:
    """What guidance adds; nothing where nothing is guided."""
    return torch.zeros_like(prediction) if unconditional is None else prediction - unconditional


def _rms(values: Tensor) -> Tensor:
    """(b,) root mean square of each image's values (b, c, h, w)."""
    return values.pow(2).mean(dim=(1, 2, 3)).sqrt()


def check_pair(baseline: Job, variant: Job) -> None:
    """Refuses a pair whose sides have no noisy latents in common.

    Raises:
        InputError: its sides differ in more than texts and guidance.
    """
    if baseline.seed != variant.seed or _trajectory(baseline.settings) != _trajectory(variant.settings):
        raise InputError(
            "guidance difference: the sides of a pair differ in seed, size, steps or scheduler, so that they "
            "share no latents; compare prompts, embeddings or guidance"
        )


def _trajectory(settings: Settings) -> Settings:
    """The settings that decide which noise levels are visited."""
    unguided = replace(settings, guidance=0.0, guidance_rescale=0.0, guidance_interval=None)
    return replace(unguided, negative_method="cfg", negative_strength=None, negative_interval=None)
