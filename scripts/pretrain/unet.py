"""Train the U-Net on latents and text states computed beforehand.

v-prediction (Salimans & Ho 2022) on a schedule rescaled to zero terminal SNR (Lin et al. 2023). The loss of a
sample is weighted by min(SNR + 1, 5) / (SNR + 1): min-SNR-5 (Hang et al. 2023) shifted by one, because the
original gives the last, purely noisy timestep no weight at all and sampling starts there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from scripts.pretrain.common import ROOT, WORK, arguments, read_config, write_json
from scripts.pretrain.convolution import speed_up_wide
from scripts.pretrain.draws import chances, integers, normal
from scripts.pretrain.latents import Encoded, load_encoded
from scripts.pretrain.loop import Budget, Objective, Run, train
from scripts.pretrain.vae import latest, write_grid
from scripts.pretrain.whiten import Whitening, fold, measure, unfold

FOLDER = WORK / "unet"


def build(config: dict[str, Any], text_width: int) -> UNet2DConditionModel:
    """The untrained U-Net. Few groups: far faster on a CPU in channels-last layout. Its middle is one block without
    attention, since attention stands right before and behind it."""
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=config["latent_channels"],
        out_channels=config["latent_channels"],
        block_out_channels=tuple(config["widths"]),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2D",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=list(config["heads"]),
        cross_attention_dim=text_width,
        norm_num_groups=config["groups"],
    )
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
    place = (torch.arange(count, device=generator.device) + chances(count, generator)) / count
    return (1000 * (1 - place.square())).long().clamp(max=999)


class DenoisingObjective(Objective):
    """One step of denoising."""

    def __init__(self, run: Run, encoded: Encoded, whitening: Whitening, config: dict[str, Any]) -> None:
        self.unet, self.encoded, self.config = run.modules["unet"], encoded, config
        self.whitening = whitening.to(run.device)
        self.signal = scheduler().alphas_cumprod.to(run.device)

    def states(self, captions: Tensor, generator: torch.Generator) -> Tensor:
        """(b, 77, d): the captions' whitened states; some are empty, some end where the caption does."""
        states, empty = self.encoded.states[captions], self.encoded.empty
        hidden = chances((len(captions), 1), generator) < self.config["end_hidden"]
        past = torch.arange(states.shape[1], device=states.device) >= self.encoded.ends[captions, None]
        silent = chances((len(captions), 1), generator) < self.config["empty"]
        states = torch.where(((hidden & past) | silent)[..., None], empty, states)
        with torch.autocast(
            states.device.type, enabled=False
        ):  # small directions would drown in bf16's rounding
            return self.whitening(states.float())

    def __call__(self, generator: torch.Generator, choice: Hashable) -> Tensor:
        """The loss of one batch."""
        captions = integers(len(self.encoded.captions), self.config["batch"], generator)
        x = self.encoded.latents[captions // self.encoded.per_scene].float()
        states = self.states(captions, generator)
        noise, steps = normal(x, generator), timesteps(len(x), generator)
        signal = self.signal[steps].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * x + (1 - signal).sqrt() * noise
        target = signal.sqrt() * noise - (1 - signal).sqrt() * x
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        output = self.unet(noisy, steps, encoder_hidden_states=states).sample.float()
        weight = (5 * (1 - signal)).clamp(max=1)  # SNR + 1 is 1 / (1 - signal)
        return (weight * (output - target).square()).mean()


@torch.no_grad()
def unexplained(unet: UNet2DConditionModel, encoded: Encoded, count: int = 192) -> float:
    """The squared error at pure noise, where all that is known is the text; the latents' variance is about 1."""
    rows = torch.arange(count) * (len(encoded.latents) // count)
    device, noise = next(unet.parameters()).device, torch.Generator().manual_seed(0)
    errors = []
    for part in rows.split(48):
        x = torch.randn(encoded.latents[part].shape, generator=noise).to(device)
        states = encoded.states[part * encoded.per_scene].float()
        with torch.autocast(device.type, torch.bfloat16):
            output = unet(x.contiguous(memory_format=torch.channels_last), 999, states).sample.float()
        errors.append((output + encoded.latents[part].float()).square().mean())
    return torch.stack(errors).mean().item()


@torch.no_grad()
def trajectory(
    unet: UNet2DConditionModel,
    states: Tensor,
    unconditional: Tensor,
    steps: int,
    guidance: float,
    rescale: float,
    noise: Tensor,
) -> list[Tensor]:
    """Latents (b, c, 16, 16) before each step and after the last, by DDIM with guidance and its rescaling (Lin et al.
    2023, eq. 15 and 16).

    `states` (b, 77, d) and `unconditional` (77, d) or (b, 77, d) are text states; `noise` is where it begins.
    """
    plan, device = scheduler(), next(unet.parameters()).device
    plan.set_timesteps(steps)
    found = [noise.to(device)]
    both = torch.cat([unconditional.expand_as(states), states]).float().to(device)
    for t in plan.timesteps:
        noisy = torch.cat([found[-1]] * 2).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            without, with_text = unet(noisy, t, encoder_hidden_states=both).sample.float().chunk(2)
        guided = without + guidance * (with_text - without)
        ratio = with_text.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True)
        guided = guided * (rescale * ratio + 1 - rescale)
        found.append(plan.step(guided, t, found[-1]).prev_sample)
    return found


def noises(unet: UNet2DConditionModel, seeds: list[int]) -> Tensor:
    """(b, c, 16, 16): one seed an image."""
    shape = unet.config.in_channels, 16, 16
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds])


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor, scaling: float) -> Tensor:
    """Scaled latents -> (b, 3, 128, 128) in [-1, 1]."""
    images = [vae.decode(part / scaling).sample.clamp(-1, 1) for part in latents.split(16)]
    return torch.cat(images)


