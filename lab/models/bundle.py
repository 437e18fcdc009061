"""Everything a model is, as one value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

Family = Literal["sd1", "sd2", "sdxl"]


@dataclass(frozen=True)
class TextTower:
    """A tokenizer and the text encoder that reads its tokens.

    Attributes:
        key: Which of an embedding's vectors it takes: `clip_l`, `clip_h`, `clip_g` or `clip`.
        pad_token_id: Fills a chunk after its end token (the end token for CLIP-L, id 0 for OpenCLIP).
    """

    key: str
    tokenizer: CLIPTokenizer
    encoder: CLIPTextModel | CLIPTextModelWithProjection
    pad_token_id: int

    @property
    def width(self) -> int:
        """Length of a token's embedding vector."""
        return self.encoder.config.hidden_size

    @property
    def context_length(self) -> int:
        """Tokens in a chunk, start and end included (77 for Stable Diffusion)."""
        return min(self.tokenizer.model_max_length, self.encoder.config.max_position_embeddings)


@dataclass(frozen=True)
class GenerationDefaults:
    """What a model is best sampled with, where neither flags nor config say otherwise."""

    steps: int = 25
    guidance: float = 7.0
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float] | None = None
    scheduler: str = "ddim"
    width: int = 512
    height: int = 512


@dataclass(frozen=True)
class Bundle:
    """A loaded model: never mutated in place.

    Attributes:
        source: What was asked for: `emoji`, a folder, `file:x.safetensors`, `hub:org/name`.
        root: The folder or file that it was read from.
        towers: The text encoders in the U-Net's order (two for SDXL).
        scheduler_config: The scheduler's config as saved with the model.
        clip_folder: Folder with the vision half that completes the first text encoder to a CLIPModel.
        force_zeros_for_empty_prompt: SDXL: a negative prompt that is not given means zeros.
    """

    source: str
    root: Path
    family: Family
    towers: tuple[TextTower, ...]
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    scheduler_config: Mapping[str, Any]
    device: torch.device
    dtype: torch.dtype
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)
    clip_folder: Path | None = None
    force_zeros_for_empty_prompt: bool = False

    @property
    def prediction_type(self) -> str:
        """What the U-Net predicts: `epsilon` or `v_prediction`."""
        return self.scheduler_config.get("prediction_type", "epsilon")

    @property
    def vae_scale(self) -> int:
        """Pixels per latent, along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)
