"""Train the autoencoder: 128 px images <-> 8 x 16 x 16 latents that a small U-Net finds easy.

Loss: L1, squared error, edges (L1 of neighbours' differences), L1 after 2x and 4x pooling, a small KL; and for half
of the batches the equivariance term of EQ-VAE (arXiv 2502.09509, eq. 6): the decoder turns latents that were scaled
down, turned or mirrored into the image transformed alike. That keeps latents smooth.

Once the U-Net has begun to learn from the latents, the encoder is frozen and the decoder may go on, now against a
discriminator as well (configs/pretrain/decoder.yaml).
"""

from __future__ import annotations

import random
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from scripts.pretrain.adversary import Patches, Perception, sharpness_loss
from scripts.pretrain.clip import FOLDER as CLIP
from scripts.pretrain.clip import Sight
from scripts.pretrain.common import ROOT, WORK, arguments, read_config, write_json
from scripts.pretrain.data import Data, load
from scripts.pretrain.draws import chances, integers, normal, windows
from scripts.pretrain.loop import Budget, Objective, Run, train

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


def latest() -> AutoencoderKL:
    """What the last stretch left: with the decoder's own, if it had one."""
    folder = DECODER if (DECODER / "average").exists() else FOLDER
    return AutoencoderKL.from_pretrained(folder / "average")


def grown(old: Tensor, fresh: Tensor, latents: tuple[int, int]) -> Tensor:
    """A layer's weights for more channels, computing what it did; `latents` are the latent channels before and now.

    Hidden channels are repeated, and what reads them divides by how often. (One normalisation group over all of them
    makes that exact.) New latent channels keep their `fresh` weights, but no old one reads them.
    """
    places = []
    for axis, (before, now) in enumerate(zip(old.shape[:2], fresh.shape[:2], strict=True)):
        if before in (latents[0], 2 * latents[0]) and now * latents[0] == before * latents[1]:
            of_latents = torch.arange(before)  # means, then log variances
            places.append(of_latents + (of_latents >= latents[0]) * (latents[1] - latents[0]))
        else:
            old = old.repeat_interleave(now // before, axis) / (now // before if axis else 1)
            places.append(torch.arange(now))
    found = fresh.clone()
    found[places[0]] = 0
    if old.dim() == 1:
        found[places[0]] = old
    else:
        found[places[0][:, None], places[1]] = old
    return found


@torch.no_grad()
def begin(vae: AutoencoderKL, folder: Path) -> None:
    """Take over the weights in `folder`, of an autoencoder that may be narrower and have fewer latent channels; a
    little noise tells repeated channels apart."""
    start = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)
    old, latents = start.state_dict(), (start.config.latent_channels, vae.config.latent_channels)
    for name, value in vae.state_dict().items():
        found = grown(old[name], value, latents)
        repeated = found.dim() > 1 and found.shape != old[name].shape
        value.copy_(found + 0.02 * found.std() * torch.randn_like(found) if repeated else found)


