"""The denoising objective: predict the noise (or v) in noisy latents, given the caption.

Symbols: x latents, e noise, a = cumulative product of 1 - beta, SNR = a / (1 - a), after Ho et al. (2006.11239) and
Salimans & Ho (2202.00512).
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor

from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.models.unet import call_unet
from lab.training.config import TrainConfig
from lab.training.data.captions import CaptionEncoder
from lab.training.data.examples import Data, Example
from lab.training.data.pictures import Bucket
from lab.training.loop import Task, pieces
from lab.training.vectors import Learned

GAMMA = 5.0
"""Of min-SNR weighting, as Hang et al. (2303.09556) recommend."""

HUBER_DELTA = 0.1
"""Where the Huber loss turns from square to straight."""


def squared(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared error, element by element."""
    return F.mse_loss(prediction, target, reduction="none")


def huber(prediction: Tensor, target: Tensor) -> Tensor:
    """Huber loss, element by element, scaled to equal half the squared error's double near zero."""
    return 2 * F.huber_loss(prediction, target, reduction="none", delta=HUBER_DELTA)


def alike(snr: Tensor, _prediction_type: str) -> Tensor:
    """Every timestep counts 1."""
    return torch.ones_like(snr)


def min_snr(snr: Tensor, prediction_type: str) -> Tensor:
    """min(SNR, gamma) / SNR for epsilon and min(SNR, gamma) / (SNR + 1) for v (2303.09556, section 3.4)."""
    if prediction_type == "v_prediction":
        return snr.clamp(max=GAMMA) / (snr + 1)
    return (GAMMA / snr).clamp(max=1)


ERRORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": squared, "huber": huber}
WEIGHTINGS: dict[str, Callable[[Tensor, str], Tensor]] = {"none": alike, "min-snr": min_snr}


class Denoising(Task[Example]):
    """The objective over the images of a folder."""

    def __init__(self, bundle: Bundle, config: TrainConfig, data: Data, learned: Learned):
        _check_model(bundle)
        self._bundle = bundle
        self._data = data
        self._encode = CaptionEncoder(bundle, learned, config.clip_skip)
        self._together = -(-config.batch_size // config.accumulation)
        self._error = ERRORS[config.loss]
        self._alphas = alphas_cumprod(bundle).to(bundle.device)
        self._weights = WEIGHTINGS[config.weighting](
            self._alphas / (1 - self._alphas), bundle.prediction_type
        )

    def batch(self, step: int) -> Sequence[Example]:
        """The examples of a step, over all processes."""
        return self._data.examples.batch(step)

    def fixed(self) -> Sequence[Sequence[Example]]:
        """Images, captions, timesteps and noise that stay the same, grouped by bucket and a step's size."""
        groups: dict[Bucket, list[Example]] = {}
        for example in self._data.examples.fixed():
            groups.setdefault(self._data.views[example.view].bucket, []).append(example)
        return [some for group in groups.values() for some in pieces(group, -(-len(group) // self._together))]

    def losses(self, examples: Sequence[Example]) -> Tensor:
        """(b,) losses of examples of one bucket."""
        latents, noise, region = self._draw(examples)
        timesteps = torch.tensor([example.timestep for example in examples], device=self._bundle.device)
        noisy, target = corrupt(latents, noise, self._alphas[timesteps], self._bundle.prediction_type)
        error = self._error(self.predict(noisy, timesteps, examples), target)
        if region is not None:
            error = error * region
        return error.mean(dim=(1, 2, 3)) * self._weights[timesteps]

    def predict(self, noisy: Tensor, timesteps: Tensor, examples: Sequence[Example]) -> Tensor:
        """(b, c, h, w) float32: what the model predicts from noisy latents, given the captions."""
        return self._run(noisy, timesteps, examples, [example.caption for example in examples])

    def _run(
        self, noisy: Tensor, timesteps: Tensor, examples: Sequence[Example], captions: Sequence[str]
    ) -> Tensor:
        embeds, pooled = self._encode(captions)
        sizes = torch.tensor([self._time_ids(example) for example in examples])
        return call_unet(self._bundle.unet, noisy, timesteps, embeds, pooled, sizes)

    def _draw(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Latents, noise, and loss weights (b, 1, h, w) of mean 1 in each image, or None."""
        device = self._bundle.device
        entries = [self._data.latents.get(example.view) for example in examples]
        mean, std = (torch.stack([entry[key] for entry in entries]) for key in ("mean", "std"))
        shape = (2, *mean.shape[1:])  # for the sample of the posterior, and for the noise
        drawn = torch.stack([self._data.examples.noise(example, shape) for example in examples])
        sample, noise = drawn.to(device).unbind(dim=1)
        if not any("weight" in entry for entry in entries):
            return mean + std * sample, noise, None
        maps = torch.stack([entry.get("weight", torch.ones_like(mean[0, 0])) for entry in entries])[:, None]
        return mean + std * sample, noise, maps / maps.mean(dim=(1, 2, 3), keepdim=True)

    def _time_ids(self, example: Example) -> tuple[int, ...]:
        """SDXL's: the size before scaling, where it was cut, and the size after (2307.01952)."""
        view = self._data.views[example.view]
        width, height = self._data.pictures[view.picture].size
        return (height, width, view.top, view.left, view.bucket.height, view.bucket.width)


def corrupt(latents: Tensor, noise: Tensor, alphas: Tensor, prediction_type: str) -> tuple[Tensor, Tensor]:
    """Noisy latents sqrt(a) x + sqrt(1 - a) e, and what is to be predicted: e, or v = sqrt(a) e - sqrt(1 - a) x.

    Args:
        alphas: (b,) cumulative products.
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
    channels, latent = bundle.unet.config.in_channels, bundle.vae.config.latent_channels
    if channels != latent:
        raise InputError(
            f"{bundle.source}: its U-Net takes {channels} channels and its VAE makes {latent}, as for inpainting; "
            "train on the model that it was made from"
        )
