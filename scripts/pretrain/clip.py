"""Train the text encoder that conditions the U-Net, as one half of a small CLIP.

Symmetric InfoNCE (Radford et al. 2021). Batches hold a share of near twins (one object in another style, or on
another background), so that style, colour, place and quality count and not the object alone.

The image tower is convolutional, because a transformer needs ten times the images on data this small; it also names
the object, which makes it useful to the text tower sooner. It does not ship: vision.py trains the tower that does.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from scripts.pretrain.caption import caption
from scripts.pretrain.common import ROOT, WORK, arguments, read_config, write_atomically, write_json
from scripts.pretrain.data import Data, load
from scripts.pretrain.loop import Budget, Run, train
from scripts.pretrain.tokenizer import FOLDER as TOKENIZER
from scripts.pretrain.tokenizer import LENGTH

FOLDER = WORK / "clip"
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
SIDE = 64  # px that image towers see


def text_settings(config: dict[str, Any], tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """The text tower's configuration."""
    return config["text"] | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": LENGTH,
        "hidden_act": "quick_gelu",
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "projection_dim": config["projection"],
    }


def build(config: dict[str, Any], tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """The text tower, untrained or from `warm_start`."""
    words = CLIPTextModelWithProjection(CLIPTextConfig(**text_settings(config, tokenizer)))
    if config["warm_start"]:
        start = CLIPTextModel.from_pretrained(ROOT / config["warm_start"], dtype=torch.float32)
        own = {k.removeprefix("text_model."): v for k, v in start.state_dict().items()}
        words.text_model.load_state_dict(own)
    return words


class Sight(nn.Module):
    """(b, 3, 64, 64) in [-1, 1] -> (b, p) embedding and (b, objects) logits of the (left) object."""

    def __init__(self, width: int, objects: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for channels in (32, 64, 128, 256):
            for inputs, stride in ((before, 2), (channels, 1)):
                layers += [nn.Conv2d(inputs, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels)]
                layers += [nn.ReLU()]
            before = channels
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.1))
        self.projection = nn.Linear(before * 16, width)
        self.object = nn.Linear(before * 16, objects)
        self.logit_scale = nn.Parameter(torch.tensor(2.66))
        self.to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding and logits."""
        features = self.body(pixels)
        return self.projection(features), self.object(features)


def tokens(tokenizer: CLIPTokenizer, texts: list[str], length: int | None = LENGTH) -> Tensor:
    """(b, length) token ids, padded with the end token; `length` None pads to the longest only."""
    padding = {"padding": "max_length", "max_length": length} if length else {"padding": "longest"}
    return tokenizer(texts, truncation=True, return_tensors="pt", **padding).input_ids


def small_images(images: np.ndarray, indices: list[int]) -> Tensor:
    """The images at 64 px as uint8, (n, 3, 64, 64), averaged over 2 x 2 px."""
    found = torch.empty(len(indices), 3, SIDE, SIDE, dtype=torch.uint8)
    for start in range(0, len(indices), 256):
        part = torch.from_numpy(images[indices[start : start + 256]]).float()
        found[start : start + 256] = F.avg_pool2d(part, 2).round().byte()
    return found


def shifted(pixels: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Every image moved by up to `most` px each way; what comes in repeats the border."""
    moves = torch.randint(0, 2 * most + 1, (len(pixels), 2), generator=generator).tolist()
    padded = F.pad(pixels, (most,) * 4, mode="replicate")
    side = pixels.shape[-1]
    return torch.stack([p[:, y : y + side, x : x + side] for p, (y, x) in zip(padded, moves, strict=True)])


class Batches:
    """Which training scenes stand together in a batch, and their pixels."""

    def __init__(self, data: Data, size: int, twins: float) -> None:
        self.size, self.twins = size, round(size * twins / 2)
        self.indices = data.indices("train")
        self.pixels = small_images(data.images, self.indices)
        self.of_object: dict[str, list[int]] = defaultdict(list)
        for row, index in enumerate(self.indices):
            self.of_object[data.scenes[index].objects[0].name].append(row)

    def rows(self, generator: torch.Generator) -> list[int]:
        """Which rows of `pixels` make up a batch: pairs of one object for the share of twins, others at random."""
        names = list(self.of_object)
        chosen = []
        for i in torch.randperm(len(names), generator=generator)[: self.twins].tolist():
            own = self.of_object[names[i]]
            first, second = torch.randperm(len(own), generator=generator)[:2].tolist()
            chosen += [own[first], own[second]]
        rest = torch.randint(0, len(self.indices), (self.size - len(chosen),), generator=generator).tolist()
        return chosen + rest

    def images(self, rows: list[int], generator: torch.Generator) -> Tensor:
        """(b, 3, 64, 64) in [-1, 1], moved a little."""
        return shifted(self.pixels[rows].float() / 127.5 - 1, 3, generator)


def contrast(scale: Tensor, images: Tensor, words: Tensor) -> Tensor:
    """Symmetric InfoNCE of unit vectors (b, p) that belong together row by row; `scale` is CLIP's logit_scale."""
    with torch.no_grad():
        scale.clamp_(max=4.0)
    logits = scale.exp() * images.float() @ words.float().T
    target = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


