"""Train a small CLIP for the sake of its text encoder, which conditions the U-Net.

Symmetric InfoNCE (Radford et al. 2021). Batches hold a share of near twins (one object in another style, or on
another background), so that style, colour, place and quality count and not the object alone.

This vision tower is there to teach the text encoder. The one that ships is trained afterwards, by vision.py.
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from scripts.pretrain.caption import caption
from scripts.pretrain.common import WORK, arguments, read_config, write_json
from scripts.pretrain.data import Data, load
from scripts.pretrain.loop import Budget, Run, train
from scripts.pretrain.tokenizer import FOLDER as TOKENIZER
from scripts.pretrain.tokenizer import LENGTH

FOLDER = WORK / "clip"
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
SIDE = 64  # px that the vision tower sees


def build(config: dict[str, Any], tokenizer: CLIPTokenizer) -> CLIPModel:
    """The untrained model. Its attention is the plain one: for narrow heads the fused kernel's backward pass takes
    twice as long on a CPU."""
    words = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": LENGTH,
        "hidden_act": "quick_gelu",
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    sight = {"image_size": SIDE, "patch_size": 8, "hidden_act": "quick_gelu"}
    width = config["projection"]
    text, vision = words | config["text"] | {"projection_dim": width}, sight | config["vision"]
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))
    model.set_attn_implementation("eager")
    return model


def tokens(tokenizer: CLIPTokenizer, texts: list[str], length: int | None = LENGTH) -> Tensor:
    """(b, length) token ids, padded with the end token; `length` None pads to the longest only."""
    padding = {"padding": "max_length", "max_length": length} if length else {"padding": "longest"}
    return tokenizer(texts, truncation=True, return_tensors="pt", **padding).input_ids


def embed_text(model: CLIPModel, ids: Tensor) -> Tensor:
    """(b, n) token ids -> (b, p) unit vectors."""
    return F.normalize(model.text_projection(model.text_model(ids).pooler_output), dim=-1)


def embed_images(model: CLIPModel, pixels: Tensor) -> Tensor:
    """(b, 3, 64, 64) in [-1, 1] -> (b, p) unit vectors."""
    return F.normalize(model.visual_projection(model.vision_model(pixels).pooler_output), dim=-1)


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


def contrast(model: CLIPModel, images: Tensor, words: Tensor) -> Tensor:
    """Symmetric InfoNCE of unit vectors (b, p) that belong together row by row."""
    with torch.no_grad():
        model.logit_scale.clamp_(max=4.0)
    logits = model.logit_scale.exp() * images.float() @ words.float().T
    target = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


class Objective:
    """One contrastive step of both towers."""

    def __init__(
        self, model: CLIPModel, tokenizer: CLIPTokenizer, data: Data, config: dict[str, Any], device: str
    ):
        self.model, self.tokenizer, self.data, self.device = model, tokenizer, data, device
        self.batches = Batches(data, config["batch"], config["twins"])

    def __call__(self, generator: torch.Generator, share: float) -> Tensor:
        """The loss of one batch."""
        rows = self.batches.rows(generator)
        order = random.Random(int(torch.randint(0, 2**31, (), generator=generator)))
        scenes = [self.data.scenes[self.batches.indices[r]] for r in rows]
        texts = [caption(s, self.data.tags[s.objects[0].name], order) for s in scenes]
        images = embed_images(self.model, self.batches.images(rows, generator).to(self.device))
        return contrast(
            self.model, images, embed_text(self.model, tokens(self.tokenizer, texts, None).to(self.device))
        )


@torch.no_grad()
def retrieval(model: CLIPModel, tokenizer: CLIPTokenizer, data: Data, device: str) -> float:
    """Top-1 of image to text among 200 captions of style and object pairs that no training saw, two scenes a pair.

    The first clean centred scene of a pair and the first other one; captions are plain and name the background.
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
    words = embed_text(model, tokens(tokenizer, texts).to(device))
    best = (embed_images(model, pixels) @ words.T).argmax(1)
    print(f"retrieval among {len(chosen)} captions", flush=True)
    return (best == torch.arange(len(chosen), device=best.device)).float().mean().item()


def main() -> None:
    """Run the stage."""
    args = arguments("clip", __doc__)
    config, data = read_config(args.config), load()
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    torch.manual_seed(config["budget"]["seed"])  # initial weights only
    model = build(config, tokenizer)
    run = Run({"clip": model}, FOLDER, args.device, Budget(**config["budget"]))

    def look(run: Run) -> None:
        run.averages["clip"].save_pretrained(FOLDER / "average")
        top1 = retrieval(run.averages["clip"], tokenizer, data, args.device)
        write_json(FOLDER / "figures.json", {"retrieval_top1": top1, "step": run.step, "minutes": run.spent})
        print(f"unseen pairs, top-1 {top1:.3f}", flush=True)

    train(run, Objective(model, tokenizer, data, config, args.device), args.minutes, look)


if __name__ == "__main__":
    main()
