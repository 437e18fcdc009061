"""Gather the averaged weights into one folder that diffusers loads as it stands, fp16.

The text tower is stored once, in text_encoder/, under the `text_model.` prefix that older transformers want.
clip/ completes it to a CLIPModel: its configuration, and vision_model.*, visual_projection.weight,
text_projection.weight and logit_scale.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from scripts.pretrain.catalogue import HELD_OUT_STYLE
from scripts.pretrain.clip import MEAN, SIDE, STD
from scripts.pretrain.common import WORK, arguments, read_config, write_atomically, write_json
from scripts.pretrain.data import read_split
from scripts.pretrain.latents import SCALING
from scripts.pretrain.quality import NAMES as CLASSIFIERS
from scripts.pretrain.tokenizer import FOLDER as TOKENIZER
from scripts.pretrain.unet import FOLDER as UNET
from scripts.pretrain.unet import scheduler
from scripts.pretrain.vae import latest
from scripts.pretrain.vision import FOLDER as VISION

FOLDER = WORK / "export"
PREFIX = "text_model."


def half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """fp16 in the ordinary memory layout; index buffers, which every version makes anew, are left out."""
    kept = {k: v for k, v in tensors.items() if not k.endswith("position_ids")}
    return {k: v.detach().to(torch.float16).contiguous() for k, v in kept.items()}


def write_text_encoder(clip: CLIPModel, folder: Path) -> None:
    """The text tower as CLIPTextModel, under the prefix that every version of transformers reads."""
    config = clip.config.text_config.to_dict() | {"architectures": ["CLIPTextModel"], "dtype": "float32"}
    write_json(folder / "config.json", config)
    own = clip.text_model.state_dict()
    tensors = half({k if k.startswith(PREFIX) else PREFIX + k: v for k, v in own.items()})
    write_atomically(folder / "model.safetensors", lambda p: save_file(tensors, p, metadata={"format": "pt"}))


def write_clip(clip: CLIPModel, folder: Path) -> None:
    """What the text encoder lacks to be a CLIPModel, and how images are prepared for it."""
    rest = half({k: v for k, v in clip.state_dict().items() if not k.startswith(PREFIX)})
    write_atomically(folder / "model.safetensors", lambda p: save_file(rest, p, metadata={"format": "pt"}))
    config = clip.config.to_dict() | {"architectures": ["CLIPModel"], "dtype": "float16"}
    write_json(folder / "config.json", config)
    preparation = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": SIDE},
        "resample": 4,  # box: the mean over areas, as in training
        "do_center_crop": True,
        "crop_size": {"height": SIDE, "width": SIDE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "do_convert_rgb": True,
    }
    write_json(folder / "preprocessor_config.json", preparation)


def forget_folders(folder: Path) -> None:
    """Take out of every configuration the folder that its model was read from."""
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text())
        for part in (config, *(v for v in config.values() if isinstance(v, dict))):
            part.pop("_name_or_path", None)
        write_json(path, config)


def write_pipeline(folder: Path) -> None:
    """vae/, unet/, scheduler/, tokenizer/ and model_index.json."""
    vae = latest()
    vae.register_to_config(**json.loads(SCALING.read_text()), force_upcast=False)
    unet = UNet2DConditionModel.from_pretrained(UNET / "average")
    for model, name in ((vae, "vae"), (unet, "unet")):
        model.to(torch.float16, memory_format=torch.contiguous_format).save_pretrained(folder / name)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        scheduler=DDIMScheduler.from_config(scheduler().config),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    pipeline.save_config(folder)


def write_held_out(folder: Path) -> None:
    """held_out.json: what no training saw, and the objects that one can ask for."""
    chosen, _ = read_split(WORK / "split.json")
    held_out = {"objects": list(chosen.objects), "styles": list(HELD_OUT_STYLE), "pairs": list(chosen.pairs)}
    write_json(folder / "held_out.json", held_out | {"training_objects": list(chosen.train)})


def main() -> None:
    """Run the stage; what it writes replaces the folder of the last export."""
    config: dict[str, Any] = read_config(arguments("export", __doc__).config)
    clip = CLIPModel.from_pretrained(VISION / "average")
    part = FOLDER.with_name("export.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(TOKENIZER, part / "tokenizer")
    write_text_encoder(clip, part / "text_encoder")
    write_clip(clip, part / "clip")
    write_pipeline(part)
    forget_folders(part)
    write_json(part / "generation_config.json", config["generation"])
    write_held_out(part)
    for folder in CLASSIFIERS:
        (part / folder).mkdir()
        for name in ("config.json", "model.safetensors"):
            shutil.copy(WORK / folder / name, part / folder / name)
    shutil.rmtree(FOLDER, ignore_errors=True)
    part.rename(FOLDER)
    size = sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file())
    print(f"{FOLDER}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
