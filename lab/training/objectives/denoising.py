"""The denoising objectives, textual inversion's own: predict the noise (or v) in noisy latents, given the caption.

Symbols: x latents, e noise, a = cumulative product of 1 - beta, SNR = a / (1 - a), after Ho et al. (2006.11239) and
Salimans & Ho (2202.00512).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor

from lab.embeddings.embedding import NEGATIVE_SUFFIX, Embedding
from lab.errors import InputError
from lab.listening import Listener
from lab.models.attention import attention_recorded
from lab.models.bundle import Bundle
from lab.models.unet import call_unet
from lab.sample.guidance import apply_guidance
from lab.score.clip import Shown
from lab.training.config import Subject, TrainConfig
from lab.training.data.caption_encoder import CaptionEncoder, check_placeholders, embeddings_named
from lab.training.data.captions import fill_template, read_templates
from lab.training.data.examples import Example, ImageBatch, ImageData
from lab.training.data.masks import cut_out
from lab.training.data.pictures import Bucket
from lab.training.learned import Learned
from lab.training.objectives.attention import OwnPlaces
from lab.training.objectives.context import ContextDrift
from lab.training.objectives.objective import Cost, Objective, split_evenly

GAMMA = 5.0
"""Of min-SNR weighting, as Hang et al. (2303.09556) recommend."""

HUBER_DELTA = 0.1
"""Where the Huber loss turns from square to straight."""


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared error, element by element, of tensors of one shape."""
    return F.mse_loss(prediction, target, reduction="none")


