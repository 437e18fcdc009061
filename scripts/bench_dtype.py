"""Measures what `--dtype auto` goes by: the U-Net's time in float32 and bfloat16, and how far the images differ.

    python -m scripts.bench_dtype    # the bundled model, and a random U-Net of SD 1.5's size
    python -m scripts.bench_dtype --model FOLDER --batches 2 16

Precisions take turns, and the fastest of several rounds counts, so that other work on the machine matters less.
"""

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

import lab
from lab.models.bundle import Bundle
from lab.models.folder import quiet_libraries
from lab.models.single_file import CONFIGS
from lab.sample.pixels import decode_images

PROMPTS = [
    "a red apple on a white background",
    "a blue car",
    "a yellow duck on a green background",
    "a house",
]


def main() -> None:
    """Prints one table of times a U-Net, and the PSNR of the images and of their decoding."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 8, 16], help="rows a U-Net call")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--wide", action=argparse.BooleanOptionalAction, default=True)
    settings = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    bundle = lab.load(settings.model, device="cpu", dtype="float32")
    side = bundle.defaults.width // bundle.vae_scale
    for batch in settings.batches:
        _report(f"{settings.model}, batch {batch}", bundle.unet, batch, side, settings.rounds)
    if settings.wide:
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(CONFIGS / "sd1" / "unet"))
        _report("random U-Net of SD 1.5's size, 256 px, batch 2", unet.eval(), 2, 32, 2)
    _compare_images(settings.model)


def _report(title: str, unet: UNet2DConditionModel, batch: int, side: int, rounds: int) -> None:
    with quiet_libraries():
        half = copy.deepcopy(unet).to(torch.bfloat16)
    runs = {
        "float32": lambda: _call(unet, batch, side, torch.float32, autocast=False),
        "bfloat16 autocast": lambda: _call(unet, batch, side, torch.float32, autocast=True),
        "bfloat16 weights": lambda: _call(half, batch, side, torch.bfloat16, autocast=False),
    }
    for run in runs.values():
        run()  # the first call is slower
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(_seconds(run))
    print(title)
    for name, seconds in times.items():
        print(
            f"  {name:18} {min(seconds):8.4f} s   {min(times['float32']) / min(seconds):.2f} times float32's speed"
        )


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@torch.inference_mode()
def _call(unet: UNet2DConditionModel, batch: int, side: int, dtype: torch.dtype, autocast: bool) -> None:
    latents = torch.zeros(batch, unet.config.in_channels, side, side, dtype=dtype)
    text = torch.zeros(batch, 77, unet.config.cross_attention_dim, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        unet(latents, torch.tensor(500), text)


def _compare_images(model: str) -> None:
    exact, half = (lab.load(model, device="cpu", dtype=dtype) for dtype in ("float32", "bfloat16"))
    wanted, found = (lab.generate(bundle, prompt=PROMPTS, seeds=[1, 2]) for bundle in (exact, half))
    images, latents = [result.image for result in found], torch.stack([result.latents for result in found])
    print(f"images in bfloat16 against float32: {_psnr(images, [result.image for result in wanted])}")

    def decoded(bundle: Bundle) -> list[Image.Image]:
        return list(decode_images(bundle, latents))

    seconds = {bundle.dtype: _seconds(partial(decoded, bundle)) for bundle in (exact, half)}
    print(
        f"the same latents decoded: {_psnr(images, decoded(exact))}, "
        f"{seconds[exact.dtype] / seconds[half.dtype]:.2f} times float32's speed"
    )


def _psnr(images: list[Image.Image], references: list[Image.Image]) -> str:
    pairs = [(np.asarray(a, float), np.asarray(b, float)) for a, b in zip(images, references, strict=True)]
    ratios = [10 * np.log10(255**2 / np.mean((a - b) ** 2)) for a, b in pairs]
    return f"PSNR {np.mean(ratios):.1f} dB, lowest {min(ratios):.1f} dB"


if __name__ == "__main__":
    main()
