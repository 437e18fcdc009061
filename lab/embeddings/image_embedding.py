"""Embeddings that A1111 hides in images: in a text chunk, or in the pixels at both sides of the picture.

The format is that of stable-diffusion-webui, modules/textual_inversion/image_embedding.py:

- PNG text chunk `sd-ti-embedding`: base64 of JSON, with `{"TORCHTENSOR": nested lists}` for a tensor.
- Pixels: the same JSON, deflated. Of its bytes, the low halves fill a block at the image's left, the high
  halves one at its right, row by row and channel by channel, each value in the low four bits of a channel and
  XORed with the low four bits of a pseudo-random sequence. A black column lies between each block and the
  picture.
"""

import base64
import json
import warnings
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lab.errors import InputError

TEXT_CHUNK = "sd-ti-embedding"
MAX_PIXELS = 16 * 1024**2
MAX_JSON_BYTES = 64 * 1024**2
MAX_NODES = 50_000
"""Lists and objects in the JSON: of an embedding each vector is one."""

Pixels = NDArray[Any]  # of uint8


def read_image(data: bytes) -> Any:
    """Returns the dictionary that A1111 stored in a PNG or WebP file.

    Raises:
        InputError: the image is too large, or holds no embedding.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(BytesIO(data), formats=["PNG", "WEBP"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"refused: an image of {image.width} x {image.height} pixels")
            pixels = np.asarray(image.convert("RGB"))  # decodes, and so finds text chunks behind the pixels
            text = image.info.get(TEXT_CHUNK)
    if text is not None:
        return _parse(base64.b64decode(text))
    packed = _unpack(pixels)
    if packed is None:
        raise InputError("an image without an embedding in it")
    return _parse(packed)


def _parse(text: bytes) -> Any:
    def tensors(node: dict[str, Any]) -> Any:
        return torch.tensor(node["TORCHTENSOR"]) if "TORCHTENSOR" in node else node

    if text.count(b"[") + text.count(b"{") > MAX_NODES or len(text) > MAX_JSON_BYTES:
        raise InputError("refused: it declares more lists than an embedding has")
    return json.loads(text, object_hook=tensors)


def _unpack(pixels: Pixels) -> bytes | None:
    """The JSON in the pixels (height, width, 3), or None if there is none."""
    low_bits = _without_black_border(pixels) & 0x0F
    black = np.flatnonzero(low_bits.sum(axis=(0, 2)) == 0)
    if len(black) < 2:
        return None
    low = _unmask(low_bits[:, : black[0]])
    high = _unmask(low_bits[:, black[-1] + 1 :])
    if low.shape != high.shape or low.size == 0:
        return None
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress((high << 4 | low).tobytes(), MAX_JSON_BYTES)
    except zlib.error:
        return None
    return text if inflate.eof else None


def _without_black_border(pixels: Pixels) -> Pixels:
    lit = pixels.min(axis=2) > 0
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    if len(rows) == 0:
        return pixels[:0]
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _unmask(block: Pixels) -> Pixels:
    return block ^ (_sequence(block.size) & 0x0F).reshape(block.shape)


def _sequence(length: int) -> Pixels:
    """x mod 255 for x <- 1664525 x + 1013904223 mod 2^32, from 0.

    Doubled at each turn, since k steps at once are again a multiplication and an addition.
    """
    states = np.array([1013904223], np.uint32)
    factor, offset = np.uint32(1664525), np.uint32(1013904223)
    while len(states) < length:
        with np.errstate(over="ignore"):
            states = np.concatenate([states, states * factor + offset])
            factor, offset = factor * factor, factor * offset + offset
    return (states[:length] % 255).astype(np.uint8)
