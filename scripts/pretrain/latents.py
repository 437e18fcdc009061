"""Encode once what the U-Net reads many times: every training scene's latents and its captions' text states.

Writes outputs/pretrain/latents.pt, text.npy and captions.json: latents (n, 4, 16, 16) float16 scaled to unit
standard deviation, and states (n + 1, 77, d) float16, the text encoder's last hidden state as
StableDiffusionPipeline uses it.
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
from transformers import CLIPModel, CLIPTokenizer

from scripts.pretrain.caption import caption
from scripts.pretrain.clip import FOLDER as CLIP
from scripts.pretrain.clip import tokens
from scripts.pretrain.common import WORK, arguments, read_config, write_atomically, write_json
from scripts.pretrain.data import Data, load
from scripts.pretrain.tokenizer import FOLDER as TOKENIZER
from scripts.pretrain.tokenizer import LENGTH
from scripts.pretrain.vae import FOLDER as VAE

LATENTS, TEXT, CAPTIONS = WORK / "latents.pt", WORK / "text.npy", WORK / "captions.json"


@dataclass(frozen=True)
class Encoded:
    """What the U-Net learns from; row i belongs to the i-th training scene."""

    latents: Tensor  # (n, 4, 16, 16) float16, unit standard deviation
    states: np.ndarray  # (n + 1, 77, d) float16, memory-mapped; the last row is the empty prompt's
    empty: Tensor  # (77, d) float16, the states of the empty prompt
    scaling: float  # the autoencoder's scaling_factor
    captions: list[str]


def load_encoded() -> Encoded:
    """What `main` wrote."""
    states = np.load(TEXT, mmap_mode="r")
    empty = torch.from_numpy(states[-1].copy())
    return Encoded(
        states=states,
        empty=empty,
        captions=json.loads(CAPTIONS.read_text()),
        **torch.load(LATENTS, weights_only=True),
    )


@torch.no_grad()
def encode_images(vae: AutoencoderKL, data: Data, indices: list[int], device: str) -> Tensor:
    """(n, 4, 16, 16) float32: the posterior's means, not scaled."""
    vae, found = vae.to(device, memory_format=torch.channels_last), []
    for start in range(0, len(indices), 32):
        pixels = torch.from_numpy(data.images[indices[start : start + 32]]).to(device).float() / 127.5 - 1
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            found.append(
                vae.encode(pixels.contiguous(memory_format=torch.channels_last)).latent_dist.mean.float()
            )
        if start % 3200 == 0:
            print(f"images {start} of {len(indices)}", flush=True)
    return torch.cat(found).cpu()


@torch.no_grad()
def encode_texts(
    model: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str], path: Path, device: str
) -> None:
    """The last hidden states, (n, 77, d) float16, in fp32 arithmetic."""
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


def write_latents(data: Data, device: str) -> None:
    """latents.pt: latents of unit standard deviation, and the factor that makes them so."""
    vae = AutoencoderKL.from_pretrained(VAE / "average")
    latents = encode_images(vae, data, data.indices("train"), device)
    scaling = 1 / latents.std().item()
    print(f"scaling factor {scaling:.4f}, per channel {(latents * scaling).std((0, 2, 3)).tolist()}")
    found = {"latents": (latents * scaling).half(), "scaling": scaling}
    write_atomically(LATENTS, lambda path: torch.save(found, path))


def write_texts(data: Data, config: dict[str, Any], device: str) -> None:
    """captions.json, one a training scene, and text.npy, their states; the last row is the empty prompt's."""
    order = random.Random(config["seed"])
    scenes = [data.scenes[i] for i in data.indices("train")]
    captions = [caption(s, data.tags[s.objects[0].name], order) for s in scenes]
    model = CLIPModel.from_pretrained(CLIP / "average").eval()
    encode_texts(model, CLIPTokenizer.from_pretrained(TOKENIZER), [*captions, ""], TEXT, device)
    write_json(CAPTIONS, captions)


def main() -> None:
    """Run the stage."""
    args = arguments("latents", __doc__)
    data = load()
    write_latents(data, args.device)
    write_texts(data, read_config(args.config), args.device)


if __name__ == "__main__":
    main()
