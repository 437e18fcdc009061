"""Tensors out of `torch.save` files from strangers, without running anything that they ask for."""

import pickletools
import re
import warnings
import zipfile
from collections.abc import Sequence
from io import BytesIO
from typing import Any, BinaryIO

import torch

from lab.embeddings.embedding import MAX_VALUES
from lab.errors import InputError

MAX_PICKLE_BYTES = 1024**2
"""Of the pickle itself, without the tensors' values; real ones have one or two thousand."""

MAX_INFLATION = 16
"""An archive that was compressed may declare so many times the bytes that it has."""

NEWEST_PROTOCOL = 3
"""Of pickles that torch's restricted unpickler reads."""

_TENSOR_TYPES = ("Float", "Double", "Half", "BFloat16", "Long", "Int")
ALLOWED_GLOBALS = {
    "collections.OrderedDict",
    "__builtin__.set",
    "builtins.set",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch.nn.modules.container.ParameterDict",
    *(f"torch.{name}Storage" for name in _TENSOR_TYPES),
    "torch.storage.UntypedStorage",
    "torch.float8_e4m3fn",
    "torch.float8_e5m2",
}
"""All that a file of tensors needs; `ParameterDict` is in A1111's older files, the last three in float8's."""

_INTEGERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"}
_LEGACY_PREAMBLE = 3  # magic number, protocol version and the writer's byte order, each a pickle


def load_tensors(data: bytes) -> Any:
    """Returns what `torch.save` put into the file, zip or legacy layout.

    The opcodes are read first, so that a file that names anything but tensors, or declares more values than
    it has bytes, is refused before memory is taken; torch's own restricted unpickler then reads it.

    Raises:
        InputError: the pickle asks for anything else than tensors and plain data, or declares what it lacks.
    """
    if data[:2] == b"PK":
        data = _checked_archive(data)
    else:
        stream = BytesIO(data[:MAX_PICKLE_BYTES])
        for position in range(_LEGACY_PREAMBLE + 2):  # behind the tensors, the names of their storages
            _check_opcodes(stream, len(data), limited=position >= _LEGACY_PREAMBLE)
    with torch.serialization.safe_globals([torch.nn.ParameterDict]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    _check_shapes(content)
    return content


def _check_shapes(content: Any) -> None:
    """Refuses tensors of more values than are stored for them: one value can be shaped into gigabytes."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            stored = value.untyped_storage().nbytes() if value.layout == torch.strided else value.nbytes
            if value.nbytes > stored:
                shape = tuple(value.shape)
                raise InputError(
                    f"refused: it declares a tensor of {shape}, too many for an embedding of {stored} bytes"
                )
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
        elif isinstance(value, torch.nn.ParameterDict):  # old ones have no more than their attributes
            waiting += vars(value).values()


def _checked_archive(data: bytes) -> bytes:
    """The archive as torch reads it; one that was packed again, by another program, is put into that form."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        entries = archive.infolist()
        if len({entry.filename for entry in entries}) < len(entries):
            raise InputError("refused: the archive has two entries of one name")
        size = sum(entry.file_size for entry in entries)
        if size > MAX_INFLATION * len(data):
            raise InputError("refused: the archive declares more data than it has")
        pickles = [entry for entry in entries if re.fullmatch(r"([^/]+/)?data\.pkl", entry.filename)]
        if not pickles:
            files = [entry.filename for entry in entries if not entry.is_dir()]
            inside = f" with {files[0][:80]} in it: unpack it, and give what is in it" if files else ""
            raise InputError(f"not a file of torch.save but a zip archive{inside}")
        for entry in pickles:
            if entry.file_size > MAX_PICKLE_BYTES:
                raise InputError(f"refused: its pickle has {entry.file_size} bytes; an embedding's is short")
            _check_opcodes(BytesIO(archive.read(entry)), max(size, len(data)), limited=True)
        folder = pickles[0].filename.removesuffix("data.pkl")
        return data if _as_torch_saves(entries, folder) else _repacked(archive, folder)


def _as_torch_saves(entries: Sequence[zipfile.ZipInfo], folder: str) -> bool:
    plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    return bool(folder) and plain and all(entry.filename.startswith(folder) for entry in entries)


def _repacked(archive: zipfile.ZipFile, folder: str) -> bytes:
    """The members beside the pickle, uncompressed, in one folder."""
    plain = BytesIO()
    with zipfile.ZipFile(plain, "w") as target:
        for entry in archive.infolist():
            if entry.filename.startswith(folder) and not entry.is_dir():
                name = f"archive/{entry.filename.removeprefix(folder)}"
                target.writestr(zipfile.ZipInfo(name), archive.read(entry))
    return plain.getvalue()


def _check_opcodes(stream: BinaryIO, size: int, limited: bool) -> None:
    """Reads one pickle's opcodes, without running them, and leaves `stream` behind it.

    Args:
        size: Bytes in the file: the storages together cannot have more values.
        limited: Whether integers may be no larger than an embedding's size.
    """
    words = ["", ""]
    number = stored = protocol = 0
    for opcode, argument, _ in pickletools.genops(stream):
        if isinstance(argument, str):
            words = [words[-1], argument]
        if opcode.name in ("GLOBAL", "INST"):
            _check_global(str(argument).replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            _check_global(".".join(words))
        elif opcode.name == "PROTO":
            protocol = int(argument or 0)
        elif opcode.name in _INTEGERS:
            number = int(argument or 0)
            if limited and abs(number) > MAX_VALUES:
                size_shown = number if abs(number) < 10**15 else "more than 10^15"
                raise InputError(f"refused: it declares a size of {size_shown}, too large for an embedding")
        elif opcode.name == "BINPERSID":  # behind ("storage", type, key, location, number of values)
            stored += number
            if stored > size:
                raise InputError(f"refused: it declares {stored} values and has only {size} bytes")
    if protocol > NEWEST_PROTOCOL:
        raise InputError(
            f"its pickle has protocol {protocol}, which torch does not read safely; "
            "save it again with torch.save as it is by default, or as .safetensors"
        )


def _check_global(name: str) -> None:
    if name not in ALLOWED_GLOBALS:
        raise InputError(
            f"refused: its pickle asks for {name}, and loading an embedding never runs code; "
            "ask its author for a .safetensors file"
        )
