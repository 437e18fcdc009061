"""Train the classifiers that tell clean 128 px images from blurry, pixelated, noisy and washed-out ones.

`quality` ships as a measure and as a reward to learn from; `judge_quality` only judges what was learnt against the
other: another seed, another half of the objects, other widths. Half of what they see went through the autoencoder,
whose own softness must not count as blur.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lab.score.tools import classifier
from scripts.pretrain.common import WORK, arguments, read_config, write_atomically, write_json
from scripts.pretrain.convolution import channels_last
from scripts.pretrain.data import Data, load
from scripts.pretrain.degrade import DEGRADATIONS
from scripts.pretrain.draws import shifted
from scripts.pretrain.loop import Budget, Objective, Run, train
from scripts.pretrain.vae import latest

NAMES = ("judge_quality", "quality")  # of the folders, and in the YAML
LABELS = ("clean", *DEGRADATIONS)


def quality_network(widths: list[int]) -> nn.Sequential:
    """(b, 3, h, w) in [-1, 1] -> (b, 5) logits of LABELS."""
    network = classifier(widths, len(LABELS))
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # torch's own lets the signal die away
            nn.init.zeros_(layer.get_parameter("bias"))
    return network


@torch.no_grad()
def through_autoencoder(vae: AutoencoderKL, pixels: Tensor, device: str) -> Tensor:
    """(n, 3, 128, 128) uint8 -> the same, encoded and decoded, on the device."""
    vae, found = vae.to(device, memory_format=torch.channels_last), []
    for part in pixels.split(64):
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            output = vae.decode(vae.encode(part.to(device).float() / 127.5 - 1).latent_dist.mode()).sample
        found.append(((output.float().clamp(-1, 1) + 1) * 127.5).round().byte())
    return torch.cat(found)


def labelled(data: Data, use: str, half: int | None = None) -> tuple[list[int], Tensor]:
    """Scenes of this use and their positions in LABELS; of every second object only, if `half` is 0 or 1."""
    number = {name: i for i, name in enumerate(data.split.train)}
    rows = [
        i for i in data.indices(use) if half is None or number[data.scenes[i].objects[0].name] % 2 == half
    ]
    return rows, torch.tensor([LABELS.index(data.scenes[i].degradation or LABELS[0]) for i in rows])


class QualityObjective(Objective):
    """Cross-entropy of the five labels, two in five of them clean; half of a batch is as the autoencoder hands it
    back."""

    def __init__(self, network: nn.Module, data: Data, config: dict[str, Any], device: str) -> None:
        self.network, self.half_batch = network, config["batch"] // 2
        rows, labels = labelled(data, "train", config["half"])
        self.images, self.rows = data.images, torch.tensor(rows, device=data.images.device)
        share = torch.tensor([0.4, 0.15, 0.15, 0.15, 0.15]) / labels.bincount(minlength=len(LABELS))
        self.labels, self.weights = labels.to(device), share[labels].to(device)
        self.decoded = through_autoencoder(latest(), data.images[rows[: config["decoded"]]], device)

    def __call__(self, generator: torch.Generator, choice: Hashable) -> Tensor:
        """The loss of one batch."""
        size, weights = self.half_batch, self.weights
        plain = torch.multinomial(weights, size, replacement=True, generator=generator)
        decoded = torch.multinomial(weights[: len(self.decoded)], size, replacement=True, generator=generator)
        pixels = torch.cat([self.images[self.rows[plain]], self.decoded[decoded]]).float() / 127.5 - 1
        pixels = shifted(pixels, 8, generator).contiguous(memory_format=torch.channels_last)
        return F.cross_entropy(self.network(pixels).float(), self.labels[torch.cat([plain, decoded])])


@torch.no_grad()
def accuracy(network: nn.Module, data: Data, device: str, count: int = 320) -> dict[str, float]:
    """Share of held-out objects' images told rightly to be degraded or not, plain and through the autoencoder, and
    the share of the clean ones that are called degraded."""
    rows, labels = labelled(data, "object")
    plain, labels = data.images[rows[:count]].to(device), labels[:count].to(device)
    found = {}
    for name, pixels in (("plain", plain), ("decoded", through_autoencoder(latest(), plain, device))):
        chances = [network(p.float() / 127.5 - 1).softmax(1)[:, 0] for p in pixels.split(64)]
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


def train_quality(configs: dict[str, Any], data: Data, device: str, minutes: float | None) -> None:
    """The stage: one classifier, then the other; `minutes` for each."""
    for name in NAMES:
        config, folder = configs[name], WORK / name
        torch.manual_seed(config["budget"]["seed"])  # initial weights only
        network = channels_last(quality_network(config["widths"]))
        run = Run({"quality": network}, folder, device, Budget(**config["budget"]))
        if run.spent < run.budget.minutes:
            train(run, QualityObjective(network, data, config, device), minutes)
        write(run.averages["quality"], config["widths"], folder)
        told = accuracy(run.averages["quality"], data, device)
        write_json(folder / "figures.json", told)
        print(f"{name}: degraded or not, held-out objects: {told}", flush=True)


def main() -> None:
    """Run the stage on its own."""
    args = arguments("quality", __doc__)
    train_quality(read_config(args.config), load(args.device), args.device, args.minutes)


if __name__ == "__main__":
    main()
