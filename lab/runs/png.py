"""Images on disk that carry what made them."""

import json
import re
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Self

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import BaseModel, ConfigDict, Field

from lab.config import validated
from lab.errors import InputError
from lab.files import atomic, parse_json, read_json
from lab.images import text_chunks

CHUNK = "lab"
"""The PNG text chunk that holds the whole record as JSON, beside A1111's `parameters`."""


def save_image(path: Path, image: Image.Image, record: dict[str, Any], parameters: str) -> None:
    """Writes a PNG with its metadata, and the record beside it as JSON. The PNG comes last: if it is there, both are.

    Args:
        record: Everything that made the image, as plain JSON values.
        parameters: The record as the A1111 web UI and the tools around it write it.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    with atomic(path.with_suffix(".json")) as temporary:
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        # Of a file name that is not UTF-8, half characters become what JSON writes for them.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    with atomic(path) as temporary:
        write_png(temporary, image, record, parameters)


def write_png(file: Path | BinaryIO, image: Image.Image, record: Mapping[str, Any], parameters: str) -> None:
    """Writes a PNG with its metadata, as `save_image` does, to a file that may be open already."""
    info = PngInfo()
    info.add_text("parameters", parameters.encode(errors="replace").decode())
    info.add_text(CHUNK, json.dumps(record))
    # Level 1 takes a third of the default's time, for a sixth more bytes.
    image.save(file, format="PNG", pnginfo=info, compress_level=1)


WRITERS = 4
"""Threads that write images. Packing one of 1024 px takes longer than a fast GPU needs to make it."""

MOST_WAITING = 16
"""Images that may wait to be written."""


class ImageWriters:
    """Threads that write images while the next ones are made. When the block ends, however it does, none is being
    written; what went wrong with one is raised then, or noted on the error that ended the block."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(WRITERS, "lab-writer")
        self._pending: deque[Future[Any]] = deque()

    def write(self, save: Callable[..., Any], *what: Any) -> None:
        """Begins to write an image by calling `save` with the rest; waits where too many are waiting.

        Raises:
            InputError: an earlier one could not be written.
        """
        self._pending.append(self._pool.submit(save, *what))
        while self._pending and (self._pending[0].done() or len(self._pending) > MOST_WAITING):
            self._pending.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, failed: BaseException | None, __: object) -> None:
        self._pool.shutdown()
        for error in filter(None, (future.exception() for future in self._pending)):
            if failed is None:
                raise error
            failed.add_note(str(error))


class _Described(BaseModel):
    """What every record says, as far as anything draws on it."""

    model_config = ConfigDict(extra="allow", strict=True)

    seed: int
    prompt: str
    negative_prompt: str | None = None
    steps: int | None = None
    guidance: float | None = None
    strength: float | None = None
    scheduler: str | None = None


class _Use(BaseModel):
    name: str
    sha256: str


class _Record(_Described):
    """What the record of an image in a run's folder says besides."""

    width: int
    height: int
    model: str = ""
    model_hash: str = ""
    device: str = ""
    dtype: str = ""
    applied: list[_Use] = Field(default_factory=list)
    versions: dict[str, str] = Field(default_factory=dict)


def record_beside(path: Path) -> dict[str, Any]:
    """The record of a PNG that the lab wrote, from the JSON file beside it, which is quicker to read than the PNG.

    Raises:
        InputError: it is missing, damaged or was edited; says the file and the key.
    """
    file = path.with_suffix(".json")
    try:
        record = read_json(file)
        validated(_Record, record, file)
    except InputError as error:
        raise InputError(f"{error}; delete {path.name}, and the same command makes both again") from None
    return record


def read_record(path: Path) -> dict[str, Any]:
    """The record in a PNG that the lab wrote.

    Raises:
        InputError: not an image, one without a record, or one whose record is damaged; says the key.
    """
    chunks = text_chunks(path)
    if CHUNK not in chunks:
        raise InputError(f"{path}: carries no record of the lab, so it cannot be made again from it")
    record = parse_json(chunks[CHUNK], f"{path}: its record")
    validated(_Described, record, f"{path}: its record")
    return record


_SETTING = re.compile(r'\s*(\w[\w /-]{0,60}):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')
_HASHES = re.compile(r",\s*Hashes:\s*(\{[^{}]*\})")
"""civitai's and ComfyUI's savers' JSON, which stands there bare."""
_LONGEST_LINE = 10_000
"""Characters of a line of settings; longer ones are text."""


def read_parameters(text: str) -> dict[str, str]:
    """The parts of A1111's `parameters` chunk, by its own names, such as `Prompt`, `Steps` and `Sampler`; a size is
    two, `Size-1` and `Size-2`. As in the web UI, the last line has settings if it has three of them."""
    *lines, last = text.strip().split("\n")
    hashes = _HASHES.search(last) if len(last) <= _LONGEST_LINE else None
    rest = last if hashes is None else last[: hashes.start()] + last[hashes.end() :]
    found = _SETTING.findall(rest) if len(last) <= _LONGEST_LINE else []
    if len(found) + (hashes is not None) < 3:
        lines, found, hashes = [*lines, last], [], None
    prompt, _, negative = "\n".join(["", *lines]).partition("\nNegative prompt:")
    parts = {"Prompt": prompt.strip(), "Negative prompt": negative.strip()}
    for name, value in found:
        size = re.fullmatch(r"(\d+)x(\d+)", value)
        if size:
            parts |= {f"{name}-1": size[1], f"{name}-2": size[2]}
        else:
            parts[name] = _unquoted(value)
    return parts | ({"Hashes": hashes[1]} if hashes else {})


def embedding_hashes(parameters: Mapping[str, str]) -> dict[str, str]:
    """The first digits of the sha256 of embeddings' files by name, of what `read_parameters` gives: as A1111 lists them
    under `TI hashes`, and as civitai's extension and ComfyUI's savers do under `Hashes` (JSON with `embed:NAME`)."""
    listed = (entry.rpartition(": ") for entry in parameters.get("TI hashes", "").split(", "))
    found = {name: digest for name, _, digest in listed if name}
    try:
        others = dict(json.loads(parameters.get("Hashes", "{}")))
    except ValueError:
        return found
    named = {
        key.removeprefix("embed:"): str(value) for key, value in others.items() if key.startswith("embed:")
    }
    return named | found


def _unquoted(value: str) -> str:
    try:
        return str(json.loads(value)) if value.startswith('"') else value
    except ValueError:
        return value
