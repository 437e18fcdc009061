"""Everything a model is, as one value."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from tokenizers import Tokenizer
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lab.files import is_file, is_folder
from lab.models.config import ModelOptions, split_lora
from lab.models.facts import GenerationDefaults, ModelFacts, vae_scale
from lab.models.family import FAMILIES, Family, FamilyTraits
from lab.models.weights import hash_files

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_OFFLOADED = RLock()

_TOKENIZER = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
"""The files that a tokenizer is read from, as far as it has them."""


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

    @cached_property
    def literal_tokenizer(self) -> Tokenizer:
        """The tokenizer to which the sign that it pads with ("!" for OpenCLIP in diffusers) is text."""
        backend = json.loads(self.tokenizer.backend_tokenizer.to_str())
        added = [one for one in backend["added_tokens"] if one["content"] != self.tokenizer.pad_token]
        return Tokenizer.from_str(json.dumps(backend | {"added_tokens": added}))

    @cached_property
    def word_norm(self) -> float:
        """The median norm of its token embeddings (about 0.4 in CLIP-L)."""
        return float(self.encoder.get_input_embeddings().weight.detach().float().norm(dim=1).median())

    @property
    def layers(self) -> int:
        """Layers of the text encoder, some of which clip skip leaves out."""
        return self.encoder.config.num_hidden_layers

    @property
    def context_length(self) -> int:
        """Tokens in a chunk, start and end included (77 for Stable Diffusion)."""
        return min(self.tokenizer.model_max_length, self.encoder.config.max_position_embeddings)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A loaded model: never mutated in place. Several threads may use one at a time.

    Attributes:
        source: What was asked for: `emoji`, a folder, `file:x.safetensors`, `hub:org/name`.
        root: The folder or file that it was read from.
        towers: The text encoders in the U-Net's order (two for SDXL).
        scheduler_config: The scheduler's config as saved with the model, but for an overridden prediction type.
        device: Where the modules compute, and so where their inputs belong.
        dtype: What the U-Net computes in. It takes inputs of any precision and answers in theirs, but whoever casts
            once outside the loop saves time. Weights of text encoders and VAE are float32, see `autocast`.
        options: What was asked for, whole.
        weights: Every file whose weights are in use.
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
    options: ModelOptions
    weights: tuple[Path, ...]
    defaults: GenerationDefaults
    clip_folder: Path | None = None
    force_zeros_for_empty_prompt: bool = False

    @property
    def traits(self) -> FamilyTraits:
        """What the model's family is like."""
        return FAMILIES[self.family]

    @property
    def context_length(self) -> int:
        """Rows of prompt embeddings that a chunk of tokens takes, start and end included (77 for Stable Diffusion)."""
        return min(tower.context_length for tower in self.towers)

    @cached_property
    def facts(self) -> ModelFacts:
        """What the configs of the model say, by which settings are checked."""
        return ModelFacts(
            source=self.source,
            family=self.family,
            unet=self.unet.config,
            vae=self.vae.config,
            text_encoders=tuple(tower.encoder.config.to_dict() for tower in self.towers),
            scheduler_config=self.scheduler_config,
            defaults=self.defaults,
            root=self.root,
        )

    @property
    def prediction_type(self) -> str:
        """What the U-Net predicts: `epsilon` or `v_prediction`."""
        return self.scheduler_config.get("prediction_type", "epsilon")

    @property
    def precision(self) -> str:
        """`dtype` as options name it, such as `bfloat16`."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def vae_scale(self) -> int:
        """Pixels per latent, along each side."""
        return vae_scale(self.vae.config)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the weights in use, as hexadecimal digits; read when first asked for.

        Of a single-file model it is the file's, which other tools call the model hash. Otherwise it covers U-Net,
        text encoders, VAE and LoRA files: the SHA-256 of their digests in that order.
        """
        return hash_files(self.weights)

    @property
    def short_hash(self) -> str:
        """The first 10 digits of `hash`, as A1111 writes it."""
        return self.hash[:10]

    def contents(self) -> dict[str, str]:
        """What decides over the model's images, each by a hash of its contents: weights, configs and tokenizers."""
        configs = {
            "generation_config.json": self.defaults.model_dump(mode="json"),
            "scheduler_config.json": dict(self.scheduler_config),
        }
        texts = {name: json.dumps(values, sort_keys=True, default=str) for name, values in configs.items()}
        return {
            "model": self.hash,
            **{name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()},
            **{f"{path.parent.name}/{path.name}": hash_files([path]) for path in self._part_files()},
        }

    def _part_files(self) -> Iterator[Path]:
        """The configs of U-Net, VAE and text encoders, and what the tokenizers are made of, where they are files."""
        root = self.options.config_folder or self.root
        if not is_folder(root):
            return
        loras = {split_lora(text)[0] for text in self.options.lora}
        others = {path.parent for path in self.weights if path not in loras} if root == self.root else set()
        folders = {root / part for part in self.traits.parts} | others
        files = [folder / "config.json" for folder in sorted(folders)]
        files += [
            root / f"tokenizer{suffix}" / name for suffix in self.traits.suffixes for name in _TOKENIZER
        ]
        yield from filter(is_file, files)

    def autocast(self) -> torch.autocast:
        """Lets text encoders and VAE multiply in the U-Net's precision: weights, norms and states stay float32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def turn(self) -> AbstractContextManager[object]:
        """To be held while parts compute: with `cpu_offload` one thread at a time, as a part that begins sends the one
        before it away from the GPU, whoever uses that."""
        return _OFFLOADED if self.options.cpu_offload else nullcontext()

    def pipeline(self) -> "DiffusionPipeline":
        """The equivalent diffusers pipeline. It shares the modules, and its scheduler is the model's own.

        Raises:
            InputError: the model's scheduler is of a class that diffusers does not have.
        """
        from lab.models.pipeline import (
            build_pipeline,  # brings every pipeline class, which sampling never needs
        )

        return build_pipeline(self)
