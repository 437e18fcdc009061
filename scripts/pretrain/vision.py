"""Train the vision tower that ships, which completes the text encoder to a CLIPModel; the texts stay as they are.

It is a transformer, as CLIPModel wants it, small enough that everything fits into 50 MB. It learns from the captions
(InfoNCE) and from the convolutional tower of clip.py, whose embedding of each image it imitates: that one learnt from
a tenth of the images that a transformer needs. Both are computed once, so that a step is this tower alone. Moved,
blurred and noisy copies make it fit to look at generated images.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextModelWithProjection, CLIPTokenizer

from scripts.pretrain.clip import FOLDER as CLIP
from scripts.pretrain.clip import SIDE, Batches, Sight, contrast, retrieval, text_settings, tokens, written
from scripts.pretrain.common import WORK, arguments, read_config, write_json
from scripts.pretrain.data import Data, load
from scripts.pretrain.draws import halved, integers, worn
from scripts.pretrain.loop import Budget, Objective, Run, train
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
def embed_captions(model: CLIPModel, ids: Tensor, device: str) -> Tensor:
    """(n, k, p): unit vectors of the k captions (n, k, length) of every scene."""
    found = []
    for part in ids.flatten(0, 1).split(1024):
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            found.append(embed_text(model, part.to(device).long()).float())
    return torch.cat(found).view(*ids.shape[:2], -1)


@torch.no_grad()
def imitated(sight: Sight, pixels: Tensor) -> Tensor:
    """(n, 3, 64, 64) uint8 -> (n, p): the unit vectors that the teacher gives."""
    found = []
    for part in pixels.split(1024):
        with torch.autocast(pixels.device.type, torch.bfloat16):
            found.append(F.normalize(sight(part.float() / 127.5 - 1)[0].float(), dim=-1))
    return torch.cat(found)


class VisionObjective(Objective):
    """One step of the vision tower and its projection."""

    def __init__(self, run: Run, tokenizer: CLIPTokenizer, sight: Sight, data: Data, config: dict[str, Any]):
        self.model: CLIPModel = run.modules["clip"]
        self.imitation = config["imitation"]
        self.batches = Batches(data, config["batch"], config["twins"])
        self.taught = imitated(sight, self.batches.pixels)
        ids = written(data, self.batches.indices, config["captions"], tokenizer)
        self.captions = embed_captions(run.averages["clip"], ids, run.device)

    def __call__(self, generator: torch.Generator, choice: Hashable) -> Tensor:
        """The loss of one batch."""
        rows = self.batches.rows(generator)
        images = embed_images(self.model, worn(self.batches.images(rows, generator), 0.08, generator)).float()
        words = self.captions[rows, integers(self.captions.shape[1], len(rows), generator)]
        unlike = 1 - (images * self.taught[rows]).sum(1).mean()
        return contrast(self.model.logit_scale, images, words) + self.imitation * unlike


@torch.no_grad()
def naming(model: CLIPModel, tokenizer: CLIPTokenizer, data: Data, device: str, count: int = 400) -> float:
    """Share of clean centred renderings to whose object's prompt they are nearest among 100 objects' prompts."""
    names = data.split.train[:100]
    chosen = [
        i
        for i in data.indices("train", "pair")
        if data.scenes[i].objects[0].name in names
        and not data.scenes[i].degradation
        and not data.scenes[i].words
    ][:count]
    pixels = halved(data.images, chosen).to(device).float() / 127.5 - 1
    seen = torch.cat([embed_images(model, p) for p in pixels.split(100)])
    right = 0
    for style, background in {(data.scenes[i].style, data.scenes[i].background) for i in chosen}:
        texts = [f"a {style} emoji of a {n} on a {background} background" for n in names]
        words = embed_text(model, tokens(tokenizer, texts, None).to(device))
        for row, i in enumerate(chosen):
            if (data.scenes[i].style, data.scenes[i].background) == (style, background):
                right += names[int((seen[row] @ words.T).argmax())] == data.scenes[i].objects[0].name
    return right / len(chosen)


def train_vision(config: dict[str, Any], data: Data, device: str, minutes: float | None) -> None:
    """The stage."""
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    torch.manual_seed(config["budget"]["seed"])  # initial weights only
    taught = CLIPTextModelWithProjection.from_pretrained(CLIP / "average").eval()
    sight = Sight.of(torch.load(CLIP / "sight.pt", weights_only=True)).to(device)
    model = build(config, tokenizer, taught)
    run = Run({"clip": model}, FOLDER, device, Budget(**config["budget"]))

    def look(run: Run) -> None:
        average: CLIPModel = run.averages["clip"]
        average.save_pretrained(FOLDER / "average")
        figures = {
            "retrieval_top1": retrieval(
                lambda x: embed_images(average, x),
                lambda ids: embed_text(average, ids),
                tokenizer,
                data,
                device,
            ),
            "naming_top1": naming(average, tokenizer, data, device),
        }
        write_json(FOLDER / "figures.json", figures | {"step": run.step, "minutes": run.spent})
        print(figures, flush=True)

    train(run, VisionObjective(run, tokenizer, sight, data, config), minutes, look)


def main() -> None:
    """Run the stage on its own."""
    args = arguments("vision", __doc__)
    train_vision(read_config(args.config), load(args.device), args.device, args.minutes)


if __name__ == "__main__":
    main()
