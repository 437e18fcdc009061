"""Reads another VAE than the model's own."""

import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from lab.errors import InputError
from lab.models.folder import read_module
from lab.models.libraries import one_line_errors
from lab.models.weights import pick_weights, read_header


def read_vae(root: Path, like: AutoencoderKL) -> tuple[AutoencoderKL, tuple[Path, ...]]:
    """Loads a VAE in float32.

    Args:
        root: A VAE's diffusers folder, a model's folder with `vae/` in it, or a safetensors file in the layout of the
            original code, with or without the prefix that it has in whole checkpoints.
        like: The VAE whose config a single file is read by.

    Returns:
        The VAE and its weight files.

    Raises:
        InputError: no such VAE, damaged files, or weights that do not fit.
    """
    if root.is_file():
        read_header(root)
        return _read_file(root, like), (root,)
    folder = root / "vae" if (root / "vae" / "config.json").is_file() else root
    names = [f"vae/{path.name}" for path in folder.iterdir()]
    files = tuple(folder / Path(name).name for name in pick_weights(names, "vae", None))
    if "vae/config.json" not in names or not files:
        raise InputError(
            f"{root}: no VAE; a VAE's folder has config.json and diffusion_pytorch_model.safetensors"
        )
    for file in files:
        read_header(file)
    return read_module(AutoencoderKL, folder, None, torch.float32), files


def _read_file(path: Path, like: AutoencoderKL) -> AutoencoderKL:
    with tempfile.TemporaryDirectory() as config, one_line_errors(f"{path}: no VAE like the model's"):
        like.save_config(config)
        vae = AutoencoderKL.from_single_file(
            str(path), config=config, local_files_only=True, torch_dtype=torch.float32
        )
    if any(tensor.is_meta for tensor in vae.parameters()):
        raise InputError(f"{path}: no VAE like the model's: it lacks tensors")
    return vae.eval()
