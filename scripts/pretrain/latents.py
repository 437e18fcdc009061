"""Encode once what the U-Net reads many times: latents of the training scenes and their captions' text states.

Writes outputs/pretrain/latents.pt, scaling.json, text.npy and captions.json: latents (n, c, 16, 16) float16 scaled to
unit standard deviation, and states (n k + 1, 77, d) float16 of k captions a scene, the text encoder's last hidden state
as StableDiffusionPipeline uses it.
"""

from __future__ import annotations

import json
import random
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
from scripts.pretrain.clip import FOLDER as CLIP
from scripts.pretrain.clip import tokens
from scripts.pretrain.common import WORK, arguments, read_config, write_atomically, write_json
from scripts.pretrain.data import Data, load
from scripts.pretrain.tokenizer import FOLDER as TOKENIZER
from scripts.pretrain.tokenizer import LENGTH
from scripts.pretrain.vae import latest

LATENTS, TEXT, CAPTIONS = WORK / "latents.pt", WORK / "text.npy", WORK / "captions.json"
SCALING = WORK / "scaling.json"


@dataclass(frozen=True)
class Encoded:
    """What the U-Net learns from; the captions of row i are rows i k to i k + k - 1 of `states`."""

    latents: Tensor  # (n, c, 16, 16) float16, unit standard deviation
    states: Tensor  # (n k + 1, 77, d) float16: the file itself on a CPU; the last row is the empty prompt's
    scaling: float  # the autoencoder's scaling_factor
    captions: list[str]  # n k
    ends: Tensor  # (n k,) place of each caption's end token, from which on every state has read all of it

    @property
    def per_scene(self) -> int:
        """k, captions a scene."""
        return len(self.captions) // len(self.latents)

    @property
    def empty(self) -> Tensor:
        """(77, d), the states of the empty prompt."""
        return self.states[-1]


def load_encoded(device: str = "cpu") -> Encoded:
    """What `encode` wrote, on the device."""
    captions = json.loads(CAPTIONS.read_text())
    ids = CLIPTokenizer.from_pretrained(TOKENIZER)(captions, truncation=True).input_ids
    return Encoded(
        latents=torch.load(LATENTS, weights_only=True).to(device),
        states=torch.from_numpy(np.load(TEXT, mmap_mode="c" if device == "cpu" else None)).to(device),
        scaling=json.loads(SCALING.read_text())["scaling_factor"],
        captions=captions,
        ends=torch.tensor([len(row) - 1 for row in ids], device=device),
    )


@torch.no_grad()
def encode_images(vae: AutoencoderKL, images: Tensor, indices: list[int], device: str) -> Tensor:
    """(n, c, 16, 16) float32: the posterior's means, not scaled."""
    vae, found = vae.to(device, memory_format=torch.channels_last), []
    for start in range(0, len(indices), 64):
        pixels = images[indices[start : start + 64]].to(device).float() / 127.5 - 1
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            posterior = vae.encode(pixels.contiguous(memory_format=torch.channels_last)).latent_dist
        found.append(posterior.mean.float())
        if start % 6400 == 0:
            print(f"{start} images", flush=True)
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
        for start in range(0, len(texts), 256):
            ids = tokens(tokenizer, texts[start : start + 256]).to(device)
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                found = text_model(ids).last_hidden_state.half()
            states[start : start + 256] = found.cpu().numpy()
            if start % 12800 == 0:
                print(f"captions {start} of {len(texts)}", flush=True)
        states.flush()

    write_atomically(path, fill)


def encode(config: dict[str, Any], data: Data, device: str) -> None:
    """The stage; latents of the autoencoder as it stands, states of the text encoder as it stands."""
    own, order = data.indices("train"), random.Random(config["seed"])
    latents = encode_images(latest(), data.images, own, device)
    scaling = 1 / latents.std().item()
    print(f"{len(own)} scenes; scaling factor {scaling:.4f}", flush=True)
    write_atomically(LATENTS, lambda path: torch.save((latents * scaling).half(), path))
    write_json(SCALING, {"scaling_factor": scaling})
    captions = [caption(data.scenes[i], data.words, order) for i in own for _ in range(config["captions"])]
    model = CLIPTextModelWithProjection.from_pretrained(CLIP / "average").eval()
    encode_texts(model, CLIPTokenizer.from_pretrained(TOKENIZER), [*captions, ""], TEXT, device)
    write_json(CAPTIONS, captions)


def main() -> None:
    """Run the stage on its own."""
    args = arguments("latents", __doc__)
    encode(read_config(args.config), load(args.device), args.device)


if __name__ == "__main__":
    main()
