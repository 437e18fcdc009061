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

_DTYPES = {f"torch.{name}" for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_NUMBERS = "Float Double Half BFloat16 Long Int Short Char Byte Bool ComplexFloat ComplexDouble"
ALLOWED_GLOBALS = {
    "collections.OrderedDict",
    "__builtin__.set",
    "builtins.set",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._tensor._rebuild_from_type_v2",
    "torch._tensor.Tensor",
    "torch.Tensor",
    "torch.nn.parameter.Parameter",
    "torch.nn.modules.container.ParameterDict",
    "torch.Size",
    *(f"torch.{name}Storage" for name in _NUMBERS.split()),
    "torch.storage.UntypedStorage",
    *_DTYPES,
}
"""All that a file of tensors needs, of every torch since 1.8: tensors with attributes come by the two functions above
the classes, `ParameterDict` is in A1111's older files, dtypes are in float8's."""

_INTEGERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"}
_LEGACY_PREAMBLE = 3  # magic number, protocol version and the writer's byte order, each a pickle


def load_tensors(data: bytes) -> Any:
    """Returns what `torch.save` put into the file, zip or legacy layout.

    The opcodes are read first, so that a file that names anything but tensors, or declares more values than
    it has bytes, is refused before memory is taken; torch's own restricted unpickler then reads it.

    Raises:
        InputError: the pickle asks for anything else than tensors and plain data, or declares what it lacks.
    """
    data = _checked_archive(data) if data[:2] == b"PK" else _checked_legacy(data)
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


def _checked_legacy(data: bytes) -> bytes:
    """The file of torch's old container as its restricted unpickler reads it."""
    stream = BytesIO(data[:MAX_PICKLE_BYTES])
    ends = []
    for position in range(_LEGACY_PREAMBLE + 2):  # behind the tensors, the names of their storages
        _check_opcodes(stream, len(data), limited=position >= _LEGACY_PREAMBLE)
        ends.append(stream.tell())
    begin, end = ends[_LEGACY_PREAMBLE - 1 : _LEGACY_PREAMBLE + 1]
    return data[:begin] + _without_sources(data[begin:end]) + data[end:]


def _without_sources(pickled: bytes) -> bytes:
    """A pickle in which classes stand by their names alone.

    Where a class of `nn.Module` such as `ParameterDict` comes first, the old container has ("module", class, file,
    source code), which the restricted unpickler does not take.
    """
    operations = [
        (opcode.name, argument, place or 0) for opcode, argument, place in pickletools.genops(pickled)
    ]
    made, copied, begin = bytearray(), 0, 0
    lost: set[object] = set()
    for number, (name, _, place) in enumerate(operations):
        if name == "MARK":
            begin = number
        if name != "BINPERSID" or operations[begin + 1][1] != "module":
            continue
        inside = operations[begin : number + 1]
        which = [name for name, _, _ in inside].index("GLOBAL")
        stored = {each: operation[1] for each, operation in enumerate(inside) if "PUT" in operation[0]}
        stored.pop(which + 1, None)  # the class may be asked for again
        after = which + 1 + ("PUT" in inside[which + 1][0])
        made += pickled[copied : inside[0][2]] + pickled[inside[which][2] : inside[after][2]]
        copied = place + 1
        lost |= set(stored.values())
    if any("GET" in name and argument in lost for name, argument, _ in operations):
        raise InputError("its pickle names classes in a way that is not read; save it again as .safetensors")
    return bytes(made) + pickled[copied:]


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
    words, memo, said = (
        ["", ""],
        [],
        False,
    )  # protocol 4 makes names of two texts, which may be kept from before
    number = stored = protocol = 0
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "MEMOIZE":
            memo.append(words[-1] if said else "")
        elif "GET" in opcode.name and isinstance(argument, int) and argument < len(memo):
            words = [words[-1], memo[argument]]
        said = isinstance(argument, str)
        if said:
            words = [words[-1], str(argument)]
        if opcode.name in ("GLOBAL", "INST"):
            _check_global(str(argument).replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            _check_global(".".join(words))
        elif opcode.name == "PROTO":
            protocol = int(argument or 0)
        elif (
            not limited and words[-1] == "little_endian" and (argument is False or opcode.name == "NEWFALSE")
        ):
            raise InputError(
                "was written on a big-endian machine, of whose old files torch does not turn the bytes round; "
                "save it again there as .safetensors"
            )
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
