"""Embedding files as other tools write them, made here from the description of each layout."""

import base64
import io
import json
import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

TOKEN = "<cat-toy>"


def vectors(count: int = 2, width: int = 768, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator("cpu").manual_seed(seed))


def torch_file(data: Any, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(data, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def a1111(tensor: Any, **more: Any) -> dict[str, Any]:
    data = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": tensor},
        "name": "internal",
        "step": 1419,
        "sd_checkpoint": "89d59c3dde",
        "sd_checkpoint_name": "some-model",
    }
    return data | more


def old_parameter_dict(tensor: Tensor) -> nn.ParameterDict:
    """A `ParameterDict` with the attributes that torch gave it before 1.12."""
    terms = nn.ParameterDict()
    state = {"training": True, "_parameters": OrderedDict({"*": nn.Parameter(tensor)})}
    state |= {"_non_persistent_buffers_set": set()}
    state |= {f"_{name}": OrderedDict() for name in ("buffers", "backward_hooks", "forward_hooks", "modules")}
    vars(terms).clear()
    vars(terms).update(state)
    return terms


def a1111_json(tensor: Tensor) -> bytes:
    return json.dumps(a1111({"TORCHTENSOR": tensor.double().tolist()})).encode()


def text_chunk_image(tensor: Tensor) -> bytes:
    info = PngInfo()
    info.add_text("sd-ti-embedding", base64.b64encode(a1111_json(tensor)).decode())
    return encoded_image(np.full((16, 16, 3), 200, np.uint8), "PNG", pnginfo=info)


def pixel_image(tensor: Tensor, kind: str = "PNG", border: int = 0) -> bytes:
    """The JSON, deflated, in the low bits of a block at each side of a picture of 40 x 48 pixels.

    A block is as high as the image, starts over where the data end, and has some pattern in its high bits.
    """
    packed = np.frombuffer(zlib.compress(a1111_json(tensor), 9), np.uint8)
    height = 48
    size = -(-len(packed) // (3 * height)) * 3 * height
    blocks = []
    for halves in (packed & 0x0F, packed >> 4):
        block = np.resize(halves, size).reshape(height, -1, 3) ^ mask(size).reshape(height, -1, 3)
        pattern = (np.arange(size).reshape(block.shape) * 16) & 0xF0
        blocks.append(block | pattern.astype(np.uint8))
    black = np.zeros((height, 1, 3), np.uint8)
    picture = np.full((height, 40, 3), 0x57, np.uint8)
    pixels = np.concatenate([blocks[0], black, picture, black, blocks[1]], axis=1)
    pixels = np.pad(pixels, ((border, border), (border, border), (0, 0)))
    return encoded_image(pixels, kind, **({"lossless": True} if kind == "WEBP" else {}))


def mask(size: int) -> np.ndarray:
    state, values = 0, []
    for _ in range(size):
        state = (1664525 * state + 1013904223) % 2**32
        values.append(state % 255 & 0x0F)
    return np.array(values, np.uint8)


def encoded_image(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


LAYOUTS: dict[str, tuple[str, Callable[[Tensor], bytes]]] = {
    "diffusers .bin": ("diffusers", lambda t: torch_file({TOKEN: t})),
    "diffusers .bin, legacy pickle": ("diffusers", lambda t: torch_file({TOKEN: t}, legacy=True)),
    "diffusers .safetensors": ("diffusers", lambda t: save_safetensors({TOKEN: t}, {"format": "pt"})),
    "kohya .safetensors": ("kohya", lambda t: save_safetensors({"emb_params": t})),
    "kohya .pt": ("kohya", lambda t: torch_file({"emb_params": t})),
    "OneTrainer": ("onetrainer", lambda t: save_safetensors({"emp_params": t})),
    "A1111": ("a1111", lambda t: torch_file(a1111(t))),
    "A1111, legacy pickle": ("a1111", lambda t: torch_file(a1111(t), legacy=True)),
    "A1111, trained parameter": ("a1111", lambda t: torch_file(a1111(nn.Parameter(t)))),
    "A1111, ParameterDict": (
        "a1111",
        lambda t: torch_file(a1111(t, string_to_param=nn.ParameterDict({"*": nn.Parameter(t)}))),
    ),
    "A1111, ParameterDict before torch 1.12": (
        "a1111",
        lambda t: torch_file(a1111(t, string_to_param=old_parameter_dict(t))),
    ),
    "A1111, ParameterDict, legacy pickle": (
        "a1111",
        lambda t: torch_file(a1111(t, string_to_param=nn.ParameterDict({"*": nn.Parameter(t)})), legacy=True),
    ),
    "A1111, ParameterDict before torch 1.12, legacy pickle": (
        "a1111",
        lambda t: torch_file(a1111(t, string_to_param=old_parameter_dict(t)), legacy=True),
    ),
    "list of one": ("list", lambda t: torch_file([{TOKEN: t}])),
    "list of rows": ("list", lambda t: torch_file([{f"<{i}>": row} for i, row in enumerate(t)])),
    "A1111 PNG with a text chunk": ("a1111", text_chunk_image),
    "A1111 PNG in the pixels": ("a1111", pixel_image),
    "A1111 PNG in the pixels, black border": ("a1111", lambda t: pixel_image(t, border=5)),
    "A1111 WebP in the pixels": ("a1111", lambda t: pixel_image(t, "WEBP")),
}
"""What each is called, the layout that it should be recognised as, and how it is made from (n, width)."""
