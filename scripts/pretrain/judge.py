"""Train the two judges of generated images, on renderings alone: what an image shows, and whether it is degraded.

The first names object, style and background of 64 px images; it stays under outputs/. The second tells clean
images from blurry, pixelated, noisy and washed-out ones at 128 px; it ships. Half of its renderings went through
the autoencoder, whose own softness must not count as blur.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from scripts.pretrain.catalogue import STYLES
from scripts.pretrain.clip import shifted, small_images
from scripts.pretrain.common import WORK, arguments, read_config, write_atomically, write_json
from scripts.pretrain.data import Data, load
from scripts.pretrain.degrade import DEGRADATIONS
from scripts.pretrain.loop import Budget, Run, train
from scripts.pretrain.scene import COLOURS
from scripts.pretrain.vae import FOLDER as VAE

FOLDER, QUALITY = WORK / "judge", WORK / "quality"
LABELS = ("clean", *DEGRADATIONS)


class Judge(nn.Module):
    """(b, 3, 64, 64) in [-1, 1] -> logits of object, style and background."""

    def __init__(self, objects: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in (32, 64, 128, 256):
            layers += [nn.Conv2d(before, width, 3, 2, 1), nn.GroupNorm(4, width), nn.ReLU()]
            layers += [nn.Conv2d(width, width, 3, 1, 1), nn.GroupNorm(4, width), nn.ReLU()]
            before = width
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2))
        sizes = (objects, len(STYLES), len(COLOURS))
        self.heads = nn.ModuleList(nn.Linear(before * 16, size) for size in sizes)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Logits of the three heads: (b, objects), (b, styles), (b, colours)."""
        features = self.body(pixels)
        return [head(features) for head in self.heads]


def quality_network(widths: list[int]) -> nn.Sequential:
    """(b, 3, h, w) in [-1, 1] -> (b, 5) logits of LABELS: strided convolutions, then the mean over all places."""
    layers: list[nn.Module] = []
    for before, width in zip([3, *widths], widths, strict=False):
        layers += [nn.Conv2d(before, width, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], len(LABELS)))


class JudgeObjective:
    """Cross-entropies of the three heads on single-object scenes of training objects, held-out pairs included."""

    def __init__(self, judge: Judge, data: Data, config: dict[str, Any], device: str) -> None:
        self.judge, self.config, self.device = judge, config, device
        chosen = [i for i in data.indices("train", "pair") if len(data.scenes[i].objects) == 1]
        scenes = [data.scenes[i] for i in chosen]
        names, styles, colours = (
            {v: i for i, v in enumerate(values)} for values in (data.split.train, STYLES, COLOURS)
        )
        self.pixels = small_images(data.images, chosen)
        self.targets = torch.tensor(
            [(names[s.objects[0].name], styles[s.style], colours[s.background]) for s in scenes]
        )

    def __call__(self, generator: torch.Generator, share: float) -> Tensor:
        """The loss of one batch."""
        rows = torch.randint(0, len(self.pixels), (self.config["batch"],), generator=generator)
        pixels = shifted(self.pixels[rows].float() / 127.5 - 1, 6, generator)
        grain = 0.1 * torch.rand(len(rows), 1, 1, 1, generator=generator)
        pixels = pixels + grain * torch.randn(pixels.shape, generator=generator)
        soft = torch.rand(len(rows), generator=generator) < 0.3
        pixels[soft] = F.avg_pool2d(F.pad(pixels[soft], (1, 1, 1, 1), mode="replicate"), 3, 1)
        logits = self.judge(pixels.to(self.device))
        targets = self.targets[rows].to(self.device).T
        parts = [F.cross_entropy(a.float(), b) for a, b in zip(logits, targets, strict=True)]
        return parts[0] + 0.3 * parts[1] + 0.3 * parts[2]