def crops(images: Tensor, rows: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """(b, 3, side, side) in [-1, 1]: of three random squares of each image, the one with the most contrast."""
    found = images[rows].float() / 127.5 - 1
    if side == found.shape[-1]:
        return found
    room = found.shape[-1] - side + 1
    options = torch.stack([windows(found, integers(room, (len(rows), 2), generator), side) for _ in range(3)])
    best = options[..., ::4, ::4].flatten(2).std(2).argmax(0)
    return options[best, torch.arange(len(rows), device=best.device)]


def transformed(x: Tensor, orientation: Tensor, scale: float) -> Tensor:
    """(b, c, h, h) in one of a square's eight orientations, (1,), scaled down by `scale` <= 1 (antialiased)."""
    turned = [x.rot90(turns, (2, 3)) for turns in range(4)]
    x = torch.stack([*turned, *(each.flip(3) for each in turned)]).index_select(0, orientation)[0]
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


class Form(NamedTuple):
    """What a step of the autoencoder looks at: squares of so many pixels; and the factor by which equivariance scales
    its latents, or None where it is not asked for."""

    side: int
    scale: float | None


class AutoencoderObjective(Objective):
    """One training step of the autoencoder; with `encoder_frozen` only the decoder learns."""

    def __init__(self, run: Run, data: Data, config: dict[str, Any], perception: Perception | None) -> None:
        self.vae: AutoencoderKL = run.modules["vae"]
        patches = run.modules.get("patches")
        assert patches is None or isinstance(patches, Patches)
        self.patches, self.perception, self.images, self.config = patches, perception, data.images, config
        self.rows = torch.tensor(data.indices("train", "extra"), device=data.images.device)
        self.ramp = torch.zeros((), device=data.images.device)

    def choose(self, share: float, order: random.Random) -> Form:
        """Small squares or whole images, and for a share of the batches a scale."""
        c = self.config
        if self.patches:  # not at once: an untrained discriminator says nothing
            self.ramp.fill_(min(1.0, share / c["ramp"]))
        scale = order.choice((1.0, 0.5)) if order.random() < c["equivariance"] else None
        return Form(128 if share >= 1 - c["share_at_128"] else 64, scale)

    def __call__(self, generator: torch.Generator, choice: Hashable) -> Tensor:
        """The loss of one batch."""
        assert isinstance(choice, Form)
        c, count = self.config, self.config["batch"] // (4 if choice.side == 128 else 1)
        rows = self.rows[integers(len(self.rows), count, generator)]
        x = crops(self.images, rows, choice.side, generator).contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(not c["encoder_frozen"]):
            posterior = self.vae.encode(x).latent_dist
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        spread = (0.5 * log_variance).exp()
        if c["encoder_frozen"]:  # up to `noise` more, as generated latents have it: else it becomes specks
            spread = spread + c["noise"] * chances((count, 1, 1, 1), generator)
        z = mean + spread * normal(mean, generator)
        if choice.scale is not None:
            orientation = integers(8, 1, generator)
            x, z = (transformed(v, orientation, choice.scale) for v in (x, z))
        output = self.vae.decode(z).sample.float()
        loss = reconstruction_loss(output, x)
        if self.patches:
            weights = {name: self.ramp * c[name] for name in ("adversary", "matching")}
            loss = loss + sharpness_loss(self.patches, output, x, weights)
        if self.perception:
            loss = loss + c["perception"] * self.perception(output, x)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return loss + c["kl"] * kl


@torch.no_grad()
def reconstructed(vae: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 3, 128, 128) uint8 -> the images in [-1, 1] and what the autoencoder makes of them, on the CPU."""
    device, found = next(vae.parameters()).device, []
    for part in images.split(16):
        x = (part.to(device).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        found.append((x.cpu(), vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1).cpu()))
    return torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])


def softness(images: Tensor) -> float:
    """Of neighbouring pixels that differ by more than 0.05, the share that differs by less than 0.4; values in [-1, 1].

    Two flat colours side by side differ by much at once; blur spreads the step over many small ones.
    """
    steps = torch.cat([g.abs().flatten() for g in gradients(images)])
    steps = steps[steps > 0.05]
    return (steps < 0.4).float().mean().item()


def figures(vae: AutoencoderKL, data: Data, count: int = 96) -> tuple[dict[str, float], Tensor]:
    """How well clean scenes of held-out objects come back: PSNR in dB, softness beside the originals'; and rows of
    (image, reconstruction) to look at."""
    clean = [i for i in data.indices("object") if not data.scenes[i].degradation][:count]
    x, y = reconstructed(vae, data.images[clean])
    found = {"psnr": psnr(y, x).mean().item(), "softness": softness(y), "softness_of_originals": softness(x)}
    return found, torch.stack([x[:16].view(2, 8, *x.shape[1:]), y[:16].view(2, 8, *y.shape[1:])], 1).flatten(
        0, 1
    )


def write_grid(rows: Tensor, path: Path) -> None:
    """(rows, columns, 3, h, w) in [-1, 1] as one PNG."""
    r, c, _, h, w = rows.shape
    pixels = rows.permute(0, 3, 1, 4, 2).reshape(r * h, c * w, 3)
    Image.fromarray(((pixels + 1) * 127.5).round().byte().cpu().numpy()).save(path)


def prepare(
    config: dict[str, Any], data: Data, device: str, folder: Path
) -> tuple[Run, AutoencoderObjective]:
    """The run of the stage in `folder` and what it learns: both halves, or the decoder alone."""
    torch.manual_seed(config["budget"]["seed"])  # initial weights only
    vae = build(config).to(memory_format=torch.channels_last)
    if (
        folder / "average"
    ).exists():  # a stretch elsewhere left it; a checkpoint, if there is one, counts for more
        begin(vae, folder / "average")
    elif config["warm_start"]:
        begin(vae, ROOT / config["warm_start"])
    if config["encoder_frozen"]:
        vae.encoder.requires_grad_(False), vae.quant_conv.requires_grad_(False)
    modules: dict[str, nn.Module] = {"vae": vae}
    if config["adversary"]:
        modules["patches"] = Patches()
    perception = None
    if config["perception"]:
        perception = Perception(Sight.of(torch.load(CLIP / "sight.pt", weights_only=True)).to(device))
    run = Run(modules, folder, device, Budget(**config["budget"]), config["recorded"])
    if config["compile"]:
        vae.encoder.compile(dynamic=False), vae.decoder.compile(dynamic=False)
    return run, AutoencoderObjective(run, data, config, perception)


def train_autoencoder(config: dict[str, Any], data: Data, device: str, minutes: float | None) -> None:
    """The stage."""
    folder = WORK / config["folder"]
    run, objective = prepare(config, data, device, folder)

    def look(run: Run) -> None:
        average: AutoencoderKL = run.averages["vae"]
        average.save_pretrained(folder / "average")
        found, rows = figures(average, data)
        write_grid(rows, folder / "reconstructions.png")
        write_json(folder / "figures.json", found | {"step": run.step, "minutes": run.spent})
        print(found, flush=True)

    train(run, objective, minutes, look)


def main() -> None:
    """Run the stage on its own."""
    args = arguments("vae", __doc__)
    train_autoencoder(read_config(args.config), load(args.device), args.device, args.minutes)


if __name__ == "__main__":
    main()
