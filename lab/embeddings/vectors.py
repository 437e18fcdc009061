"""What vectors have to be before anything uses them."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from lab.errors import InputError
from lab.models.family import encoder_key

MAX_NUMBERS = 16 * 1024**2
"""The most values an embedding may hold: 8,192 vectors for SDXL. More is a mistake or an attack."""


def by_width(tensor: Tensor) -> dict[str, Tensor]:
    """Files the vectors under the encoder that has their width."""
    if tensor.ndim not in (1, 2):
        raise InputError(f"vectors have the shape {tuple(tensor.shape)}; expected (n, width) or (width,)")
    return {encoder_key(tensor.shape[-1]): tensor}


def checked(vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the vectors as (n, width) float32 on the CPU, their own storage, without gradients.

    Raises:
        InputError: a shape other than (n, width) or (width,), no floating point, no vectors or too many,
            NaN or infinite values, all zero, or another n for one encoder than for another.
    """
    rows = {key: _checked_rows(tensor, key) for key, tensor in vectors.items()}
    if len({tensor.shape[0] for tensor in rows.values()}) > 1:
        counts = ", ".join(f"{tensor.shape[0]} for {key}" for key, tensor in rows.items())
        raise InputError(f"the encoders have different numbers of vectors: {counts}")
    return rows


def vectors_sha256(vectors: Mapping[str, Tensor]) -> str:
    """The sha256 of the vectors' bytes, encoder by encoder in alphabetical order."""
    digest = hashlib.sha256()
    for key in sorted(vectors):
        digest.update(vectors[key].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _checked_rows(tensor: Tensor, key: str) -> Tensor:
    shape = tuple(tensor.shape)
    if tensor.ndim not in (1, 2):
        raise InputError(f"vectors for {key} have the shape {shape}; expected (n, width) or (width,)")
    if tensor.numel() == 0:
        raise InputError(f"there are no vectors in it (shape {shape})")
    if tensor.numel() > MAX_NUMBERS:  # before any copy: an expanded view may claim any size
        raise InputError(f"vectors of the shape {shape} are too many for an embedding")
    if tensor.layout != torch.strided or not tensor.dtype.is_floating_point:
        raise InputError(f"vectors are {str(tensor.dtype).removeprefix('torch.')}; expected floating point")
    rows = tensor.detach().to("cpu", torch.float32, copy=True).reshape(-1, shape[-1]).contiguous()
    if not rows.isfinite().all():
        broken = int((~rows.isfinite()).any(dim=1).sum())
        raise InputError(
            f"{broken} of {len(rows)} vectors for {key} hold NaN or infinity; its training failed"
        )
    if not rows.any():
        raise InputError(f"all vectors for {key} are zero: it was never trained")
    return rows
