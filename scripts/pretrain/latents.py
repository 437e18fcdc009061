"""Encode once what the U-Net reads many times: latents of the training scenes and their captions' text states.

Writes outputs/pretrain/latents.pt (latents and the captions' token ids), scaling.json and text.npy.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from scripts.pretrain.clip import FOLDER as CLIP
from scripts.pretrain.clip import tokens, written
from scripts.pretrain.common import WORK, arguments, read_config, write_atomically, write_json
from scripts.pretrain.data import Data, load
from scripts.pretrain.tokenizer import FOLDER as TOKENIZER
from scripts.pretrain.tokenizer import LENGTH
from scripts.pretrain.vae import latest

LATENTS, TEXT, SCALING = WORK / "latents.pt", WORK / "text.npy", WORK / "scaling.json"


@dataclass(frozen=True)
class Encoded:
    """What the U-Net learns from; the k captions of row i are rows i k to i k + k - 1 of `states`."""

    latents: Tensor  # (n, c, 16, 16) float16, unit standard deviation
    states: Tensor  # (n k + 1, 77, d) float16: a file itself on a CPU; the last row is the empty prompt's
    scaling: float  # the autoencoder's scaling_factor
    captions: Tensor  # (n k, length) int16: token ids
    ends: Tensor  # (n k,) place of each caption's end token, from which on every state has read all of it

    @property
    def per_scene(self) -> int:
        """k, captions a scene."""
        return len(self.captions) // len(self.latents)

    @property
    def empty(self) -> Tensor:
        """(77, d), the states of the empty prompt."""
        return self.states[-1]

    def texts(self, rows: list[int]) -> list[str]:
        """What the first caption of each of these scenes says."""
        tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
        first = self.captions[[i * self.per_scene for i in rows]]
        return tokenizer.batch_decode(first.tolist(), skip_special_tokens=True)


def save(encoded: Encoded) -> None:
    """Write it down, to be read by `load_encoded`."""
    stored = {
        "latents": encoded.latents.cpu(),
        "captions": encoded.captions.cpu(),
        "ends": encoded.ends.cpu(),
    }
    write_atomically(LATENTS, lambda path: torch.save(stored, path))
    states = encoded.states.cpu().numpy()

    def fill(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, states)

    write_atomically(TEXT, fill)


def load_encoded(device: str = "cpu") -> Encoded:
    """What `save` wrote, on the device."""
    stored = torch.load(LATENTS, weights_only=True, map_location=device)
    states = torch.from_numpy(np.load(TEXT, mmap_mode="c" if device == "cpu" else None)).to(device)
    return Encoded(states=states, scaling=json.loads(SCALING.read_text())["scaling_factor"], **stored)


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
    return torch.cat(found)


@torch.no_grad()
def encode_texts(model: CLIPTextModelWithProjection, ids: Tensor, device: str) -> Tensor:
    """(n, length) token ids -> (n, 77, d) float16 on the device: the last hidden state as StableDiffusionPipeline uses
    it, padded with the end token."""
    text_model = model.text_model.to(device)
    states = torch.empty(len(ids), LENGTH, model.config.hidden_size, dtype=torch.float16, device=device)
    for start in range(0, len(ids), 256):
        part = ids[start : start + 256].to(device).long()
        padded = F.pad(part, (0, LENGTH - part.shape[1]), value=model.config.eos_token_id)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            states[start : start + 256] = text_model(padded).last_hidden_state.half()
        if start % 12800 == 0:
            print(f"captions {start} of {len(ids)}", flush=True)
    return states


def shown(data: Data, silent: int, extra: int) -> list[int]:
    """The scenes that the U-Net sees, some of them several times (each with captions of its own).

    Scenes degraded without a word come `silent` times: they are what a negative prompt works against. The emoji that
    only the autoencoder saw come `extra` times: with them a style is more than 400 drawings learnt by heart. Left
    out are those that share a word with a held-out object, or whose name a caption cannot use.
    """
    held = {word for name in data.split.objects for word in name.split()}

    def times(row: int) -> int:
        scene = data.scenes[row]
        count = silent if scene.degradation and not scene.said else 1
        if data.uses[row] == "train":
            return count
        name = scene.objects[0].name
        return extra if re.fullmatch(r"[a-z0-9 -]+", name) and not held & set(name.split()) else 0

    return [row for row in data.indices("train", "extra") for _ in range(times(row))]


def encode(config: dict[str, Any], data: Data, device: str) -> Encoded:
    """The stage; latents of the autoencoder as it stands, states of the text encoder as it stands."""
    own = shown(data, config["silent"], config["extra"])
    distinct, places = torch.tensor(own).unique(return_inverse=True)
    latents = encode_images(latest(), data.images, distinct.tolist(), device)[places]
    scaling = 1 / latents.std().item()
    print(f"{len(own)} scenes, {len(distinct)} distinct; scaling factor {scaling:.4f}", flush=True)
    write_json(SCALING, {"scaling_factor": scaling})
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    captions = written(data, own, config["captions"], tokenizer).flatten(0, 1)
    empty = F.pad(tokens(tokenizer, [""], None), (0, captions.shape[1] - 2), value=tokenizer.eos_token_id)
    model = CLIPTextModelWithProjection.from_pretrained(CLIP / "average").eval()
    states = encode_texts(model, torch.cat([captions, empty.to(captions.dtype)]), device)
    ends = (captions != tokenizer.eos_token_id).sum(1).to(device)
    return Encoded((latents * scaling).half(), states, scaling, captions, ends)


def main() -> None:
    """Run the stage on its own."""
    args = arguments("latents", __doc__)
    save(encode(read_config(args.config), load(args.device), args.device))


if __name__ == "__main__":
    main()