def huber_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Huber loss, element by element, of tensors of one shape; up to a difference of 0.1 it is the squared error."""
    return 2 * F.huber_loss(prediction, target, reduction="none", delta=HUBER_DELTA)


def uniform_weights(snr: Tensor, _prediction_type: str) -> Tensor:
    """(timesteps,) ones: every timestep counts alike."""
    return torch.ones_like(snr)


def min_snr_weights(snr: Tensor, prediction_type: str) -> Tensor:
    """(timesteps,) weights by the signal-to-noise ratios (timesteps,) of a schedule (2303.09556, section 3.4).

    min(SNR, gamma) / SNR for epsilon, min(SNR, gamma) / (SNR + 1) for v.
    """
    if prediction_type == "v_prediction":
        return snr.clamp(max=GAMMA) / (snr + 1)
    return (GAMMA / snr).clamp(max=1)


ERRORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": squared_error, "huber": huber_error}
"""By the name of `--loss`: from a prediction and its target to errors of the same shape."""

TIMESTEP_WEIGHTS: dict[str, Callable[[Tensor, str], Tensor]] = {
    "none": uniform_weights,
    "min-snr": min_snr_weights,
}
"""By the name of `--weighting`: from the signal-to-noise ratios and the prediction type to a weight each."""


class Denoising(Objective[Example]):
    """Learns from the images of a folder and their captions (Textual Inversion, 2208.01618, equation 2)."""

    templates: ClassVar[str] = "object"
    """The set of caption templates for when the config names none and no caption lies beside an image."""

    negative_captions: Sequence[str] = ()
    """Captions of the other side of guidance, if there is one."""

    def __init__(self, bundle: Bundle, config: TrainConfig, embeddings: Mapping[str, Embedding]):
        super().__init__(bundle, config, embeddings)
        _check_model(bundle)
        if config.place == "layers" and config.gradient_checkpointing:
            raise InputError(
                "gradient_checkpointing: knows one text for all; leave it out with --place layers"
            )
        self.data = ImageData(bundle, config, self.templates)
        self.images, self.skipped = self.data.images, self.data.skipped
        self._others = embeddings_named(bundle, [*self.data.captions, *self.negative_captions], embeddings)
        counts = {subject.name: subject.vectors for subject in config.subjects()}
        for names, captions in self.data.captions_by_names().items():
            check_placeholders(bundle, captions, counts, self._others, names)
        self._error = ERRORS[config.loss]
        self._alphas = alphas_cumprod(bundle).to(bundle.device)
        snr = self._alphas / (1 - self._alphas)
        self._weights = TIMESTEP_WEIGHTS[config.weighting](snr, bundle.prediction_type)

    def images_of(self, name: str) -> Sequence[Path]:
        """The image files whose captions name an embedding; all for one that none names, the half of a pair."""
        named = [picture.path for picture in self.data.pictures if name in picture.names]
        return named or self.images

    def shown(self, name: str) -> Sequence[Shown]:
        """Of images with a mask of the embedding alone what lies in it."""
        regions = {picture.path: picture.masks.regions.get(name) for picture in self.data.pictures}
        return [
            partial(cut_out, path, mask) if (mask := regions[path]) else path for path in self.images_of(name)
        ]

    def fingerprint(self) -> dict[str, str]:
        """What makes each image what it is, by file name: image, mask and captions; and embeddings that these name."""
        others = {f"embedding {name}": self.embeddings[name].provenance.sha256 for name in self._others}
        return self.data.fingerprint() | others

    def describe(self) -> Iterator[str]:
        """Yields how many images there are, their buckets and captions."""
        return self.data.describe()

    def start(self, learned: Learned, listener: Listener = Listener()) -> None:
        """Encodes every view of the images."""
        named = {**self._others, **learned.placed}
        self._encode = CaptionEncoder(self.bundle, named, self.config.clip_skip)
        things = [one.name for one in self.config.subjects() if one.objective == "concept"]
        self._places = OwnPlaces(self._encode, things)
        if self.config.keep_context:
            names = [subject.name for subject in self.config.subjects()]
            self._context = ContextDrift(self.bundle, self._encode, names, self._known_word(learned))
        self.data.latents.encode_all(listener)

    def batch(self, step: int) -> Sequence[Example]:
        """The examples of a step, over all processes; all have images of one bucket."""
        return self.data.order.batch(step)

    def fixed(self) -> Sequence[Sequence[Example]]:
        """Images, captions, timesteps and noise that stay the same, in groups of one bucket each."""
        groups: dict[Bucket, list[Example]] = {}
        for example in self.data.order.fixed():
            groups.setdefault(self.data.views[example.view].bucket, []).append(example)
        most = self.config.evaluated_at_once
        return [
            some for group in groups.values() for some in split_evenly(group, math.ceil(len(group) / most))
        ]

    def losses(self, examples: Sequence[Example]) -> Tensor:
        """(b,) losses of examples of one bucket: their errors, with `keep_context` what the vectors do to other words,
        see `ContextDrift`, and with `keep_attention` where they are attended to, see `OwnPlaces`."""
        losses = self._errors_and_places(examples) if self.config.keep_attention else self.errors(examples)
        if self.config.keep_context:
            places = [("context", example.step, example.slot) for example in examples]
            drifts = self._context([self.config.generator(*each) for each in places])
            losses = losses + self.config.keep_context * drifts
        return losses

    def _errors_and_places(self, examples: Sequence[Example]) -> Tensor:
        """(b,) errors, and what attention things get outside their own places at the same call of the U-Net."""
        with attention_recorded(self.bundle.unet) as recorder:
            errors = self.errors(examples)
        height, width = self.data.latents.get(examples[0].view)["mean"].shape[-2:]
        masks, captions = map(self.data.masks, examples), [example.caption for example in examples]
        places = self._places(recorder.pop_maps(), captions, list(masks), (height, width))
        return errors + self.config.keep_attention * places

    def watch(self, examples: Sequence[Example]) -> Tensor:
        """(b, 1): the errors alone."""
        return self.errors(examples)[:, None]

    def errors(self, examples: Sequence[Example]) -> Tensor:
        """(b,): the mean squared (or Huber) error of what the U-Net predicts, weighted by mask and timestep."""
        batch = self.data.load(examples)
        noisy, target = add_noise(
            batch.latents, batch.noise, self._alphas[batch.timesteps], self.bundle.prediction_type
        )
        error = self._error(self.predict(noisy, batch), target)
        if batch.weights is not None:
            error = error * batch.weights
        return error.mean(dim=(1, 2, 3)) * self._weights[batch.timesteps]

    def predict(self, noisy: Tensor, batch: ImageBatch) -> Tensor:
        """(b, c, h, w) float32: what the model predicts from noisy latents, given the captions."""
        return self._call_unet(noisy, batch.timesteps, batch.captions, batch.time_ids)

    def _known_word(self, learned: Learned) -> str:
        """The word that stands for what is learned: the first that the vectors begin at, or the objective's own."""
        text = next(iter(learned.beginnings.values())).initial.text
        return self.word if not text or ":" in text else text.split()[0]

    def _call_unet(
        self, noisy: Tensor, timesteps: Tensor, captions: Sequence[str], time_ids: Tensor
    ) -> Tensor:
        texts = self._encode(captions)
        unet = self.bundle.unet
        return call_unet(unet, noisy, timesteps, texts.embeds, texts.pooled, time_ids, layers=texts.layers)


