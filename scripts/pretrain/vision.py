"""Train the vision tower that ships, which completes the text encoder to a CLIPModel; the texts stay as they are.

It is a transformer, as CLIPModel wants it, small enough that everything fits into 50 MB. It learns from the captions
(InfoNCE) and from the convolutional tower of clip.py, whose embedding of each image it imitates: that one learnt from
a tenth of the images that a transformer needs. Both are computed once, so that a step is this tower alone. Moved,
blurred and noisy copies make it fit to look at generated images.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextModelWithProjection, CLIPTokenizer

from scripts.pretrain.caption import caption
from scripts.pretrain.clip import FOLDER as CLIP
from scripts.pretrain.clip import (
    SIDE,
    Batches,
    Sight,
    contrast,
    retrieval,
    small_images,
    text_settings,
    tokens,
)
from scripts.pretrain.common import WORK, arguments, read_config, write_json
from scripts.pretrain.data import Data, load
from scripts.pretrain.loop import Budget, Run, train
from scripts.pretrain.tokenizer import FOLDER as TOKENIZER

FOLDER = WORK / "vision"


def build(config: dict[str, Any], tokenizer: CLIPTokenizer, taught: CLIPTextModelWithProjection) -> CLIPModel:
    """The text tower as it was taught, frozen with its projection, and a new vision tower. Its attention is the
    plain one: for narrow heads the fused kernel's backward pass takes twice as long on a CPU."""
    sight = {"image_size": SIDE, "patch_size": 8, "hidden_act": "quick_gelu"} | config["vision"]
    width = config["projection"]
    text = text_settings(config, tokenizer)
    vision = sight | {"projection_dim": width}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))
    model.text_model.load_state_dict(taught.text_model.state_dict())
    model.text_projection.load_state_dict(taught.text_projection.state_dict())
    model.text_model.requires_grad_(False), model.text_projection.requires_grad_(False)
    model.set_attn_implementation("eager")
    return model


def embed_text(model: CLIPModel, ids: Tensor) -> Tensor:
    """(b, n) token ids -> (b, p) unit vectors."""
    return F.normalize(model.text_projection(model.text_model(ids).pooler_output), dim=-1)


def embed_images(model: CLIPModel, pixels: Tensor) -> Tensor:
    """(b, 3, 64, 64) in [-1, 1] -> (b, p) unit vectors."""
    return F.normalize(model.visual_projection(model.vision_model(pixels).pooler_output), dim=-1)


@torch.no_grad()
def embed_captions(
    model: CLIPModel, tokenizer: CLIPTokenizer, data: Data, rows: list[int], count: int
) -> Tensor:
    """(count, n, p): unit vectors of `count` captions of every scene."""
    order, found = random.Random(0), []
    scenes = [data.scenes[i] for i in rows] * count
    texts = [caption(s, data.words, order) for s in scenes]
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
    for start in range(0, len(texts), 256):
        ids = tokens(tokenizer, [texts[i] for i in by_length[start : start + 256]], None)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(embed_text(model, ids).float())
    ordered = torch.empty(len(texts), found[0].shape[1])
    ordered[by_length] = torch.cat(found)
    return ordered.view(count, len(rows), -1)


@torch.no_grad()
def imitated(sight: Sight, pixels: Tensor) -> Tensor:
    """(n, 3, 64, 64) uint8 -> (n, p): the unit vectors that the teacher gives."""
    found = []
    for part in pixels.split(256):
        with torch.autocast("cpu", torch.bfloat16):
            found.append(F.normalize(sight(part.float() / 127.5 - 1)[0].float(), dim=-1))
    return torch.cat(found)


def worn(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """The images with a little noise, three in ten a little soft: as a small generator makes them."""
    grain = 0.08 * torch.rand(len(pixels), 1, 1, 1, generator=generator)
    soft = torch.rand(len(pixels), generator=generator) < 0.3
    pixels = pixels + grain * torch.randn(pixels.shape, generator=generator)
    pixels[soft] = F.avg_pool2d(F.pad(pixels[soft], (1, 1, 1, 1), mode="replicate"), 3, 1)
    return pixels


class Objective:
    """One step of the vision tower and its projection."""

    def __init__(self, run: Run, tokenizer: CLIPTokenizer, sight: Sight, data: Data, config: dict[str, Any]):
        self.model, self.device, self.imitation = run.modules["clip"], run.device, config["imitation"]
        self.batches = Batches(data, config["batch"], config["twins"])
        self.taught = imitated(sight, self.batches.pixels)
        averaged = run.averages["clip"]
        self.captions = embed_captions(averaged, tokenizer, data, self.batches.indices, config["captions"])

    def __call__(self, generator: torch.Generator, share: float) -> Tensor:
        """The loss of one batch."""
        rows = self.batches.rows(generator)
        pixels = worn(self.batches.images(rows, generator), generator).to(self.device)
        images = embed_images(self.model, pixels).float()
        which = torch.randint(0, len(self.captions), (len(rows),), generator=generator)
        words, taught = self.captions[which, rows].to(self.device), self.taught[rows].to(self.device)
        unlike = 1 - (images * taught).sum(1).mean()
        return contrast(self.model.logit_scale, images, words) + self.imitation * unlike


@torch.no_grad()
def naming(model: CLIPModel, tokenizer: CLIPTokenizer, data: Data, count: int = 400) -> float:
    """Share of clean centred renderings to whose object's prompt they are nearest among 100 objects' prompts."""
    names = data.split.train[:100]
    chosen = [
        i
        for i in data.indices("train", "pair")
        if data.scenes[i].objects[0].name in names
        and not data.scenes[i].degradation
        and not data.scenes[i].words
    ][:count]
    batches = small_images(data.images, chosen)
    seen = torch.cat([embed_images(model, p.float() / 127.5 - 1) for p in batches.split(100)])
    right = 0
    for style, background in {(data.scenes[i].style, data.scenes[i].background) for i in chosen}:
        texts = [f"a {style} emoji of a {n} on a {background} background" for n in names]
        words = embed_text(model, tokens(tokenizer, texts, None))
        for row, i in enumerate(chosen):
            if (data.scenes[i].style, data.scenes[i].background) == (style, background):
                right += names[int((seen[row] @ words.T).argmax())] == data.scenes[i].objects[0].name
    return right / len(chosen)


def main() -> None:
    """Run the stage."""
    args = arguments("vision", __doc__)
    config, data = read_config(args.config), load()
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    torch.manual_seed(config["budget"]["seed"])  # initial weights only
    taught = CLIPTextModelWithProjection.from_pretrained(CLIP / "average").eval()
    sight = Sight(config["projection"], len(data.split.train)).eval()
    sight.load_state_dict(torch.load(CLIP / "sight.pt", weights_only=True))
    model = build(config, tokenizer, taught)
    run = Run({"clip": model}, FOLDER, args.device, Budget(**config["budget"]))

    def look(run: Run) -> None:
        average = run.averages["clip"]
        average.save_pretrained(FOLDER / "average")
        figures = {
            "retrieval_top1": retrieval(
                lambda x: embed_images(average, x),
                lambda ids: embed_text(average, ids),
                tokenizer,
                data,
                "cpu",
            ),
            "naming_top1": naming(average, tokenizer, data),
        }
        write_json(FOLDER / "figures.json", figures | {"step": run.step, "minutes": run.spent})
        print(figures, flush=True)

    train(run, Objective(run, tokenizer, sight, data, config), args.minutes, look)


if __name__ == "__main__":
    main()
