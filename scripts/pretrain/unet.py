"""Train the U-Net on latents and text states computed beforehand.

v-prediction (Salimans & Ho 2022) on a schedule rescaled to zero terminal SNR (Lin et al. 2023). The loss of a
sample is weighted by min(SNR + 1, 5) / (SNR + 1): min-SNR-5 (Hang et al. 2023) shifted by one, because the
original gives the last, purely noisy timestep no weight at all and sampling starts there.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from scripts.pretrain.common import ROOT, WORK, arguments, read_config
from scripts.pretrain.convolution import speed_up_wide
from scripts.pretrain.data import Data, load
from scripts.pretrain.latents import Encoded, load_encoded
from scripts.pretrain.loop import Budget, Run, train
from scripts.pretrain.vae import FOLDER as VAE
from scripts.pretrain.vae import write_grid
from scripts.pretrain.whiten import Whitening, fold, measure

FOLDER = WORK / "unet"
LATER = WORK / "unet_whitened"


def build(config: dict[str, Any], text_width: int) -> UNet2DConditionModel:
    """The untrained U-Net. Plain attention and few groups: both are far faster on a CPU in channels-last layout."""
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=tuple(config["widths"]),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=list(config["heads"]),
        cross_attention_dim=text_width,
        norm_num_groups=config["groups"],
    )
    unet.set_attn_processor(AttnProcessor())
    return unet.to(memory_format=torch.channels_last)


def scheduler() -> DDIMScheduler:
    """The sampler the model ships with, whose noise schedule is the one trained on."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,
    )


def timesteps(count: int, generator: torch.Generator) -> Tensor:
    """(count,) timesteps in [0, 1000), half of them above 750; one in each of `count` strata, for less variance.

    Where noise is strong the text decides what appears, and there is most to learn; a little noise is soon undone.
    """
    place = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (1000 * (1 - place.square())).long().clamp(max=999)


def learnt(config: dict[str, Any], data: Data) -> set[str]:
    """The objects that the U-Net is to learn: those listed and those with a held-out pair, or all."""
    chosen = set(config["objects"] or data.split.train)
    return chosen | {name for name, _ in data.split.pairs}


def rows_of(data: Data, objects: set[str]) -> Tensor:
    """(n,) which training scenes show these objects and no others."""
    scenes = [data.scenes[i] for i in data.indices("train")]
    return torch.tensor([row for row, s in enumerate(scenes) if {o.name for o in s.objects} <= objects])


class Objective:
    """One step of denoising on the training scenes `rows`."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        encoded: Encoded,
        whitening: Whitening,
        rows: Tensor,
        config: dict[str, Any],
        device: str,
    ) -> None:
        self.unet, self.encoded, self.whitening, self.rows = unet, encoded, whitening, rows
        self.config, self.device = config, device
        self.signal = scheduler().alphas_cumprod.to(device)

    def __call__(self, generator: torch.Generator, share: float) -> Tensor:
        """The loss of one batch."""
        count = self.config["batch"]
        rows = self.rows[torch.randint(0, len(self.rows), (count,), generator=generator)]
        x = self.encoded.latents[rows].float()
        states = torch.from_numpy(self.encoded.states[rows.numpy()])
        states[torch.rand(count, generator=generator) < self.config["empty"]] = self.encoded.empty
        noise = torch.randn(x.shape, generator=generator)
        steps = timesteps(count, generator)
        x, states, noise, steps = (t.to(self.device) for t in (x, states, noise, steps))
        signal = self.signal[steps].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * x + (1 - signal).sqrt() * noise
        target = signal.sqrt() * noise - (1 - signal).sqrt() * x
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        output = self.unet(noisy, steps, encoder_hidden_states=self.whitening(states.float())).sample.float()
        weight = (5 * (1 - signal)).clamp(max=1)  # SNR + 1 is 1 / (1 - signal)
        return (weight * (output - target).square()).mean()


@torch.no_grad()
def sample(
    unet: UNet2DConditionModel,
    states: Tensor,
    unconditional: Tensor,
    steps: int,
    guidance: float,
    rescale: float,
    seeds: list[int],
) -> Tensor:
    """Latents (b, 4, 16, 16) by DDIM with guidance and its rescaling (Lin et al. 2023, eq. 15 and 16).

    `states` (b, 77, d) and `unconditional` (77, d) or (b, 77, d) are text states; one seed an image.
    """
    plan, device = scheduler(), next(unet.parameters()).device
    plan.set_timesteps(steps)
    noise = [torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(s)) for s in seeds]
    x = torch.stack(noise).to(device)
    both = torch.cat([unconditional.expand_as(states), states]).float().to(device)
    for t in plan.timesteps:
        noisy = torch.cat([x, x]).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            without, with_text = unet(noisy, t, encoder_hidden_states=both).sample.float().chunk(2)
        guided = without + guidance * (with_text - without)
        ratio = with_text.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True)
        guided = guided * (rescale * ratio + 1 - rescale)
        x = plan.step(guided, t, x).prev_sample
    return x


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor, scaling: float) -> Tensor:
    """Scaled latents -> (b, 3, 128, 128) in [-1, 1]."""
    images = [vae.decode(part / scaling).sample.clamp(-1, 1) for part in latents.split(16)]
    return torch.cat(images)


def main() -> None:
    """Run the stage."""
    args = arguments("unet", __doc__)
    config, encoded = read_config(args.config), load_encoded()
    folder = WORK / config["folder"]
    torch.manual_seed(config["budget"]["seed"])  # initial weights only
    unet = build(config, encoded.states.shape[-1])
    whitening = measure(encoded.states, config["whitening_floor"])
    if config["warm_start"]:
        start = UNet2DConditionModel.from_pretrained(ROOT / config["warm_start"])
        unet.load_state_dict(start.state_dict())
        fold(unet, whitening, inverse=True)
    if args.device == "cpu":
        speed_up_wide(unet)
    run = Run({"unet": unet}, folder, args.device, Budget(**config["budget"]))
    vae = AutoencoderKL.from_pretrained(VAE / "average").to(args.device)
    data = load()
    objects = learnt(config, data)
    rows = rows_of(data, objects)
    shown = rows[: config["shown"]].tolist()
    print(
        f"{len(objects)} objects, {len(rows)} scenes",
        *(encoded.captions[i] for i in shown),
        sep="\n",
        flush=True,
    )

    def look(run: Run) -> None:
        average = copy.deepcopy(run.averages["unet"]).cpu()
        fold(average, whitening)
        average.save_pretrained(folder / "average")
        average.to(args.device)
        states = torch.from_numpy(encoded.states[shown])
        latents = sample(average, states, encoded.empty, 15, 4.0, 0.5, shown)
        real = encoded.latents[shown].float().to(args.device)
        pictures = decode(vae, torch.cat([real, latents]), encoded.scaling)
        write_grid(pictures.view(-1, 12, 3, 128, 128), folder / "samples.png")

    train(run, Objective(unet, encoded, whitening, rows, config, args.device), args.minutes, look)


if __name__ == "__main__":
    main()
