"""Encode once what the U-Net reads many times: latents of the scenes that it learns from and its captions' text states.

The scenes are the data set's, as far as they show objects to learn and no others, and close-ups: every drawing large,
single and centred on every background, because a small model needs to see what it is to draw often; and pairs of
objects side by side, from which it learns which word is drawn where.

Writes outputs/pretrain/latents.pt, text.npy and captions.json: latents (n, 4, 16, 16) float16 scaled to unit
standard deviation, and states (n k + 1, 77, d) float16 of k captions a scene, the text encoder's last hidden state as
StableDiffusionPipeline uses it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.lib.format import open_memmap
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from scripts.pretrain.caption import caption
from scripts.pretrain.catalogue import STYLES
from scripts.pretrain.clip import FOLDER as CLIP
from scripts.pretrain.clip import tokens
from scripts.pretrain.common import WORK, arguments, read_config, write_atomically, write_json
from scripts.pretrain.data import Data, Icons, load
from scripts.pretrain.degrade import DEGRADATIONS
from scripts.pretrain.paint import paint
from scripts.pretrain.scene import COLOURS, LARGE, Placed, Scene, beside
from scripts.pretrain.tokenizer import FOLDER as TOKENIZER
from scripts.pretrain.tokenizer import LENGTH
from scripts.pretrain.vae import FOLDER as VAE

LATENTS, TEXT, CAPTIONS = WORK / "latents.pt", WORK / "text.npy", WORK / "captions.json"


@dataclass(frozen=True)
class Encoded:
    """What the U-Net learns from; the captions of row i are rows i k to i k + k - 1 of `states`."""

    latents: Tensor  # (n, 4, 16, 16) float16, unit standard deviation
    states: np.ndarray  # (n k + 1, 77, d) float16, memory-mapped; the last row is the empty prompt's
    empty: Tensor  # (77, d) float16, the states of the empty prompt
    scaling: float  # the autoencoder's scaling_factor
    captions: list[str]  # n k
    ends: Tensor  # (n k,) place of each caption's end token, from which on every state has read all of it

    @property
    def per_scene(self) -> int:
        """k, captions a scene."""
        return len(self.captions) // len(self.latents)


def load_encoded() -> Encoded:
    """What `main` wrote."""
    states = np.load(TEXT, mmap_mode="r")
    empty = torch.from_numpy(states[-1].copy())
    captions = json.loads(CAPTIONS.read_text())
    ids = CLIPTokenizer.from_pretrained(TOKENIZER)(captions, truncation=True).input_ids
    return Encoded(
        states=states,
        empty=empty,
        captions=captions,
        ends=torch.tensor([len(row) - 1 for row in ids]),
        **torch.load(LATENTS, weights_only=True),
    )


def learnt(config: dict[str, Any], data: Data) -> set[str]:
    """The objects that the U-Net is to learn: those listed and those with a held-out pair, or all."""
    chosen = set(config["objects"] or data.split.train)
    return chosen | {name for name, _ in data.split.pairs}


def close_ups(names: set[str], data: Data, config: dict[str, Any], order: random.Random) -> list[Scene]:
    """Every drawing to learn on every background, and `on_white` times on white; a share of them degraded."""
    held, found = set(data.split.pairs), []
    colours = [c for c in COLOURS if c != "white"] + ["white"] * config["on_white"]
    for name in sorted(names):
        for style in (s for s in STYLES if (name, s) not in held):
            for background in colours:
                bad = order.random() < config["degraded_silently"]
                kind = order.choice(list(DEGRADATIONS)) if bad else ""
                placed = (Placed(name, 0.5, 0.5, LARGE),)
                found.append(Scene(style, placed, background, "", kind, False, order.getrandbits(31)))
    return found


def side_by_side(names: set[str], data: Data, count: int, order: random.Random) -> list[Scene]:
    """Two objects to learn in one style, left and right, about half of them on white."""
    held, found = set(data.split.pairs), []
    for _ in range(count):
        style = order.choice(list(STYLES))
        some = order.sample(sorted(n for n in names if (n, style) not in held), 2)
        background = "white" if order.random() < 0.5 else order.choice(list(COLOURS))
        found.append(Scene(style, beside(*some), background, "next to", "", False, order.getrandbits(31)))
    return found


def chosen_scenes(data: Data, config: dict[str, Any]) -> tuple[list[int], list[Scene]]:
    """Which images of the data set the U-Net learns from, and the scenes painted for it that come after them."""
    names, seed = learnt(config, data), config["seed"]
    own = [i for i in data.indices("train") if {o.name for o in data.scenes[i].objects} <= names]
    painted = close_ups(names, data, config["close_ups"], random.Random(seed))
    return own, painted + side_by_side(names, data, config["side_by_side"], random.Random(seed + 2))


def images(data: Data, own: list[int], painted: list[Scene], icons: Icons) -> Iterator[Tensor]:
    """(32, 3, 128, 128) uint8 at a time: the data set's images, then those painted."""
    for start in range(0, len(own), 32):
        yield torch.from_numpy(data.images[own[start : start + 32]])
    for start in range(0, len(painted), 32):
        yield torch.stack([paint(s, icons, 128) for s in painted[start : start + 32]])


