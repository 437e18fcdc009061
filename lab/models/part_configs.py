"""The configs of a model's parts, read in one place and checked against what they must be. Imports no torch.

Only keys that something draws on are checked; others pass as they are. Bounds are far above every published model's:
a number beyond them would take memory or time before anyone could tell that the weights do not fit it.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lab.config import validated
from lab.errors import InputError
from lab.files import read_json

Size = Annotated[int, Field(ge=1, le=2**17)]
Layers = Annotated[int, Field(ge=1, le=200)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Token = str | dict[str, Any] | None


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _UNet(_Part):
    in_channels: Size = 4
    out_channels: Size = 4
    sample_size: Size | Annotated[list[Size], Field(min_length=2, max_length=2)] | None = None
    block_out_channels: Annotated[list[Size], Field(min_length=1, max_length=16)]
    down_block_types: list[str] | None = None
    up_block_types: list[str] | None = None
    layers_per_block: Layers | list[Layers] = 2
    transformer_layers_per_block: Layers | list[Layers | list[Layers]] = 1
    attention_head_dim: Size | list[Size] = 8
    cross_attention_dim: Size | list[Size] = 1280
    norm_num_groups: Size | None = 32
    time_cond_proj_dim: Size | None = None
    conv_in_kernel: Annotated[int, Field(ge=1, le=31)] = 3
    conv_out_kernel: Annotated[int, Field(ge=1, le=31)] = 3
    addition_embed_type: str | None = None
    addition_time_embed_dim: Size | None = None
    projection_class_embeddings_input_dim: Size | None = None


class _ControlNet(_UNet):
    conditioning_channels: Size = 3
    conditioning_embedding_out_channels: Annotated[list[Size], Field(min_length=1, max_length=16)] | None = (
        None
    )


class _VAE(_Part):
    sample_size: Size | Annotated[list[Size], Field(min_length=2, max_length=2)] | None = None
    in_channels: Size = 3
    out_channels: Size = 3
    latent_channels: Size = 4
    block_out_channels: Annotated[list[Size], Field(min_length=1, max_length=16)]
    layers_per_block: Layers = 2
    norm_num_groups: Size = 32
    scaling_factor: Positive = 0.18215
    shift_factor: Number | None = None


class _TextEncoder(_Part):
    hidden_size: Size
    intermediate_size: Size = 2048
    num_hidden_layers: Layers
    num_attention_heads: Size = 8
    projection_dim: Size | None = None
    max_position_embeddings: Size = 77
    vocab_size: Annotated[int, Field(ge=1, le=2**24)] = 49408
    hidden_act: Literal["quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "tanh"] = (
        "quick_gelu"
    )
    eos_token_id: int | None = None
    layer_norm_eps: Positive = 1e-5


class _Scheduler(_Part):
    class_name: str | None = Field(None, alias="_class_name")
    beta_start: Positive = 0.0001
    beta_end: Positive = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    num_train_timesteps: Annotated[int, Field(ge=2, le=100_000)] = 1000
    trained_betas: list[Positive] | None = None
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading"
    steps_offset: Annotated[int, Field(ge=0, le=1)] = 0
    rescale_betas_zero_snr: bool = False

    @model_validator(mode="after")
    def _diffuses(self) -> Self:
        if self.class_name is not None and self.class_name.startswith(("EDM", "FlowMatch")):
            raise ValueError(f"{self.class_name} is for noise that the lab has no scheduler for")
        return self

    @model_validator(mode="after")
    def _as_many_betas_as_timesteps(self) -> Self:
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(f"trained_betas are {len(self.trained_betas)}, not {self.num_train_timesteps}")
        return self


class _Tokenizer(_Part):
    model_max_length: Annotated[int, Field(ge=3)] = 77
    bos_token: Token = None
    eos_token: Token = None
    pad_token: Token = None
    unk_token: Token = None


class _Preprocessor(_Part):
    image_mean: Annotated[list[Number], Field(min_length=3, max_length=3)] | None = None
    image_std: Annotated[list[Positive], Field(min_length=3, max_length=3)] | None = None
    resample: Annotated[int, Field(ge=0, le=5)] | None = None


class _Quality(_Part):
    labels: list[str]
    widths: Annotated[list[Size], Field(min_length=1, max_length=16)]
    size: Size
    mean: Annotated[list[Number], Field(min_length=3, max_length=3)]
    std: Annotated[list[Positive], Field(min_length=3, max_length=3)]


_CONFIGS: dict[str, type[_Part]] = {
    "unet": _UNet,
    "controlnet": _ControlNet,
    "vae": _VAE,
    "text_encoder": _TextEncoder,
    "scheduler": _Scheduler,
    "tokenizer": _Tokenizer,
    "preprocessor": _Preprocessor,
    "quality": _Quality,
}


def read_part_config(path: Path, part: str) -> dict[str, Any]:
    """The config of a part, as it stands in its file.

    Args:
        part: `unet`, `vae`, `text_encoder`, `scheduler`, `tokenizer`, `preprocessor` or `quality`; `_2` behind it does
            not count.

    Raises:
        InputError: no such file, no JSON object, or a value that cannot be; says the file and the key.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, and the model needs it")
    config = read_json(path)
    validated(_CONFIGS[part.removesuffix("_2")], config, path)
    return config
