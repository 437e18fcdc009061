"""The calls of the U-Net that guidance combines, and what its cross-attention is to avoid."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.condition.conditioning import Conditioning, Encoding
from lab.condition.prompt_parts import rows_with_ends
from lab.embeddings.embedding import XTI_LAYERS
from lab.models.attention import Avoidance, Keys
from lab.models.bundle import Bundle
from lab.models.device import to_device
from lab.models.unet import Control, call_unet, takes_guidance_scale
from lab.sample.guidance import apply_guidance, noise_level, rescale_guidance
from lab.sample.plan import Job
from lab.sample.settings import Settings


class Prediction(NamedTuple):
    """What a call of the U-Net predicts, each (b, c, h, w) float32.

    Attributes:
        guided: The result.
        conditional: For the prompt; its parts averaged by the sizes of their weights.
        unconditional: What guidance leads away from, or None where nothing is guided.
        negative: Whether that is the prediction for the negative prompt, and not for none.
    """

    guided: Tensor
    conditional: Tensor
    unconditional: Tensor | None = None
    negative: bool = False


class _Texts(NamedTuple):
    """What one call of the U-Net reads: rows of its batch, on the device.

    Attributes:
        embeds: (b, n, d) prompt embeddings, and behind them what they avoid.
        pooled: (b, p) or None.
        avoidance: How that acts, or None if nothing is avoided.
        layers: As `embeds`, for each of `XTI_LAYERS`, where layers read different texts.
    """

    embeds: Tensor
    pooled: Tensor | None
    avoidance: Avoidance | None
    layers: Sequence[Tensor] = ()


Avoided = tuple[tuple[Encoding, Literal["all", "words", "negated"]], ...]
"""What a text avoids: all rows of another, those of its words, or what that one has of negative weight."""


class Predictor:
    """The predictions of noise (or v) for one batch of jobs under guidance and their negative method, one call of the
    U-Net a step.

    The rows that guidance leads away from come first in the U-Net's batch, as in diffusers, then each part of the
    prompts, then those of no prompt where a method needs them besides.
    """

    def __init__(self, bundle: Bundle, jobs: Sequence[Job], scheduler: Any):
        """Takes the scheduler for its timesteps and tables. What every step needs goes to the device once, here."""
        self._bundle = bundle
        self._jobs = jobs
        self._settings = jobs[0].settings
        self._method = self._settings.avoiding
        self._alphas_cumprod = scheduler.alphas_cumprod
        timesteps = to_device(scheduler.timesteps, bundle.device)
        self._timesteps = dict(zip(scheduler.timesteps.tolist(), timesteps, strict=True))
        self._scale = to_device(torch.tensor([job.settings.guidance for job in jobs]), bundle.device)
        self._positive = _PromptSide(bundle, [job.positive for job in jobs])
        self._takes_scale = takes_guidance_scale(bundle.unet)
        self._guided = jobs[0].guided and not self._takes_scale
        # Where they take no part, jobs share a batch however their negative prompts are composed.
        acts = self._guided or self._method.attend is not None
        self._negative = _PromptSide(bundle, [job.negative for job in jobs] if acts else [])
        self._empty = _PromptSide(bundle, [job.empty for job in jobs if job.empty is not None])
        self._scales = self._positive.weights * self._scale
        sizes = micro_conditioning(self._settings)
        self._time_ids = None if sizes is None else to_device(torch.tensor([sizes]).float(), bundle.device)
        self._control = _stacked_control(jobs)
        self._texts: dict[tuple[tuple[Encoding, ...], tuple[Avoided, ...]], _Texts] = {}

    def __call__(self, noisy: Tensor, timestep: Tensor, index: int) -> Prediction:
        """Predicts from noisy latents (b, c, h, w), scaled as the scheduler wants them.

        At steps that are not guided, what guidance leads away from is not even computed.

        Args:
            timestep: One of the scheduler's, on the CPU.
            index: The number of the call, from 0, by which prompts are scheduled.
        """
        guided = self._guided and self._within(self._settings.guidance_interval, timestep)
        acts = self._within(self._settings.negative_interval, timestep)
        positive = self._positive.at(index)
        negative = self._negative.at(index) if acts else []
        away = negative if guided else []
        empty = self._empty.at(index) if guided and (self._method.guide or not acts) else []
        avoided = self._avoided(away, positive, negative) if acts and self._method.attend else []
        predictions = self._run(noisy, timestep, [*away, *positive, *empty], avoided)
        conditionals = predictions[len(away) : len(away) + len(positive)]
        conditional = self._positive.average(conditionals)
        if not guided:
            return Prediction(conditional, conditional)
        unconditional = self._negative.average(predictions[: len(away)]) if away else predictions[-1]
        if away and self._method.guide:
            weights, strength = self._positive.weights, self._settings.negative_strength or 0.0
            result = self._method.guide(
                predictions[-1], unconditional, conditionals, weights, self._scale, strength
            )
        else:
            result = apply_guidance(unconditional, conditionals, self._scales)
        if self._settings.guidance_rescale > 0:
            result = rescale_guidance(result, conditional, self._settings.guidance_rescale)
        return Prediction(result, conditional, unconditional, bool(away))

    def _within(self, interval: tuple[float, float] | None, timestep: Tensor) -> bool:
        return interval is None or interval[0] <= noise_level(timestep, self._alphas_cumprod) <= interval[1]

    def _avoided(
        self,
        away: Sequence[list[Encoding]],
        positive: Sequence[list[Encoding]],
        negative: Sequence[list[Encoding]],
    ) -> list[Avoided]:
        """What each row of the U-Net's batch avoids in cross-attention; `away` and `positive` are its members."""

        def own(encoding: Encoding) -> Avoided:
            return ((encoding, "negated"),) if encoding.negated else ()

        texts: list[Avoided] = [
            tuple((each, self._method.avoids) for each in one) for one in zip(*negative, strict=True)
        ]
        if not self._method.negates:
            return [()] * (len(away) * len(self._jobs)) + texts * len(positive)
        if away:
            texts = [()] * len(self._jobs)
        rows = [own(encoding) for member in away for encoding in member]
        return rows + [
            own(each) + text for member in positive for each, text in zip(member, texts, strict=True)
        ]

    def _run(
        self,
        noisy: Tensor,
        timestep: Tensor,
        members: Sequence[list[Encoding]],
        avoided: Sequence[Avoided],
    ) -> tuple[Tensor, ...]:
        """(b, c, h, w) for each member, in one call of the U-Net; a member is one encoding for each image."""
        copies = len(members)
        texts = self._stacked([encoding for member in members for encoding in member], avoided)
        output = call_unet(
            self._bundle.unet,
            noisy.repeat(copies, 1, 1, 1),
            self._timesteps[timestep.item()],
            texts.embeds,
            texts.pooled,
            None if self._time_ids is None else self._time_ids.expand(len(texts.embeds), -1),
            self._scale.repeat(copies) if self._takes_scale else None,
            self._control and self._control._replace(images=self._control.images.repeat(copies, 1, 1, 1)),
            texts.avoidance,
            texts.layers,
        )
        return output.chunk(copies)

    def _stacked(self, rows: Sequence[Encoding], avoided: Sequence[Avoided]) -> _Texts:
        """The texts of rows, moved to the device once for many steps, from wherever each of them is.

        Texts of unequal length are repeated to their least common multiple, as ComfyUI does: a softmax over keys that
        all come equally often gives what it gives over the keys once. What a text avoids comes as often as it does.
        """
        key = tuple(rows), tuple(avoided)
        # What gradients pass is never taken from before.
        if torch.is_grad_enabled() or key not in self._texts:
            length, dtype = math.lcm(*(len(row.embeds) for row in rows)), self._bundle.dtype
            pooled = {row: self._on_device(row.pooled) for row in rows if row.pooled is not None}
            embeds, avoidance = self._with_avoided(rows, avoided, length)
            layers = XTI_LAYERS if any(row.layers for row in rows) else ()
            self._texts[key] = _Texts(
                embeds.to(dtype),
                torch.stack([pooled[row] for row in rows]).to(dtype) if pooled else None,
                avoidance,
                [self._with_avoided(rows, avoided, length, layer)[0].to(dtype) for layer in layers],
            )
        return self._texts[key]

    def _with_avoided(
        self, rows: Sequence[Encoding], avoided: Sequence[Avoided], length: int, layer: str | None = None
    ) -> tuple[Tensor, Avoidance | None]:
        """The texts of rows with what they avoid behind them, (b, n, d), as a layer reads them; and how that acts."""
        texts = {row: self._states(row, layer) for row in rows}
        embeds = torch.stack([texts[row].repeat(length // len(row.embeds), 1) for row in rows])
        others = [
            self._rows(which, layer).repeat(length // len(row.embeds), 1)
            for row, which in zip(rows, avoided, strict=False)  # those of no prompt avoid nothing
        ]
        if not any(map(len, others)):
            return embeds, None
        most = max(map(len, others))
        filled = torch.stack([F.pad(other, (0, 0, 0, most - len(other))) for other in others])
        return torch.cat([embeds, filled], dim=1), self._avoidance(length, others)

    def _rows(self, avoided: Avoided, layer: str | None) -> Tensor:
        """(rows, d) of what a text avoids, one after the other."""
        found = [self._on_device(self._positive.at(0)[0][0].embeds[:0])]
        for encoding, which in avoided:
            if which == "negated":
                assert encoding.negated is not None, "see _avoided"
                found.append(self._states(encoding.negated, layer))
                continue
            states = self._states(encoding, layer)
            if which == "words":
                places = torch.tensor(rows_with_ends(encoding, self._bundle.context_length), dtype=torch.long)
                states = states[to_device(places, states.device)]
            found.append(states)
        return torch.cat(found)

    def _states(self, encoding: Encoding, layer: str | None) -> Tensor:
        """(n, d) on the device: a text as a layer reads it."""
        return self._on_device(
            encoding.embeds if layer is None else encoding.layers.get(layer, encoding.embeds)
        )

    def _avoidance(self, texts: int, avoided: Sequence[Tensor]) -> Avoidance:
        """How the rows of the U-Net's batch avoid what stands behind the `texts` rows of their text."""
        first = next(place for place, rows in enumerate(avoided) if len(rows))
        bias = torch.zeros(len(avoided) - first, 1, 1, max(map(len, avoided)))
        for own, rows in zip(bias, avoided[first:], strict=True):
            own[..., len(rows) :] = -math.inf
        attend, strength = self._method.attend, self._settings.negative_strength
        assert attend is not None and strength is not None, "methods that attend have a strength"

        def avoiding(queries: Tensor, text: Keys, against: Keys) -> Tensor:
            return attend(queries, text, against, strength)

        return Avoidance(texts, first, to_device(bias, self._bundle.device), avoiding)

    def _on_device(self, states: Tensor) -> Tensor:
        """On the bundle's device: an encoder's texts are on the CPU, those that a run learns on the device."""
        return to_device(states, self._bundle.device)


def _stacked_control(jobs: Sequence[Job]) -> Control | None:
    """The one ControlNet of a batch with all images' control images."""
    controls = [job.control for job in jobs if job.control is not None]
    if not controls:
        return None
    return controls[0]._replace(images=torch.cat([control.images for control in controls]))


class _PromptSide:
    """The prompts, or the negative prompts, of a batch: all composed of the same number of parts."""

    def __init__(self, bundle: Bundle, conditionings: Sequence[Conditioning]):
        self._parts = list(zip(*(conditioning.parts for conditioning in conditionings), strict=True))
        weights = [[part.weight for part in member] for member in self._parts]
        self.weights = to_device(torch.tensor(weights), bundle.device)
        """(parts, b)"""

    def at(self, index: int) -> list[list[Encoding]]:
        """For each part, the encoding in force for each image at a call of the U-Net."""
        return [[part.at(index) for part in member] for member in self._parts]

    def average(self, predictions: Sequence[Tensor]) -> Tensor:
        """The parts' predictions (b, c, h, w) averaged by the sizes of their weights."""
        if len(predictions) == 1:
            return predictions[0]
        sizes = self.weights.abs()
        shares = sizes / sizes.sum(dim=0).clamp_min(1e-6)
        return torch.einsum("pb,pbchw->bchw", shares, torch.stack(list(predictions)))


def micro_conditioning(settings: Settings) -> tuple[int, ...] | None:
    """SDXL's six `time_ids` in pixels (2307.01952, section 2.2), None for other families.

    They are the original size, the crop's corner and the image's size, each height first.
    """
    if settings.original_width is None or settings.original_height is None:
        return None
    original = settings.original_height, settings.original_width
    return *original, settings.crop_top or 0, settings.crop_left or 0, settings.height, settings.width
