"""From a name, folder or file to a `Bundle`."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lab.embeddings.embedding import encoder_key
from lab.errors import InputError
from lab.models.bundle import Bundle, Family, GenerationDefaults, TextTower

ASSETS = Path(__file__).parents[1] / "assets"


def load(source: str | Path = "emoji", *, device: str = "auto", dtype: str = "float32") -> Bundle:
    """Loads a model. First working form: diffusers folders."""
    root = ASSETS / "emoji" if str(source) == "emoji" else Path(source)
    if not (root / "unet").is_dir():
        raise InputError(f"{source}: no such model")
    target = (
        torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device == "auto"
        else torch.device(device)
    )
    precision = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    unet = (
        UNet2DConditionModel.from_pretrained(root, subfolder="unet", torch_dtype=precision).to(target).eval()
    )
    vae = AutoencoderKL.from_pretrained(root, subfolder="vae", torch_dtype=torch.float32).to(target).eval()
    family: Family = "sd1"
    if unet.config.addition_embed_type == "text_time":
        family = "sdxl"
    elif unet.config.use_linear_projection:
        family = "sd2"
    towers = [_tower(root, "", CLIPTextModel, target)]
    if family == "sdxl":
        towers.append(_tower(root, "_2", CLIPTextModelWithProjection, target))
    height = unet.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1)
    index = json.loads((root / "model_index.json").read_text())
    return Bundle(
        source=str(source),
        root=root,
        family=family,
        towers=tuple(towers),
        unet=unet,
        vae=vae,
        scheduler_config=json.loads((root / "scheduler" / "scheduler_config.json").read_text()),
        device=target,
        dtype=precision,
        defaults=GenerationDefaults(width=height, height=height),
        clip_folder=root / "clip" if (root / "clip").is_dir() else None,
        force_zeros_for_empty_prompt=family == "sdxl" and index.get("force_zeros_for_empty_prompt", True),
    )


def _tower(root: Path, suffix: str, kind: type[CLIPTextModel], device: torch.device) -> TextTower:
    tokenizer = CLIPTokenizer.from_pretrained(root / f"tokenizer{suffix}")
    encoder = kind.from_pretrained(root / f"text_encoder{suffix}", dtype=torch.float32).to(device).eval()
    both = (root / "text_encoder_2").is_dir()
    key = ("clip_g" if suffix else "clip_l") if both else encoder_key(encoder.config.hidden_size)
    return TextTower(key, tokenizer, encoder, tokenizer.pad_token_id)
