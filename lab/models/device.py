"""Where a model computes, in which precision, and how its weights lie: device, dtype, memory format, offloading."""

import ctypes
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil  # comes with accelerate
import torch
from accelerate import cpu_offload_with_hook
from torch import Tensor

from lab.errors import InputError, did_you_mean
from lab.models.bundle import Bundle
from lab.models.config import DEVICES, ModelOptions
from lab.models.unet import add_float32_interface, use_matrix_products, use_plain_attention


def pick_device(name: str) -> torch.device:
    """Turns `auto`, `cpu`, `cuda`, `cuda:1` or `mps` into a device that is there.

    Raises:
        InputError: no such device on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device '{name}'{did_you_mean(name, DEVICES)}") from None
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= counts.get(device.type, 0):
        raise InputError(f"device '{name}' is not on this machine; use auto")
    return device


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device: from a CPU to a GPU without waiting for what the GPU was given before.

    From memory that is not pinned a copy begins when all work before it is done, and the host waits for that.
    """
    if device.type == "cuda" and values.is_cpu:
        return values.contiguous().pin_memory().to(device, non_blocking=True)
    return values.to(device)


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be had on a device, or None where the machine does not say."""
    if device.type == "cuda":
        # What PyTorch holds back of what was freed is there for a run as well.
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return psutil.virtual_memory().available if device.type == "cpu" else None


def give_memory_back() -> None:
    """Hands memory that was freed to the system again, where the C library keeps it for itself (glibc does).

    What is freed while a model is read and laid out lies in pieces between its weights: 0.6 GB with SD 1.5.
    """
    with suppress(AttributeError, OSError, TypeError):  # other C libraries; Windows
        ctypes.CDLL(None).malloc_trim(0)


def gigabytes(count: float) -> str:
    """A number of bytes for people, in GiB with three digits: what lacks a little is seen to."""
    return f"{count / 2**30:.3g} GiB"


PUBLISHED_WIDTH = 320
"""Channels of the first level in the U-Nets of SD 1.x, SD 2.x and SDXL."""


def pick_dtype(name: str, device: torch.device, unet: Mapping[str, Any]) -> torch.dtype:
    """Turns `float32`, `bfloat16`, `float16` or `auto` into the U-Net's precision.

    `auto` is bfloat16 on CUDA GPUs that have it (it cannot overflow), else float16 on GPUs. On CPUs that multiply
    bfloat16 in hardware (Intel AMX) it is bfloat16 for U-Nets as wide as the published ones, which are 1.5 times as
    fast with it. Everything else is float32. So is the bundled model, though batches of it are twice as fast in
    bfloat16: what it computes stays equal to other tools' to the last digits, and `bfloat16` may be asked for. A rule
    instead of a measurement at every start: a noisy one would now and then change the images of a seed.

    `scripts/bench_dtype.py` measures it, float16 on the CPU included, which took 1.3 times as long as float32. Images
    of the two precisions differed by 53 dB PSNR.

    Args:
        unet: The U-Net's config.
    """
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "mps":
        return torch.float16
    wide = unet["block_out_channels"][0] >= PUBLISHED_WIDTH
    return torch.bfloat16 if wide and _has_amx() else torch.float32


def _has_amx() -> bool:
    """True if the CPU has AMX tiles for bfloat16; only Linux lets programs use them."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def check_machine(options: ModelOptions, device: torch.device) -> None:
    """Refuses, before anything is loaded, options that this machine cannot serve.

    Raises:
        InputError: offloading without a GPU, or compiling without a compiler.
    """
    if options.cpu_offload and device.type == "cpu":
        raise InputError(
            "--cpu-offload moves parts between CPU and GPU, and the device is the CPU; leave it out"
        )
    if options.compile and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++", "cl"))):
        raise InputError(
            "--compile needs a C++ compiler, and none is on the path; install g++ or leave it out"
        )


def arrange_modules(bundle: Bundle) -> None:
    """Changes a new bundle's modules for good: memory format, offloading, compilation, and the U-Net's interface.

    Whatever changes them later puts them back (`lab.models.patches`).

    On CPUs weights lie channels last: on one core of a Xeon with AVX-512 the bundled model's VAE decoded 1.27 times as
    fast, its U-Net computed 1.04 times as fast. Larger U-Nets use matrix products (`use_matrix_products`).
    """
    options = bundle.options
    use_plain_attention(bundle.unet)
    if bundle.device.type == "cpu":
        bundle.unet.to(memory_format=torch.channels_last)
        bundle.vae.to(memory_format=torch.channels_last)
        if not options.compile:
            use_matrix_products(bundle.unet)
    if options.vae_slicing:
        bundle.vae.enable_slicing()
    if options.vae_tiling:
        bundle.vae.enable_tiling()
    if options.cpu_offload:
        hook = None
        for module in (*(tower.encoder for tower in bundle.towers), bundle.unet, bundle.vae):
            _, hook = cpu_offload_with_hook(module, bundle.device, prev_module_hook=hook)
    if options.compile:
        bundle.unet.compile()
    if bundle.dtype != torch.float32:
        add_float32_interface(bundle.unet)
