"""Tiny random Stable Diffusion models, complete diffusers folders that load and sample in a moment.

They keep what tells the families apart (prediction type, activations, padding, two encoders, size conditioning,
VAE upcast) and shrink everything else. Nothing about them is 64, 128 or 512 px or a text encoder's usual width
unless `true_widths` asks for it.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lab.models.family import Family

START, END = "<|startoftext|>", "<|endoftext|>"
WHOLE_WORDS = (
    "a",
    "photo",
    "of",
    "the",
    "red",
    "blue",
    "apple",
    "cat",
    "dog",
    "on",
    "white",
    "painting",
    "blurry",
)
BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@dataclass(frozen=True)
class Shape:
    """What differs between the families; `widths` and `true_widths` have one entry a text encoder."""

    widths: tuple[int, ...]
    true_widths: tuple[int, ...]
    vae_channels: tuple[int, ...]
    unet: dict[str, Any]
    scaling_factor: float = 0.18215


SHAPES: dict[Family, Shape] = {
    "sd1": Shape((32,), (768,), (16, 16, 32), {"attention_head_dim": 4}),
    "sd2": Shape((32,), (1024,), (16, 32), {"attention_head_dim": (2, 4), "use_linear_projection": True}),
    "sdxl": Shape(
        (32, 64),
        (768, 1280),
        (16, 16, 32),
        {
            "attention_head_dim": (2, 4),
            "use_linear_projection": True,
            "transformer_layers_per_block": (1, 2),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
        },
        scaling_factor=0.13025,
    ),
}


def make_model(
    folder: Path, family: Family, vocabulary: Path | None = None, true_widths: bool = False, seed: int = 0
) -> Path:
    """Saves a random model in `folder` and returns it.

    Args:
        vocabulary: A folder with `vocab.json` and `merges.txt`; by default a few hundred tokens made here: every
            byte, so that any text tokenizes, and the few whole words of `WHOLE_WORDS`.
        true_widths: Text encoders as wide as the family's real ones, for published embeddings.
    """
    folder = Path(folder)
    shape = SHAPES[family]
    widths = shape.true_widths if true_widths else shape.widths
    vocabulary = vocabulary or _write_vocabulary(folder / "vocabulary")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizers = [_tokenizer(vocabulary, pad) for pad in _pad_tokens(family)]
        encoders = [_text_encoder(family, position, widths, tokenizers) for position in range(len(widths))]
        parts: dict[str, Any] = {
            "unet": _unet(shape, widths),
            "vae": _vae(shape),
            "scheduler": _scheduler(family),
            "tokenizer": tokenizers[0],
            "text_encoder": encoders[0].eval(),
        }
    if family == "sdxl":
        parts |= {"tokenizer_2": tokenizers[1], "text_encoder_2": encoders[1].eval()}
        pipeline = StableDiffusionXLPipeline(
            **parts, force_zeros_for_empty_prompt=True, add_watermarker=False
        )
    else:
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipeline.save_pretrained(folder)
    for name in ("tokenizer", "tokenizer_2")[: len(tokenizers)]:
        for file in (
            "vocab.json",
            "merges.txt",
        ):  # transformers 4 reads these and newer ones no longer write them
            shutil.copy(vocabulary / file, folder / name / file)
    shutil.rmtree(folder / "vocabulary", ignore_errors=True)
    return folder


def _write_vocabulary(folder: Path) -> Path:
    letters = sorted(ByteLevel.alphabet())  # "!" comes first, as in CLIP's own vocabulary
    tokens = letters + [f"{letter}</w>" for letter in letters]
    merges = []
    for word in WHOLE_WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            pair = (pieces[-2], pieces[-1])
            pieces[-2:] = ["".join(pair)]
            if pair not in merges:
                merges.append(pair)
                tokens.append(pieces[-1])
    vocabulary = {token: position for position, token in enumerate([*tokens, START, END])}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _pad_tokens(family: Family) -> tuple[str, ...]:
    return {"sd1": (END,), "sd2": ("!",), "sdxl": (END, "!")}[family]


def _tokenizer(vocabulary: Path, pad_token: str) -> CLIPTokenizer:
    files = str(vocabulary / "vocab.json"), str(vocabulary / "merges.txt")
    return CLIPTokenizer(*files, model_max_length=77, pad_token=pad_token)


def _text_encoder(
    family: Family, position: int, widths: tuple[int, ...], tokenizers: list[CLIPTokenizer]
) -> CLIPTextModel | CLIPTextModelWithProjection:
    tokenizer, width = tokenizers[position], widths[position]
    open_clip = family == "sd2" or position == 1
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=4 if position == 1 else 3,
        num_attention_heads=width // 8,
        hidden_act="gelu" if open_clip else "quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config) if position == 1 else CLIPTextModel(config)


def _unet(shape: Shape, widths: tuple[int, ...]) -> UNet2DConditionModel:
    settings = dict(shape.unet)
    if "addition_time_embed_dim" in settings:
        settings["projection_class_embeddings_input_dim"] = (
            6 * settings["addition_time_embed_dim"] + widths[-1]
        )
    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=sum(widths),
        **settings,
    ).eval()


def _vae(shape: Shape) -> AutoencoderKL:
    blocks = len(shape.vae_channels)
    return AutoencoderKL(
        sample_size=8 * 2 ** (blocks - 1),
        block_out_channels=shape.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        layers_per_block=1,
        norm_num_groups=8,
        scaling_factor=shape.scaling_factor,
        force_upcast=True,
    ).eval()


def _scheduler(family: Family) -> PNDMScheduler | DDIMScheduler | EulerDiscreteScheduler:
    if family == "sd1":
        return PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False)
    if family == "sd2":
        return DDIMScheduler(
            **BETAS, prediction_type="v_prediction", steps_offset=1, clip_sample=False, set_alpha_to_one=False
        )
    return EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1)
