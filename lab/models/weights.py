"""Weight files: which ones a part of a model has, what their headers say, and their hash. No tensors are read."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lab.errors import InputError
from lab.files import is_file

PICKLES = {".ckpt", ".pt", ".pth", ".bin"}
HOW_TO_CONVERT = (
    "pickled checkpoints can run code, so the lab reads safetensors only; convert it in an environment you trust: "
    "StableDiffusionPipeline.from_single_file('x.ckpt').save_pretrained('folder', safe_serialization=True), with "
    "AutoencoderKL or ControlNetModel in the pipeline's place for one of these"
)

LARGEST_EMBEDDING = 5 * 10**6
"""Bytes of a pickle that is taken for an embedding: 75 vectors of SDXL have 600 kB; LoRA files begin about here."""

_IN_ITS_PLACE = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: run 'git lfs pull'",
    b"<!doctype html": "a web page, not the file itself: download it again, signed in if need be",
    b"<html": "a web page, not the file itself: download it again, signed in if need be",
    b"gguf": "a GGUF file, which the lab does not read; take the .safetensors",
}
SIGN_BYTES = 64
"""In which the signs of such files stand, behind white space at the most."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as its file's header describes it; `dtype` is the header's own name, such as F16."""

    shape: tuple[int, ...]
    dtype: str


def pick_weights(names: Iterable[str], part: str, variant: str | None) -> list[str]:
    """The safetensors files of a part (`unet`, `vae`, ...) among a model folder's file names, relative to the folder;
    none if it has none.

    A part without files of the wanted variant is taken without: as in diffusers, models often come with, say, an
    fp16 U-Net and a plain VAE.
    """
    names = sorted(names)
    for marker in ([f".{variant}"] if variant else []) + [""]:
        name = r"(diffusion_pytorch_model|model)" + re.escape(marker) + r"(-\d+-of-\d+)?\.safetensors"
        found = [name_ for name_ in names if re.fullmatch(rf"{re.escape(part)}/{name}", name_)]
        if found:
            return found
    return []


def known_variants(names: Iterable[str]) -> list[str]:
    """The weight variants that a model folder's file names speak of, such as fp16, in alphabetical order."""
    found = (
        re.fullmatch(r".+/(?:diffusion_pytorch_model|model)\.(\w+)(-.+)?\.safetensors", name)
        for name in names
    )
    return sorted({match[1] for match in found if match})


def uses_variant(files: Iterable[str], variant: str | None) -> bool:
    """Whether files that `pick_weights` chose are those of the variant, and not the plain ones in their place."""
    return variant is not None and any(f".{variant}" in Path(file).name for file in files)


def refuse_pickle(path: Path) -> None:
    """Refuses a file that is a pickle by its name, with what to do.

    Raises:
        InputError: it is one. Of a size that embeddings have, it is sent to where embeddings go.
    """
    if path.suffix.lower() not in PICKLES:
        return
    if is_file(path) and path.stat().st_size <= LARGEST_EMBEDDING:
        raise InputError(f"{path}: too small for a model; an embedding is given by --embedding")
    raise InputError(f"{path}: {HOW_TO_CONVERT}")


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Names, shapes and dtypes of the tensors in a safetensors file.

    Raises:
        InputError: no such file, a pickle (with how to convert it), or a damaged or truncated file.
    """
    return _read_safetensors(path)[0]


_SCALES = ("scaled_fp8", ".scale_weight", ".weight_scale", ".comfy_quant", ".absmax")
"""What stands beside weights of 8 bits or fewer that mean something only with it; plain float8 has nothing."""


def check_floating(header: Mapping[str, TensorInfo], path: Path) -> None:
    """Refuses weights that mean something only with the scales of a quantisation, such as whole numbers.

    Raises:
        InputError: names the first such tensor.
    """
    for name, info in header.items():
        whole = name.endswith((".weight", ".bias")) and re.match("[IU]|BOOL", info.dtype)
        if whole or name.endswith(_SCALES):
            what = f"is {info.dtype}" if whole else "is a scale"
            raise InputError(
                f"{path}: its {name} {what}: quantised weights are not read; take the model in 16 or 32 bits"
            )


def spread(path: Path, name: str) -> float | None:
    """The standard deviation of a small tensor in a safetensors file, without torch; None if there is no such tensor,
    or none of 16 or 32 bits."""
    import numpy as np

    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        about = json.loads(file.read(size)).get(name)
        if about is None or about["dtype"] not in ("F32", "F16", "BF16"):
            return None
        start, end = about["data_offsets"]
        file.seek(8 + size + start)
        data = file.read(end - start)
    if about["dtype"] == "BF16":
        numbers = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    else:
        numbers = np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[about["dtype"]]).astype("<f4")
    return float(numbers.std()) if numbers.size else None


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that a safetensors file holds beside its tensors, such as ModelSpec's.

    Raises:
        InputError: as `read_header`.
    """
    return _read_safetensors(path)[1]


def _read_safetensors(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    refuse_pickle(path)
    if not is_file(path):
        raise InputError(f"{path}: no such file")
    try:
        with safe_open(path, framework="np") as file:  # "pt" would import torch
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            header = {name: TensorInfo(tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
            return header, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: {_other_kind(path) or f'damaged or not a safetensors file ({error}); fetch it again'}"
        ) from None


def _other_kind(path: Path) -> str | None:
    """What a file that is called .safetensors is, by its first bytes."""
    try:
        with path.open("rb") as file:
            start = file.read(SIGN_BYTES)
    except OSError:
        return None
    if not start:
        return "an empty file; fetch it again"
    return HOW_TO_CONVERT if start.startswith(b"PK") else no_tensors(start)


def no_tensors(data: bytes) -> str | None:
    """What a file is that came in the place of one with tensors, such as a web page; None if it is none of those.

    Args:
        data: The file's first `SIGN_BYTES` bytes, or more.
    """
    start = data[:SIGN_BYTES].lstrip().lower()
    return next((said for sign, said in _IN_ITS_PLACE.items() if start.startswith(sign)), None)


def hash_files(files: Sequence[Path]) -> str:
    """A hash over files, as hexadecimal digits.

    Of one file it is its SHA-256, which the A1111 web UI calls the model hash; of several, the SHA-256 of their digests
    in order.
    """
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256"))
    if len(digests) == 1:
        return digests[0].hexdigest()
    return hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()
