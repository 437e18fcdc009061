"""Random models of Stable Diffusion's true shapes, made on the device: no files, no network.

Only shapes count, so the vocabulary is the bundled model's: its tokens are fewer, and the table has CLIP's 49,408 rows
all the same.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import lab
from lab.models.bundle import Bundle, TextTower
from lab.models.device import arrange_modules
from scripts.gpu.stand import Stand

CONFIGS = Path(lab.__file__).parent / "models" / "configs"
SIDES = {"sd1": 512, "sdxl": 1024}
"""Pixels that the published models make."""

TINY: dict[str, dict[str, dict[str, Any]]] = {
    "sd1": {
        "text_encoder": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        "unet": {"block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 32, "attention_head_dim": 4},
    },
    "sdxl": {
        "text_encoder": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
        },
        "text_encoder_2": {
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "projection_dim": 64,
            "num_attention_heads": 4,
        },
        "unet": {
            "block_out_channels": [32, 32, 64],
            "cross_attention_dim": 96,
            "attention_head_dim": [2, 4, 4],
            "transformer_layers_per_block": [1, 1, 1],
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 112,
        },
    },
}
"""What replaces the published configs where tiny models will do."""

TINY_VAE = {"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1}
TINY_SIDE = 64


def random_bundle(stand: Stand, family: str, **options: Any) -> Bundle:
    """A model of SD 1.5's or SDXL's shape with random weights, arranged as `lab.load` arranges one.

    Without options it is made once for all checks of a shape that follow each other.

    Args:
        family: `sd1` or `sdxl`.
        options: As of `lab.load`; `dtype` is bfloat16 unless it says otherwise.
    """
    shape = family, stand.tiny
    if options or shape not in stand.kept:
        stand.kept.clear()  # before there is another one: memory has not always room for both
        stand.tidy()
        made = _made(stand, family, options)
        if options:
            return made
        stand.kept[shape] = made
    return stand.kept[shape]


def _made(stand: Stand, family: str, options: dict[str, Any]) -> Bundle:
    emoji = stand.emoji(**{"dtype": "bfloat16", **options})
    torch.manual_seed(0)
    unet = fresh_unet(_config(stand, family, "unet"), stand.device, emoji.dtype)
    with torch.device(stand.device):
        vae = AutoencoderKL.from_config(_config(stand, family, "vae"))
        towers = _towers(stand, family, emoji)
    for module in (unet, vae, *(tower.encoder for tower in towers)):
        module.requires_grad_(False).eval()
    side = TINY_SIDE if stand.tiny else SIDES[family]
    bundle = replace(
        emoji,
        source=f"random {family}",
        family=family,
        towers=towers,
        unet=unet,
        vae=vae,
        scheduler_config=_scheduler(family),
        weights=(),
        defaults=type(emoji.defaults)(width=side, height=side, guidance=5.0, scheduler=SCHEDULERS[family]),
        clip_folder=None,
        force_zeros_for_empty_prompt=family == "sdxl",
    )
    arrange_modules(bundle)
    return bundle


SCHEDULERS = {"sd1": "ddim", "sdxl": "euler"}


def _scheduler(family: str) -> dict[str, Any]:
    """SD 1.5 takes DDIM, as its own PNDM makes one call more than there are steps."""
    config = json.loads((CONFIGS / family / "scheduler" / "scheduler_config.json").read_text())
    if family == "sd1":
        config = {**config, "_class_name": "DDIMScheduler"}
        del config["skip_prk_steps"]
    return config


def _config(stand: Stand, family: str, part: str) -> dict[str, Any]:
    config = json.loads((CONFIGS / family / part / "config.json").read_text())
    if not stand.tiny:
        return config
    return config | (TINY_VAE if part == "vae" else TINY[family][part])


def fresh_unet(config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> UNet2DConditionModel:
    """A random U-Net that takes no gradients, made where and as it is used: no copy in float32 comes first."""
    with torch.device(device), _made_in(dtype):
        return UNet2DConditionModel.from_config(config).requires_grad_(False).eval()


@contextmanager
def _made_in(dtype: torch.dtype) -> Iterator[None]:
    """Inside the block new floating-point tensors are of this precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _towers(stand: Stand, family: str, emoji: Bundle) -> tuple[TextTower, ...]:
    """Text encoders in float32, which read the bundled model's tokens."""
    like = emoji.towers[0]
    tokens = like.tokenizer
    special = {
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
    }
    keys = {"sd1": ("clip_l",), "sdxl": ("clip_l", "clip_g")}[family]
    if stand.tiny and family == "sd1":
        keys = ("clip",)  # any other width than a published one
    towers = []
    for position, key in enumerate(keys):
        config = _config(stand, family, "text_encoder_2" if position else "text_encoder") | special
        if stand.tiny:
            config["vocab_size"] = len(tokens) + 16  # room for what a stock loop adds
        kind = CLIPTextModelWithProjection if position else CLIPTextModel
        encoder = kind(CLIPTextConfig(**config))
        towers.append(replace(like, key=key, encoder=encoder))
    return tuple(towers)
