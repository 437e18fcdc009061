"""Train the judge of generated images on renderings alone: it names object, style and background of 64 px images.

It stays under outputs/. The CLIP that conditions has no part in it.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scripts.pretrain.catalogue import STYLES
from scripts.pretrain.common import WORK, arguments, read_config, write_atomically
from scripts.pretrain.convolution import channels_last
from scripts.pretrain.data import Data, load
from scripts.pretrain.draws import halved, integers, shifted, worn
from scripts.pretrain.loop import Budget, Objective, Run, train
from scripts.pretrain.scene import COLOURS

FOLDER = WORK / "judge"


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


class JudgeObjective(Objective):
    """Cross-entropies of the three heads on single-object scenes of training objects, held-out pairs included."""

    def __init__(self, judge: Judge, data: Data, batch: int) -> None:
        self.judge, self.batch = judge, batch
        chosen = [i for i in data.indices("train", "pair") if len(data.scenes[i].objects) == 1]
        scenes = [data.scenes[i] for i in chosen]
        names, styles, colours = (
            {v: i for i, v in enumerate(values)} for values in (data.split.train, STYLES, COLOURS)
        )
        self.pixels = halved(data.images, chosen)
        self.targets = torch.tensor(
            [(names[s.objects[0].name], styles[s.style], colours[s.background]) for s in scenes],
            device=self.pixels.device,
        )

    def __call__(self, generator: torch.Generator, choice: Hashable) -> Tensor:
        """The loss of one batch."""
        rows = integers(len(self.pixels), self.batch, generator)
        pixels = worn(shifted(self.pixels[rows].float() / 127.5 - 1, 6, generator), 0.1, generator)
        logits = self.judge(pixels)
        parts = [F.cross_entropy(a.float(), b) for a, b in zip(logits, self.targets[rows].T, strict=True)]
        return parts[0] + parts[1] + 0.3 * parts[2]


def train_judge(config: dict[str, Any], data: Data, device: str, minutes: float | None) -> None:
    """The stage."""
    torch.manual_seed(config["budget"]["seed"])  # initial weights, dropout
    judge = channels_last(Judge(len(data.split.train)))
    run = Run({"judge": judge}, FOLDER, device, Budget(**config["budget"]))
    train(run, JudgeObjective(judge, data, config["batch"]), minutes)
    write_atomically(FOLDER / "average.pt", lambda path: torch.save(run.averages["judge"].state_dict(), path))


def main() -> None:
    """Run the stage on its own."""
    args = arguments("judge", __doc__)
    train_judge(read_config(args.config), load(args.device), args.device, args.minutes)


if __name__ == "__main__":
    main()