class Concept(Denoising):
    """A thing."""


class Style(Denoising):
    """A style."""

    kind = "style"
    word = "style"
    templates = "style"


class Negative(Denoising):
    """What is to be avoided, for the negative prompt: textual inversion on bad images."""

    kind = "negative"
    word = "low quality"
    templates = "negative"
    images_show_it = False


USUAL_GUIDANCE = 5.0
"""DreamArtist's, where the config says nothing; the models' own scales are for whole prompts."""


class Pair(Denoising):
    """A thing and its negative, learned together through guidance, as in DreamArtist (2211.11337, section 3.2).

    The error is that of the prediction that guidance composes of a caption c and a negative caption u,
    u + s (c - u), so that each half learns what the other leaves over.
    """

    def __init__(self, bundle: Bundle, config: TrainConfig, embeddings: Mapping[str, Embedding]):
        half, templates = self.partner(config), read_templates(config.negative_templates)
        self.negative_captions = [fill_template(line, "", [half.name]) for line in templates]
        self._guidance = USUAL_GUIDANCE if config.guidance is None else config.guidance
        if self._guidance <= 1:
            raise InputError(
                f"guidance: {self._guidance:g} leaves the negative half no part; give a --guidance above 1"
            )
        super().__init__(bundle, config, embeddings)
        negatives = [(caption, "negative_templates") for caption in self.negative_captions]
        check_placeholders(bundle, negatives, {half.name: half.vectors}, self._others, [half.name])

    @classmethod
    def partner(cls, config: TrainConfig) -> Subject:
        """The negative half."""
        return Subject(
            name=f"{config.name}{NEGATIVE_SUFFIX}",
            objective="negative",
            vectors=config.negative_vectors,
            init=config.negative_init,
            learning_rate=config.negative_rate,
        )

    @classmethod
    def cost(cls, bundle: Bundle, config: TrainConfig) -> Cost:
        """Both sides of guidance."""
        return Cost(rows=2, rows_back=2, rows_kept=2)

    def predict(self, noisy: Tensor, batch: ImageBatch) -> Tensor:
        """(b, c, h, w) float32: u + s (c - u) of the negative captions u and the captions c, in one batch."""
        captions = [self._negative_caption(example) for example in batch.examples] + list(batch.captions)
        both = self._call_unet(
            noisy.repeat(2, 1, 1, 1), batch.timesteps.repeat(2), captions, batch.time_ids.repeat(2, 1)
        )
        unconditional, conditional = both.chunk(2)
        scale = torch.full((len(noisy),), self._guidance, device=noisy.device)
        return apply_guidance(unconditional, [conditional], scale[None])

    def _negative_caption(self, example: Example) -> str:
        generator = self.config.generator("negative", example.step, example.slot)
        return self.negative_captions[
            int(torch.randint(len(self.negative_captions), (), generator=generator))
        ]


def add_noise(latents: Tensor, noise: Tensor, alphas: Tensor, prediction_type: str) -> tuple[Tensor, Tensor]:
    """Noisy latents sqrt(a) x + sqrt(1 - a) e, and what is to be predicted: e, or v = sqrt(a) e - sqrt(1 - a) x.

    Args:
        latents, noise: x and e, (b, c, h, w).
        alphas: a, (b,).
    """
    signal, spread = alphas.sqrt().view(-1, 1, 1, 1), (1 - alphas).sqrt().view(-1, 1, 1, 1)
    noisy = signal * latents + spread * noise
    return noisy, signal * noise - spread * latents if prediction_type == "v_prediction" else noise


def alphas_cumprod(bundle: Bundle) -> Tensor:
    """(timesteps,) cumulative products of 1 - beta, rescaled to zero terminal SNR where the model's are."""
    return DDPMScheduler.from_config(dict(bundle.scheduler_config)).alphas_cumprod


def _check_model(bundle: Bundle) -> None:
    if bundle.prediction_type not in ("epsilon", "v_prediction"):
        raise InputError(f"{bundle.source}: predicts '{bundle.prediction_type}', which cannot be trained")
