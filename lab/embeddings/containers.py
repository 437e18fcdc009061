"""From a file's bytes to the tensors and text in it, whatever wrapping they are in."""

import json
import pickle
import struct
import textwrap
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.errors import InputError
from lab.files import is_file
from lab.models.weights import no_tensors

MAX_FILE_BYTES = 128 * 1024**2


@dataclass(frozen=True)
class FileContents:
    """What a file holds: tensors in dictionaries or lists, and the text beside them.

    Attributes:
        wanted: The name that the embedding shall have, which tells of several in one file which one is meant.
    """

    data: Any
    metadata: dict[str, str] = field(default_factory=dict)
    wanted: str | None = None


def read_bytes(path: Path) -> bytes:
    """Reads a file that is no larger than an embedding can be.

    Raises:
        InputError: no such file, unreadable, empty or too large.
    """
    try:
        if not is_file(path):
            raise InputError(f"{path}: no such file")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InputError(f"{path}: {size / 1024**2:.0f} MB, too large for an embedding; is it a model?")
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot read it: {getattr(error, 'strerror', error)}") from None
    if not data:
        raise InputError(f"{path}: the file is empty; download or save it again")
    return data


def decode(data: bytes) -> FileContents:
    """Unwraps a safetensors, `torch.save`, PNG or WebP file, told apart by their first bytes.

    Raises:
        InputError: none of these, damaged, or asking for more than tensors.
    """
    problem = no_tensors(data)
    if problem:
        raise InputError(problem)
    try:
        return _unwrap(data)
    except InputError:
        raise
    except Exception as error:  # readers of damaged files raise whatever they stumble upon
        raise InputError(f"damaged or incomplete, download or save it again ({_reason(error)})") from None


def _unwrap(data: bytes) -> FileContents:
    import safetensors.torch

    from lab.embeddings.image_embedding import read_image
    from lab.embeddings.pickles import load_tensors

    if data.startswith(b"\x89PNG") or (data.startswith(b"RIFF") and data[8:12] == b"WEBP"):
        return FileContents(read_image(data))
    if data[8:9] == b"{":  # before pickles: the length in front may begin like one
        tensors, header = safetensors.torch.load(data), _safetensors_header(data)
        metadata = dict(header.pop("__metadata__", {}))
        in_order = {name: tensors[name] for name in header}  # those of load stand in an order left to chance
        return FileContents(in_order, metadata)
    if data.startswith((b"PK", b"\x80")):
        return FileContents(load_tensors(data))
    raise InputError("not a safetensors, .pt, .bin, PNG or WebP file")


def _safetensors_header(data: bytes) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", data[:8])
    return dict(json.loads(data[8 : 8 + length]))


def _reason(error: Exception) -> str:
    from safetensors import SafetensorError

    known = (SafetensorError, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError)
    if not isinstance(error, known):
        return type(error).__name__
    text = str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0]
    return textwrap.shorten(text, 120, placeholder=" ...")
