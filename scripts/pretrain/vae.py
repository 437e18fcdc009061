"""Train the autoencoder: 128 px images <-> 4 x 16 x 16 latents that a small U-Net finds easy.

Loss: L1, squared error, edges (L1 of neighbours' differences), L1 after 2x and 4x pooling, a small KL; and for half
of the batches the equivariance term of EQ-VAE (arXiv 2502.09509, eq. 6): the decoder turns latents that were scaled
down, turned or mirrored into the image transformed alike. That keeps latents smooth.

Once the U-Net has begun to learn from the latents, the encoder is frozen and the decoder may go on
(configs/pretrain/decoder.yaml).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from scripts.pretrain.common import ROOT, WORK, arguments, read_config, write_json
from scripts.pretrain.data import Data, load
from scripts.pretrain.loop import Budget, Run, train

FOLDER = WORK / "vae"
DECODER = WORK / "decoder"


def build(config: dict[str, Any]) -> AutoencoderKL:
    """The autoencoder, untrained: residual branches closed and latents nearly free of noise, so that it is almost
    linear at first. (With diffusers' own initial weights it sat for 500 steps on a solution without colours.)"""
    widths = config["widths"]
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=tuple(widths),
        layers_per_block=1,
        latent_channels=config["latent_channels"],
        norm_num_groups=config["groups"],
        sample_size=128,
        mid_block_add_attention=False,
    )
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
    nn.init.constant_(vae.quant_conv.bias.data[config["latent_channels"] :], -5.0)
    return vae


def pick(low: int, high: int, count: int, generator: torch.Generator) -> list[int]:
    """`count` integers from [low, high)."""
    return torch.randint(low, high, (count,), generator=generator).tolist()


def crops(data: Data, indices: list[int], side: int, count: int, generator: torch.Generator) -> Tensor:
    """(count, 3, side, side) in [-1, 1]: of three random crops each, the one with the most contrast."""
    found = []
    for which in pick(0, len(indices), count, generator):
        image = torch.from_numpy(data.images[indices[which]].copy())
        corners = zip(*(pick(0, image.shape[-1] - side + 1, 3, generator) for _ in range(2)), strict=True)
        options = [image[:, y : y + side, x : x + side].float() for y, x in corners]
        found.append(max(options, key=lambda o: o[:, ::4, ::4].std().item()))
    return torch.stack(found) / 127.5 - 1


def transformed(x: Tensor, turns: int, mirrored: bool, scale: float) -> Tensor:
    """(b, c, h, w) turned by quarter turns, mirrored, scaled down by `scale` <= 1 (antialiased)."""
    x = x.rot90(turns, (2, 3))
    x = x.flip(3) if mirrored else x
    if scale == 1:
        return x
    side = round(x.shape[-1] * scale)
    return F.interpolate(x.float(), (side, side), mode="bilinear", antialias=True)


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences between horizontal and between vertical neighbours."""
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 + squares (wholly wrong colours) + edges + what remains after pooling (colours of areas)."""
    loss = F.l1_loss(output, target) + F.mse_loss(output, target)
    for a, b in zip(gradients(output), gradients(target), strict=True):
        loss = loss + 0.5 * F.l1_loss(a, b)
    for size in (2, 4):
        loss = loss + 0.25 * F.l1_loss(F.avg_pool2d(output, size), F.avg_pool2d(target, size))
    return loss


def psnr(output: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image; values in [-1, 1]. (b, 3, h, w) twice -> (b,)."""
    error = (output.clamp(-1, 1) - target).float().square().mean((1, 2, 3)) / 4
    return -10 * error.clamp_min(1e-10).log10()


class Objective:
    """One training step of the autoencoder; with `encoder_frozen` only the decoder learns."""

    def __init__(self, vae: AutoencoderKL, data: Data, config: dict[str, Any], device: str) -> None:
        self.vae, self.data, self.config, self.device = vae, data, config, device
        self.indices = data.indices("train", "extra")

    def __call__(self, generator: torch.Generator, share: float) -> Tensor:
        """The loss of one batch."""
        c = self.config
        large = share > 1 - c["share_at_128"]
        side, count = (128, c["batch"] // 4) if large else (64, c["batch"])
        x = crops(self.data, self.indices, side, count, generator).to(self.device)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(not c["encoder_frozen"]):
            posterior = self.vae.encode(x).latent_dist
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        z = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=generator).to(self.device)
        turns, mirrored, scale_steps = pick(0, 4, 3, generator)
        if torch.rand((), generator=generator) < c["equivariance"]:
            scale = (1.0, 0.75, 0.5, 0.5)[scale_steps]
            x, z = (transformed(v, turns, mirrored >= 2, scale) for v in (x, z))
        loss = reconstruction_loss(self.vae.decode(z).sample.float(), x)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return loss + c["kl"] * kl


@torch.no_grad()
def held_out_psnr(vae: AutoencoderKL, data: Data, device: str, count: int = 96) -> tuple[float, Tensor]:
    """Mean PSNR in dB over clean scenes of held-out objects; and rows of (image, reconstruction) to look at."""
    clean = [i for i in data.indices("object") if not data.scenes[i].degradation][:count]
    scores, rows = [], []
    for start in range(0, len(clean), 16):
        batch = [torch.from_numpy(data.images[i].copy()) for i in clean[start : start + 16]]
        x = torch.stack(batch).to(device).float() / 127.5 - 1
        y = vae.decode(vae.encode(x).latent_dist.mode()).sample
        scores.append(psnr(y, x))
        rows.append(torch.stack([x[:8], y[:8].clamp(-1, 1)]))
    return torch.cat(scores).mean().item(), torch.cat(rows[:2])


def write_grid(rows: Tensor, path: Path) -> None:
    """(rows, columns, 3, h, w) in [-1, 1] as one PNG."""
    r, c, _, h, w = rows.shape
    pixels = rows.permute(0, 3, 1, 4, 2).reshape(r * h, c * w, 3)
    Image.fromarray(((pixels + 1) * 127.5).round().byte().cpu().numpy()).save(path)


def main() -> None:
    """Run the stage."""
    args = arguments("vae", __doc__)
    config, data = read_config(args.config), load()
    torch.manual_seed(config["budget"]["seed"])  # initial weights only
    vae = build(config).to(memory_format=torch.channels_last)
    folder = WORK / config["folder"]
    if config["warm_start"]:
        vae.load_state_dict(AutoencoderKL.from_pretrained(ROOT / config["warm_start"]).state_dict())
    if config["encoder_frozen"]:
        vae.encoder.requires_grad_(False), vae.quant_conv.requires_grad_(False)
    run = Run({"vae": vae}, folder, args.device, Budget(**config["budget"]))

    def look(run: Run) -> None:
        average = run.averages["vae"]
        average.save_pretrained(folder / "average")
        decibels, rows = held_out_psnr(average, data, args.device)
        write_grid(rows, folder / "reconstructions.png")
        write_json(folder / "figures.json", {"psnr": decibels, "step": run.step, "minutes": run.spent})
        print(f"held-out PSNR {decibels:.2f} dB", flush=True)

    train(run, Objective(vae, data, config, args.device), args.minutes, look)


if __name__ == "__main__":
    main()
