"""Train the text encoder that conditions the U-Net, as one half of a small CLIP.

Symmetric InfoNCE (Radford et al. 2021). Batches hold a share of near twins (one object in another style, or on
another background), so that style, colour, place and quality count and not the object alone.

The image tower is convolutional, because a transformer needs ten times the images on data this small; it also names
the object, which makes it useful to the text tower sooner. It does not ship: vision.py trains the tower that does.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from scripts.pretrain.caption import caption
from scripts.pretrain.common import WORK, arguments, read_config, write_atomically, write_json
from scripts.pretrain.convolution import channels_last
from scripts.pretrain.data import Data, load
from scripts.pretrain.draws import chances, halved, integers, shifted
from scripts.pretrain.loop import Budget, Objective, Run, train
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
    """The text tower, untrained."""
    return CLIPTextModelWithProjection(CLIPTextConfig(**text_settings(config, tokenizer)))


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
        channels_last(self)

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> Sight:
        """The tower with these weights."""
        sight = cls(len(state["projection.weight"]), len(state["object.weight"]))
        sight.load_state_dict(state)
        return sight.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding and logits."""
        features = self.body(pixels)
        return self.projection(features), self.object(features)


def tokens(tokenizer: CLIPTokenizer, texts: list[str], length: int | None = LENGTH) -> Tensor:
    """(b, length) token ids, padded with the end token; `length` None pads to the longest only."""
    padding = {"padding": "max_length", "max_length": length} if length else {"padding": "longest"}
    return tokenizer(texts, truncation=True, return_tensors="pt", **padding).input_ids


def written(data: Data, rows: list[int], count: int, tokenizer: CLIPTokenizer) -> Tensor:
    """(n, count, length) token ids of `count` captions of every scene, padded to the longest of them all."""
    order = random.Random(0)
    texts = [caption(data.scenes[r], data.words, order) for r in rows for _ in range(count)]
    return tokens(tokenizer, texts, None).view(len(rows), count, -1).to(torch.int16)


class Batches:
    """Which training scenes stand together in a batch, and their pixels."""

    def __init__(self, data: Data, size: int, twins: float) -> None:
        self.size, self.twins = size, round(size * twins / 2)
        self.indices = data.indices("train")
        self.pixels = halved(data.images, self.indices)
        device, number = self.pixels.device, {name: i for i, name in enumerate(data.split.train)}
        objects = torch.tensor([number[data.scenes[i].objects[0].name] for i in self.indices])
        self.objects = objects.to(device)
        self.counts = objects.bincount(minlength=len(number)).to(device)
        self.starts = self.counts.cumsum(0) - self.counts
        self.by_object = objects.argsort().to(device)

    def rows(self, generator: torch.Generator) -> Tensor:
        """Which rows of `pixels` make up a batch: pairs of one object for the share of twins, others at random."""
        named = chances(len(self.counts), generator).argsort()[: self.twins].repeat(2)
        place = (chances(len(named), generator) * self.counts[named]).long()
        twins = self.by_object[self.starts[named] + place]
        return torch.cat([twins, integers(len(self.indices), self.size - len(twins), generator)])

    def images(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """(b, 3, 64, 64) in [-1, 1], moved a little."""
        return shifted(self.pixels[rows].float() / 127.5 - 1, 3, generator)


def contrast(scale: Tensor, images: Tensor, words: Tensor) -> Tensor:
    """Symmetric InfoNCE of unit vectors (b, p) that belong together row by row; `scale` is CLIP's logit_scale."""
    with torch.no_grad():
        scale.clamp_(max=4.0)
    logits = scale.exp() * images.float() @ words.float().T
    target = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


class ClipObjective(Objective):
    """One contrastive step of both towers."""

    def __init__(self, run: Run, tokenizer: CLIPTokenizer, data: Data, config: dict[str, Any]):
        self.words, sight = run.modules["text"], run.modules["sight"]
        assert isinstance(sight, Sight)
        self.sight = sight
        self.naming, self.end = config["naming"], tokenizer.eos_token_id
        self.batches = Batches(data, config["batch"], config["twins"])
        self.captions = written(data, self.batches.indices, config["captions"], tokenizer).to(run.device)

    def __call__(self, generator: torch.Generator, choice: Hashable) -> Tensor:
        """The loss of one batch."""
        rows = self.batches.rows(generator)
        ids = self.captions[rows, integers(self.captions.shape[1], len(rows), generator)].long()
        ids = ids[:, : int((ids != self.end).sum(1).max()) + 1]  # all behind it is padding
        seen, named = self.sight(self.batches.images(rows, generator))
        said = self.words(ids).text_embeds
        seen, said = F.normalize(seen.float(), dim=-1), F.normalize(said.float(), dim=-1)
        loss = contrast(self.sight.logit_scale, seen, said)
        return loss + self.naming * F.cross_entropy(named.float(), self.batches.objects[rows])


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
    pixels = halved(data.images, chosen).float().to(device) / 127.5 - 1
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


def train_text(config: dict[str, Any], data: Data, device: str, minutes: float | None) -> None:
    """The stage."""
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    torch.manual_seed(config["budget"]["seed"])  # initial weights, dropout
    modules = {"text": build(config, tokenizer), "sight": Sight(config["projection"], len(data.split.train))}
    if config["warm_start"]:
        start = CLIPTextModelWithProjection.from_pretrained(FOLDER / "average")
        modules["text"].load_state_dict(start.state_dict())
        modules["sight"].load_state_dict(torch.load(FOLDER / "sight.pt", weights_only=True))
    run = Run(modules, FOLDER, device, Budget(**config["budget"]))

    def look(run: Run) -> None:
        words: CLIPTextModelWithProjection = run.averages["text"]
        sight = run.averages["sight"]
        words.save_pretrained(FOLDER / "average")
        write_atomically(FOLDER / "sight.pt", lambda path: torch.save(sight.state_dict(), path))
        top1 = retrieval(lambda x: sight(x)[0], lambda ids: words(ids).text_embeds, tokenizer, data, device)
        write_json(FOLDER / "figures.json", {"retrieval_top1": top1, "step": run.step, "minutes": run.spent})
        print(f"unseen pairs, top-1 {top1:.3f}", flush=True)
        spectrum(words, tokenizer, data, device)

    train(run, ClipObjective(run, tokenizer, data, config), minutes, look)


def main() -> None:
    """Run the stage on its own."""
    args = arguments("clip", __doc__)
    train_text(read_config(args.config), load(args.device), args.device, args.minutes)


if __name__ == "__main__":
    main()
