"""Train the classifiers that tell clean 128 px images from blurry, pixelated, noisy and washed-out ones.

`quality` ships as a measure and as a reward to learn from; `judge_quality` only judges what was learnt against the
other: another seed, another half of the objects, other widths. Half of what they see went through the autoencoder,
whose own softness must not count as blur.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from scripts.pretrain.clip import shifted
from scripts.pretrain.common import WORK, arguments, read_config, write_atomically, write_json
from scripts.pretrain.data import Data, load
from scripts.pretrain.degrade import DEGRADATIONS
from scripts.pretrain.loop import Budget, Run, train
from scripts.pretrain.vae import DECODER

NAMES = ("judge_quality", "quality")  # of the folders, and in the YAML
LABELS = ("clean", *DEGRADATIONS)


def quality_network(widths: list[int]) -> nn.Sequential:
    """(b, 3, h, w) in [-1, 1] -> (b, 5) logits of LABELS: strided convolutions, then the mean over all places."""
    layers: list[nn.Module] = []
    for before, width in zip([3, *widths], widths, strict=False):
        layers += [nn.Conv2d(before, width, 3, 2, 1), nn.ReLU()]
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # torch's own lets the signal die away
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], len(LABELS)))


@torch.no_grad()
def through_autoencoder(vae: AutoencoderKL, pixels: Tensor, device: str) -> Tensor:
    """(n, 3, 128, 128) uint8 -> the same, encoded and decoded."""
    vae, found = vae.to(device), []
    for part in pixels.split(16):
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            output = vae.decode(vae.encode(part.to(device).float() / 127.5 - 1).latent_dist.mode()).sample
        found.append(((output.float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu())
    return torch.cat(found)


def renderings(data: Data, indices: list[int], seed: int) -> tuple[Tensor, Tensor]:
    """Clean scenes, three in five of them degraded: (n, 3, 128, 128) uint8 and (n,) positions in LABELS."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(0, 20, (len(indices),), generator=generator)
    labels = (draws // 3 + 1) * (draws < 12)  # three of twenty for each way to be bad, eight clean
    pixels = torch.from_numpy(data.images[indices])
    for image, label in zip(pixels, labels.tolist(), strict=True):
        if label:
            bad = DEGRADATIONS[LABELS[label]](image.float() / 255, generator)
            image.copy_((bad * 255).round().clamp(0, 255))
    return pixels, labels


def clean(data: Data, use: str, half: int | None = None) -> list[int]:
    """Scenes of this use that nothing degrades; of every second object only, if `half` is 0 or 1."""
    number = {name: i for i, name in enumerate(data.split.train)}
    return [
        i
        for i in data.indices(use)
        if not data.scenes[i].degradation
        and (half is None or number[data.scenes[i].objects[0].name] % 2 == half)
    ]


class Objective:
    """Cross-entropy of the five labels; half of a batch is as the autoencoder hands it back."""

    def __init__(self, network: nn.Module, data: Data, config: dict[str, Any], device: str) -> None:
        self.network, self.batch, self.device = network, config["batch"], device
        plain, labels = renderings(data, clean(data, "train", config["half"]), config["budget"]["seed"])
        some = slice(0, config["decoded"])
        vae = AutoencoderKL.from_pretrained(DECODER / "average")
        decoded = through_autoencoder(vae, plain[some], device)
        self.sets = ((plain, labels), (decoded, labels[some]))

    def __call__(self, generator: torch.Generator, share: float) -> Tensor:
        """The loss of one batch."""
        rows = [torch.randint(0, len(p), (self.batch // 2,), generator=generator) for p, _ in self.sets]
        pixels = torch.cat([p[r] for (p, _), r in zip(self.sets, rows, strict=True)])
        labels = torch.cat([t[r] for (_, t), r in zip(self.sets, rows, strict=True)])
        pixels = shifted(pixels.float() / 127.5 - 1, 8, generator).contiguous(
            memory_format=torch.channels_last
        )
        return F.cross_entropy(self.network(pixels.to(self.device)).float(), labels.to(self.device))


@torch.no_grad()
def accuracy(network: nn.Module, data: Data, device: str, count: int = 320) -> dict[str, float]:
    """Share of held-out objects' images told rightly to be degraded or not, plain and through the autoencoder, and
    the share of the clean ones that are called degraded."""
    plain, labels = renderings(data, clean(data, "object")[:count], seed=0)
    decoded = through_autoencoder(AutoencoderKL.from_pretrained(DECODER / "average"), plain, device)
    found = {}
    for name, pixels in (("plain", plain), ("decoded", decoded)):
        chances = [network(p.to(device).float() / 127.5 - 1).softmax(1)[:, 0].cpu() for p in pixels.split(64)]
        called = torch.cat(chances) < 0.5
        found[name] = (called == (labels > 0)).float().mean().item()
        found[f"{name}, false alarms"] = called[labels == 0].float().mean().item()
    return found


def write(network: nn.Module, widths: list[int], folder: Path) -> None:
    """The classifier's tensors (fp16), and a configuration that says how to build and read it."""
    tensors = {k: v.half().contiguous() for k, v in network.state_dict().items()}
    write_atomically(folder / "model.safetensors", lambda path: save_file(tensors, path))
    layers = "for each width: Conv2d(3x3, stride 2, padding 1), ReLU; then mean over height and width, Linear"
    config = {"widths": widths, "labels": list(LABELS), "mean": [0.5] * 3, "std": [0.5] * 3, "size": 128}
    write_json(folder / "config.json", config | {"layers": layers})


def main() -> None:
    """Run the stage: one classifier, then the other."""
    args = arguments("quality", __doc__)
    configs, data = read_config(args.config), load()
    for name in NAMES:
        config, folder = configs[name], WORK / name
        torch.manual_seed(config["budget"]["seed"])  # initial weights only
        network = quality_network(config["widths"]).to(memory_format=torch.channels_last)
        run = Run({"quality": network}, folder, args.device, Budget(**config["budget"]))
        if run.spent < run.budget.minutes:
            train(run, Objective(network, data, config, args.device), args.minutes)
        write(run.averages["quality"], config["widths"], folder)
        told = accuracy(run.averages["quality"], data, args.device)
        write_json(folder / "figures.json", told)
        print(f"{name}: degraded or not, held-out objects: {told}", flush=True)


if __name__ == "__main__":
    main()
