"""Writing embeddings in the layouts that other tools read."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import safetensors.torch
import torch
from torch import Tensor

from lab.embeddings.embedding import Embedding, Place, check_vectors
from lab.embeddings.layouts import WRITABLE, check_place, check_target
from lab.embeddings.read import read_file
from lab.errors import InputError
from lab.files import atomic
from lab.models.family import family_with_keys

_USUAL: dict[Place, str] = {"input": "diffusers", "output": "onetrainer", "layers": "xti"}
"""The layout for one encoder, by where the embedding acts."""

_KNOWN_MEMBER = re.compile(r"[^/]+/(data/\d+|version|data\.pkl)")


def save(
    embedding: Embedding,
    path: Path,
    layout: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes an embedding, reads it back and compares it before the file has its name.

    Args:
        path: `.safetensors`, or `.pt` or `.bin` for a `torch.save` file; a1111's layout is `.pt` only.
        layout: `diffusers` (the token and its vectors), `kohya` (`emb_params`), `a1111` (`string_to_param`)
            for one encoder; `sdxl` (`clip_l` and `clip_g`) for two. By default `diffusers` or `sdxl`, `onetrainer`
            (`emp_params`) for an output embedding of one encoder, and `xti` for vectors for a U-Net's layers.
        metadata: More text to store. Only safetensors have room for it: there it joins what the embedding
            brings along, its name, trigger, kind, step and base model in ModelSpec's and kohya's keys.

    Raises:
        InputError: a layout or suffix that cannot hold the embedding, unusable vectors, or a file that cannot
            be written; nothing is left behind.
    """
    vectors = check_vectors(embedding.vectors, zeros=bool(embedding.outputs))
    layout = layout or ("sdxl" if len(vectors) > 1 else _USUAL[embedding.place])
    check_target(path, layout)
    try:
        check_place(layout, embedding.place)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if metadata and path.suffix.lower() != ".safetensors":
        raise InputError(f"{path}: {path.suffix} has no room for metadata; write a .safetensors file")
    write = WRITABLE[layout].write
    assert write is not None, "all in this table have one"
    content = write(embedding, vectors)
    if path.suffix.lower() == ".safetensors":
        data = _safetensors(content, _model_spec(embedding) | dict(metadata or {}))
    else:
        data = _pickled(content)
    with atomic(path) as temporary:
        temporary.write_bytes(data)
        _compare(replace(embedding, vectors=vectors).tensors, read_file(temporary).tensors, path)


def _model_spec(embedding: Embedding) -> dict[str, str]:
    """What is known of the embedding, in ModelSpec 1.0.1's keys, and kohya's where it has none."""
    provenance, traits = embedding.provenance, family_with_keys(embedding.vectors)
    known = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{traits.modelspec}/textual-inversion" if traits else None,
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": embedding.name,
        "modelspec.trigger_phrase": provenance.internal_name,
        "modelspec.is_negative_embedding": "true" if embedding.kind == "negative" else None,
        "ss_steps": None if provenance.step is None else str(provenance.step),
        "ss_sd_model_name": provenance.base_model,
        "lab.kind": embedding.kind,
    }
    return {**provenance.metadata, **{key: value for key, value in known.items() if value is not None}}


def _safetensors(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A file whose bytes, and so its hash, depend on nothing but its contents: the header is sorted."""

    def whole(text: str) -> str:
        """Half characters, of a cut emoji say, as question marks: safetensors has nothing else for them."""
        return text.encode(errors="replace").decode()

    named = {whole(name): tensor for name, tensor in tensors.items()}
    data = safetensors.torch.save(named, {whole(key): whole(text) for key, text in metadata.items()})
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:start]), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return data[:8] + header.encode().ljust(start - 8) + data[start:]


def _pickled(content: dict[str, Any]) -> bytes:
    """What `torch.save` writes, less the members that torch has added to it over the years.

    The A1111 web UI's loader (modules/safe.py) refuses a zip that holds anything but pickle, version and storages;
    every torch reads such a file. Its bytes depend on nothing but its contents.
    """
    saved, plain = (
        BytesIO(),
        BytesIO(),
    )  # torch.save puts a file's name into the file, and that is a temporary one
    torch.save(content, saved)
    with ZipFile(saved) as source, ZipFile(plain, "w") as target:
        for name in filter(_KNOWN_MEMBER.fullmatch, source.namelist()):
            target.writestr(ZipInfo(name), source.read(name))
    return plain.getvalue()


def _compare(written: dict[str, Tensor], read_back: dict[str, Tensor], path: Path) -> None:
    same = len(written) == len(read_back) and all(
        torch.equal(tensor, read_back.get(key, next(iter(read_back.values()))))
        for key, tensor in written.items()
    )
    if not same:
        raise InputError(f"{path}: what was written does not read back the same; the disk may be failing")