@torch.no_grad()
def through_autoencoder(vae: AutoencoderKL, pixels: Tensor, device: str) -> Tensor:
    """(n, 3, 128, 128) uint8 -> the same, encoded and decoded."""
    vae, found = vae.to(device), []
    for part in pixels.split(16):
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            output = vae.decode(vae.encode(part.to(device).float() / 127.5 - 1).latent_dist.mode()).sample
        found.append(((output.float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu())
    return torch.cat(found)


class QualityObjective:
    """Cross-entropy of the five labels; every rendering as it is and as the autoencoder hands it back."""

    def __init__(self, network: nn.Module, data: Data, config: dict[str, Any], device: str) -> None:
        self.network, self.config, self.device = network, config, device
        chosen = data.indices("train")[: config["renderings"]]
        plain = torch.from_numpy(data.images[chosen])
        vae = AutoencoderKL.from_pretrained(VAE / "average")
        self.pixels = torch.cat([plain, through_autoencoder(vae, plain, device)])
        labels = [LABELS.index(data.scenes[i].degradation or "clean") for i in chosen]
        self.targets = torch.tensor(labels * 2)

    def __call__(self, generator: torch.Generator, share: float) -> Tensor:
        """The loss of one batch."""
        rows = torch.randint(0, len(self.pixels), (self.config["batch"],), generator=generator)
        pixels = shifted(self.pixels[rows].float() / 127.5 - 1, 8, generator)
        return F.cross_entropy(
            self.network(pixels.to(self.device)).float(), self.targets[rows].to(self.device)
        )


@torch.no_grad()
def quality_accuracy(network: nn.Module, data: Data, device: str, count: int = 320) -> dict[str, float]:
    """Share of held-out objects' scenes whose degradedness (yes or no) is told, plain and through the autoencoder."""
    chosen = data.indices("object")[:count]
    plain = torch.from_numpy(data.images[chosen])
    truth = torch.tensor([bool(data.scenes[i].degradation) for i in chosen])
    decoded = through_autoencoder(AutoencoderKL.from_pretrained(VAE / "average"), plain, device)
    found = {}
    for name, pixels in (("plain", plain), ("decoded", decoded)):
        probability = network(pixels.to(device).float() / 127.5 - 1).softmax(1)
        found[name] = ((probability[:, 0] < 0.5).cpu() == truth).float().mean().item()
    return found


def write_quality(network: nn.Module, widths: list[int]) -> None:
    """The shipped classifier: its tensors, and a configuration that says how to build and read it."""
    tensors = {k: v.contiguous() for k, v in network.state_dict().items()}
    write_atomically(QUALITY / "model.safetensors", lambda path: save_file(tensors, path))
    layers = "for each width: Conv2d(3x3, stride 2, padding 1), ReLU; then mean over height and width, Linear"
    write_json(
        QUALITY / "config.json",
        {
            "widths": widths,
            "labels": list(LABELS),
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "size": 128,
            "layers": layers,
        },
    )


def main() -> None:
    """Run the stage: first the quality classifier, which is quick, then the judge."""
    args = arguments("judge", __doc__)
    config, data = read_config(args.config), load()
    torch.manual_seed(config["quality"]["budget"]["seed"])  # initial weights only
    widths = config["quality"]["widths"]
    network = quality_network(widths)
    run = Run({"quality": network}, QUALITY, args.device, Budget(**config["quality"]["budget"]))
    if run.spent < run.budget.minutes:
        train(run, QualityObjective(network, data, config["quality"], args.device), args.minutes)
    write_quality(run.averages["quality"], widths)
    told = quality_accuracy(run.averages["quality"], data, args.device)
    write_json(QUALITY / "figures.json", told)
    print(f"degraded or not, held-out objects: {told}", flush=True)
    judge = Judge(len(data.split.train)).to(memory_format=torch.channels_last)
    run = Run({"judge": judge}, FOLDER, args.device, Budget(**config["judge"]["budget"]))
    train(run, JudgeObjective(judge, data, config["judge"], args.device), args.minutes)
    write_atomically(FOLDER / "average.pt", lambda path: torch.save(run.averages["judge"].state_dict(), path))


if __name__ == "__main__":
    main()