@torch.no_grad()
def encode_images(vae: AutoencoderKL, batches: Iterator[Tensor], device: str) -> Tensor:
    """(n, 4, 16, 16) float32: the posterior's means, not scaled."""
    vae, found = vae.to(device, memory_format=torch.channels_last), []
    for number, batch in enumerate(batches):
        pixels = (batch.to(device).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            found.append(vae.encode(pixels).latent_dist.mean.float())
        if number % 50 == 0:
            print(f"{32 * number} images", flush=True)
    return torch.cat(found).cpu()


@torch.no_grad()
def encode_texts(
    model: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, texts: list[str], path: Path, device: str
) -> None:
    """The last hidden states, (n, 77, d) float16."""
    text_model = model.text_model.to(device)

    def fill(temporary: Path) -> None:
        shape = (len(texts), LENGTH, text_model.config.hidden_size)
        states = open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        for start in range(0, len(texts), 64):
            ids = tokens(tokenizer, texts[start : start + 64]).to(device)
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                states[start : start + 64] = text_model(ids).last_hidden_state.float().cpu().numpy()
            if start % 3200 == 0:
                print(f"captions {start} of {len(texts)}", flush=True)
        states.flush()

    write_atomically(path, fill)


def write_latents(data: Data, config: dict[str, Any], device: str) -> None:
    """latents.pt: latents of unit standard deviation, and the factor that makes them so."""
    own, painted = chosen_scenes(data, config)
    icons: Icons = torch.load(WORK / "icons.pt", weights_only=True)
    vae = AutoencoderKL.from_pretrained(VAE / "average")
    latents = encode_images(vae, images(data, own, painted, icons), device)
    scaling = 1 / latents.std().item()
    print(f"{len(own)} scenes, {len(painted)} painted for it; scaling factor {scaling:.4f}")
    found = {"latents": (latents * scaling).half(), "scaling": scaling}
    write_atomically(LATENTS, lambda path: torch.save(found, path))


def write_texts(data: Data, config: dict[str, Any], device: str) -> None:
    """captions.json and text.npy, the captions' states; the last row is the empty prompt's."""
    own, painted = chosen_scenes(data, config)
    order = random.Random(config["seed"] + 1)
    scenes = [data.scenes[i] for i in own] + painted
    repeated = [s for s in scenes for _ in range(config["captions"])]
    captions = [caption(s, data.words, order) for s in repeated]
    model = CLIPTextModelWithProjection.from_pretrained(CLIP / "average").eval()
    encode_texts(model, CLIPTokenizer.from_pretrained(TOKENIZER), [*captions, ""], TEXT, device)
    write_json(CAPTIONS, captions)


def main() -> None:
    """Run the stage; latents that are there already are kept."""
    args = arguments("latents", __doc__)
    config, data = read_config(args.config), load()
    if not LATENTS.exists():
        write_latents(data, config, args.device)
    write_texts(data, config, args.device)


if __name__ == "__main__":
    main()