def begin(unet: UNet2DConditionModel, folder: Path, whitening: Whitening) -> None:
    """Take over the weights in `folder`, which learnt from the same text states and latents."""
    start = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32)
    unfold(start, whitening)
    unet.load_state_dict(start.state_dict())


def prepare(
    config: dict[str, Any], encoded: Encoded, device: str, folder: Path
) -> tuple[Run, DenoisingObjective]:
    """The run of the stage in `folder` and what it learns."""
    torch.manual_seed(config["budget"]["seed"])  # initial weights only
    unet = build(config, encoded.states.shape[-1])
    whitening = measure(encoded.states, config["whitening_floor"])
    if config["warm_start"]:
        begin(unet, ROOT / config["warm_start"], whitening)
    if device == "cpu":
        unet.set_attn_processor(
            AttnProcessor()
        )  # plain: the fused kernel's backward pass is slow for narrow heads
        speed_up_wide(unet)
    run = Run({"unet": unet}, folder, device, Budget(**config["budget"]), config["recorded"])
    if config["compile"]:
        unet.compile(dynamic=False)
    return run, DenoisingObjective(run, encoded, whitening, config)


def train_unet(
    config: dict[str, Any],
    encoded: Encoded,
    device: str,
    minutes: float | None,
    saved: Callable[[], None] | None = None,
) -> None:
    """The stage; `saved` is called when averaged weights have been written."""
    run, objective = prepare(config, encoded, device, FOLDER)
    vae = latest().to(device)
    every = len(encoded.latents) // config["shown"]
    shown = [every * i + every // 2 for i in range(config["shown"])]
    print(*encoded.texts(shown), sep="\n", flush=True)

    def look(run: Run) -> None:
        average: UNet2DConditionModel = copy.deepcopy(run.averages["unet"]).cpu()
        fold(average, objective.whitening)
        average.save_pretrained(FOLDER / "average")
        average.to(device)
        left = unexplained(average, encoded)
        write_json(FOLDER / "figures.json", {"unexplained": left, "step": run.step, "minutes": run.spent})
        print(f"unexplained at pure noise: {left:.4f}", flush=True)
        states = encoded.states[[i * encoded.per_scene for i in shown]]
        drawn = trajectory(average, states, encoded.empty, 15, 4.0, 0.5, noises(average, shown))[-1]
        pictures = decode(vae, torch.cat([encoded.latents[shown].float(), drawn]), encoded.scaling)
        write_grid(pictures.view(-1, 12, 3, 128, 128), FOLDER / "samples.png")
        if saved:
            saved()

    train(run, objective, minutes, look)


def main() -> None:
    """Run the stage on its own."""
    args = arguments("unet", __doc__)
    train_unet(read_config(args.config), load_encoded(args.device), args.device, args.minutes)


if __name__ == "__main__":
    main()