class Objective:
    """One contrastive step of both towers."""

    def __init__(self, run: Run, tokenizer: CLIPTokenizer, data: Data, config: dict[str, Any]):
        self.words, self.sight = run.modules["text"], run.modules["sight"]
        self.tokenizer, self.data, self.device = tokenizer, data, run.device
        self.naming = config["naming"]
        self.batches = Batches(data, config["batch"], config["twins"])
        self.number = {name: i for i, name in enumerate(data.split.train)}

    def __call__(self, generator: torch.Generator, share: float) -> Tensor:
        """The loss of one batch."""
        rows = self.batches.rows(generator)
        order = random.Random(int(torch.randint(0, 2**31, (), generator=generator)))
        scenes = [self.data.scenes[self.batches.indices[r]] for r in rows]
        texts = [caption(s, self.data.words, order) for s in scenes]
        seen, named = self.sight(self.batches.images(rows, generator).to(self.device))
        said = self.words(tokens(self.tokenizer, texts, None).to(self.device)).text_embeds
        seen, said = F.normalize(seen.float(), dim=-1), F.normalize(said.float(), dim=-1)
        truth = torch.tensor([self.number[s.objects[0].name] for s in scenes], device=self.device)
        loss = contrast(self.sight.logit_scale, seen, said)
        return loss + self.naming * F.cross_entropy(named.float(), truth)


Embed = Callable[[Tensor], Tensor]


@torch.no_grad()
def retrieval(see: Embed, read: Embed, tokenizer: CLIPTokenizer, data: Data, device: str) -> float:
    """Top-1 of image to text among 200 captions of style and object pairs that no training saw, two scenes a pair.

    The first clean centred scene of a pair and the first other one; captions are plain and name the background.
    `see` embeds (n, 3, 64, 64) pixels and `read` (n, 77) token ids as (n, p) vectors.
    """
    scenes: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i in data.indices("pair"):
        s = data.scenes[i]
        key = (s.objects[0].name, s.style)
        seen = {data.scenes[j].background for j in scenes[key]}
        if not s.degradation and not s.words and s.background not in seen:
            scenes[key].append(i)
    chosen = [i for own in scenes.values() for i in own[:2]][:200]
    texts = [
        f"a {s.style} emoji of a {s.objects[0].name} on a {s.background} background"
        for s in (data.scenes[i] for i in chosen)
    ]
    pixels = small_images(data.images, chosen).float().to(device) / 127.5 - 1
    words = F.normalize(read(tokens(tokenizer, texts).to(device)), dim=-1)
    best = (see(pixels) @ words.T).argmax(1)
    print(f"retrieval among {len(chosen)} captions", flush=True)
    return (best == torch.arange(len(chosen), device=best.device)).float().mean().item()


@torch.no_grad()
def spectrum(words: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, data: Data, device: str) -> None:
    """Print how much of the end token's variance lies between objects, and how many directions hold most of it."""
    order = random.Random(0)
    scenes = [data.scenes[i] for i in data.indices("train")]
    scenes = [s for s in scenes if not s.degradation and not s.words][:3000]
    texts = [caption(s, {}, order) for s in scenes]
    batched = [texts[i : i + 250] for i in range(0, len(texts), 250)]
    states = [words.text_model(tokens(tokenizer, t, None).to(device)) for t in batched]
    end = torch.cat([s.pooler_output for s in states]).cpu()
    end = end - end.mean(0)
    numbers = {name: i for i, name in enumerate(data.split.train)}
    which = torch.tensor([numbers[s.objects[0].name] for s in scenes])
    sums = torch.zeros(len(numbers), end.shape[1]).index_add_(0, which, end)
    counts = which.bincount(minlength=len(numbers)).clamp(min=1)
    between = (sums.square().sum(1) / counts).sum() / end.square().sum()
    values = torch.linalg.eigvalsh(torch.cov(end.T)).flip(0).cumsum(0)
    values = values / values[-1]
    print(
        f"between objects {between:.3f}; in 6, 32, 64 directions {values[[5, 31, 63]].tolist()}", flush=True
    )


def main() -> None:
    """Run the stage."""
    args = arguments("clip", __doc__)
    config, data = read_config(args.config), load()
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    torch.manual_seed(config["budget"]["seed"])  # initial weights, dropout
    sight = Sight(config["projection"], len(data.split.train))
    run = Run(
        {"text": build(config, tokenizer), "sight": sight}, FOLDER, args.device, Budget(**config["budget"])
    )

    def look(run: Run) -> None:
        words, sight = run.averages["text"], run.averages["sight"]
        words.save_pretrained(FOLDER / "average")
        write_atomically(FOLDER / "sight.pt", lambda path: torch.save(sight.state_dict(), path))
        top1 = retrieval(
            lambda x: sight(x)[0], lambda ids: words(ids).text_embeds, tokenizer, data, args.device
        )
        write_json(FOLDER / "figures.json", {"retrieval_top1": top1, "step": run.step, "minutes": run.spent})
        print(f"unseen pairs, top-1 {top1:.3f}", flush=True)
        spectrum(words, tokenizer, data, args.device)

    train(run, Objective(run, tokenizer, data, config), args.minutes, look)


if __name__ == "__main__":
    main()
