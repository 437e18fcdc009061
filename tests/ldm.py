"""Writes a diffusers model as one file in the layout of the original Stable Diffusion code.

The reverse of diffusers' conversion, written from the published layouts: https://github.com/CompVis/latent-diffusion
for U-Net and VAE, https://github.com/mlfoundations/open_clip for SD 2.x's and SDXL's second text encoder.
"""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lab.models.bundle import Bundle

UNET_NAMES = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
RESNET_NAMES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_NAMES = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
}
OPEN_CLIP_NAMES = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
    "encoder.layers": "transformer.resblocks",
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
}


def write_checkpoint(bundle: Bundle, path: Path, **marks: Tensor) -> Path:
    """Saves the whole model in one file; `marks` are added as they stand."""
    tensors = {f"model.diffusion_model.{name}": t for name, t in unet_tensors(bundle.unet).items()}
    tensors |= {f"first_stage_model.{name}": t for name, t in vae_tensors(bundle.vae).items()}
    encoders = [tower.encoder for tower in bundle.towers]
    if bundle.family == "sd1":
        tensors |= clip_tensors(encoders[0], "cond_stage_model.transformer.")
    elif bundle.family == "sd2":
        tensors |= open_clip_tensors(encoders[0], "cond_stage_model.model.")
    else:
        tensors |= clip_tensors(encoders[0], "conditioner.embedders.0.transformer.")
        tensors |= open_clip_tensors(encoders[1], "conditioner.embedders.1.model.")
    save_file({name: tensor.contiguous().clone() for name, tensor in (tensors | marks).items()}, path)
    return path


def unet_tensors(unet: nn.Module) -> dict[str, Tensor]:
    return _unet_tensors(unet.config, unet.state_dict())


def _unet_tensors(config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    steps = config.layers_per_block + 1

    def block(match: re.Match) -> str:
        side, i, kind, j = match[1], int(match[2]), match[3], int(match[4])
        attends = "CrossAttn" in config[f"{side}_block_types"][i]
        if side == "down":
            place = f"input_blocks.{1 + i * steps + (j if kind != 'downsamplers' else steps - 1)}"
            return f"{place}.{ {'resnets': '0', 'attentions': '1', 'downsamplers': '0.op'}[kind] }"
        place = f"output_blocks.{i * steps + (j if kind != 'upsamplers' else steps - 1)}"
        return f"{place}.{ {'resnets': '0', 'attentions': '1', 'upsamplers': str(1 + attends)}[kind] }"

    renamed = {}
    for name, tensor in tensors.items():
        if ".resnets." in name:
            name = _replace(name, RESNET_NAMES)
        name = re.sub(r"^(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)", block, _replace(name, UNET_NAMES))
        renamed[name.replace(".op.conv.", ".op.")] = tensor
    return renamed


CONTROL_NAMES = {
    r"controlnet_cond_embedding\.conv_in": r"input_hint_block.0",
    r"controlnet_cond_embedding\.conv_out": r"input_hint_block.14",
    r"controlnet_down_blocks\.(\d+)": r"zero_convs.\1.0",
    r"controlnet_mid_block": r"middle_block_out.0",
}


def controlnet_tensors(net: nn.Module) -> dict[str, Tensor]:
    """A ControlNet's by the names of https://github.com/lllyasviel/ControlNet."""
    own = {name: tensor for name, tensor in net.state_dict().items() if name.startswith("controlnet_")}
    like_unet = {name: tensor for name, tensor in net.state_dict().items() if name not in own}
    renamed = _unet_tensors(net.config, like_unet)
    for name, tensor in own.items():
        for ours, theirs in CONTROL_NAMES.items():
            name = re.sub(rf"^{ours}(?=\.)", theirs, name)
        hint = re.match(r"controlnet_cond_embedding\.blocks\.(\d+)", name)
        renamed[name.replace(hint[0], f"input_hint_block.{2 + 2 * int(hint[1])}") if hint else name] = tensor
    return renamed


def vae_tensors(vae: nn.Module) -> dict[str, Tensor]:
    last = len(vae.config.block_out_channels) - 1
    renamed = {}
    for name, tensor in vae.state_dict().items():
        if "attentions" in name and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        name = _replace(name, VAE_NAMES)
        name = re.sub(r"down_blocks\.(\d+)\.", r"down.\1.", name).replace(".resnets.", ".block.")
        name = re.sub(r"up_blocks\.(\d+)\.", lambda match: f"up.{last - int(match[1])}.", name)
        renamed[name] = tensor
    return renamed


def clip_tensors(encoder: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}text_model.{name}": tensor for name, tensor in _plain(encoder).items()}


def open_clip_tensors(encoder: nn.Module, prefix: str) -> dict[str, Tensor]:
    plain = _plain(encoder)
    renamed = {
        "text_projection": plain.pop("text_projection.weight", torch.eye(encoder.config.hidden_size)).T
    }
    for name, tensor in plain.items():
        match = re.fullmatch(r"(.*)\.self_attn\.q_proj\.(weight|bias)", name)
        if match:
            parts = [plain[f"{match[1]}.self_attn.{part}_proj.{match[2]}"] for part in "qkv"]
            renamed[_replace(f"{match[1]}.attn.in_proj_{match[2]}", OPEN_CLIP_NAMES)] = torch.cat(parts)
        elif not re.search(r"self_attn\.[kv]_proj", name):
            renamed[_replace(name, OPEN_CLIP_NAMES)] = tensor
    return {f"{prefix}{name}": tensor for name, tensor in renamed.items()}


def _plain(encoder: nn.Module) -> dict[str, Tensor]:
    return {name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}


def _replace(name: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        name = re.sub(rf"(?<![\w.]){re.escape(old)}(?![\w])|(?<=\.){re.escape(old)}(?!\w)", new, name)
    return name
