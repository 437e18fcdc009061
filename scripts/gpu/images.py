"""Checks of images on the bundled model: every scheduler and precision, what saves memory, heat maps."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

import lab
from lab.analysis.heatmaps import Target, heat_maps
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.schedulers import SCHEDULERS
from lab.sample.config import requests
from lab.sample.plan import plan
from scripts.gpu.stand import Found, NotHereError, Stand, images_of, worst_psnr

PROMPT = "a noto emoji of a red apple on a white background"
EXACT, DEFAULT = 45.0, 35.0
"""dB that images in float32 keep from the CPU's at the least: with true float32 products, and with the device's own
settings, by which cuDNN rounds what it multiplies to ten binary digits (TF32). One level of 255 everywhere is 48 dB."""

HALF = {"float16": 30.0, "bfloat16": 25.0}
"""dB that half precisions keep from float32; 53 dB were measured for bfloat16 on a CPU."""


def schedulers(stand: Stand, found: Found) -> None:
    """Every scheduler, with and without Karras sigmas, in float32.

    The bundled model was trained at zero terminal SNR. What cannot sample it so takes betas as they are: its images
    are no good then, and the same on both devices all the same.
    """
    near, far = stand.emoji(device="cpu"), stand.emoji()
    plain = {**near.scheduler_config, "rescale_betas_zero_snr": False}
    exact, default = [], []
    for name, entry in SCHEDULERS.items():
        for karras in (False, True)[: 1 + entry.karras]:
            own = entry.zero_snr and not karras
            config = near.scheduler_config if own else plain
            settings = {
                "prompt": PROMPT,
                "negative_prompt": "blurry",
                "seeds": [1, 2][: stand.pick(2, 1)],
                "scheduler": name,
                "karras": karras,
                "steps": stand.pick(8, 2),
                **stand.size(128),
            }
            wanted, rounded = (
                images_of(replace(bundle, scheduler_config=config), **settings) for bundle in (near, far)
            )
            with true_float32():
                images = images_of(replace(far, scheduler_config=config), **settings)
            label = f"{name} karras" if karras else name
            exact.append(worst_psnr(wanted, images))
            default.append(worst_psnr(wanted, rounded))
            found.note(f"{label}, dB", exact[-1])
            found.note(f"{label} as the device multiplies, dB", default[-1])
    found.must("the lowest in true float32, dB", min(exact), least=EXACT)
    found.must("the lowest as the device multiplies, dB", min(default), least=DEFAULT)


@contextmanager
def true_float32() -> Iterator[None]:
    """Inside the block, float32 products are not rounded to TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def precisions(stand: Stand, found: Found) -> None:
    """The U-Net's precisions against the CPU's float32."""
    settings = {
        "prompt": [PROMPT, "a twemoji emoji of a rocket"],
        "negative_prompt": "",
        "seeds": [1, 2][: stand.pick(2, 1)],
        "steps": stand.pick(12, 3),
        **stand.size(128),
    }
    wanted = images_of(stand.emoji(device="cpu"), **settings)
    for dtype, least in {"float32": DEFAULT, **HALF}.items():
        images = images_of(stand.emoji(dtype=dtype), **settings)
        found.must(f"{dtype}, dB", worst_psnr(wanted, images), least=least)
    found.note("auto", str(stand.emoji(dtype="auto").dtype))


def memory_options(stand: Stand, found: Found) -> None:
    """What saves memory changes no image; tiles alone, whose borders are blended, change it a little."""
    settings = {"prompt": PROMPT, "seeds": [1, 2], "steps": stand.pick(8, 2), **stand.size(128)}
    large = settings | {"width": 256, "height": 256, "seeds": [1]}  # more than one tile, which is 128 px
    plain = stand.emoji()
    with true_float32():
        wanted = images_of(plain, **settings)
        sliced = images_of(stand.emoji(vae_slicing=True), **settings)
        found.must("sliced, dB", worst_psnr(wanted, sliced), least=EXACT)
        tiled = images_of(stand.emoji(vae_tiling=True), **large)
        found.must("tiled, dB", worst_psnr(images_of(plain, **large), tiled), least=20.0)
    if not stand.on_gpu:
        found.note("offloaded", "left out: needs a GPU")
        return
    before = torch.cuda.memory_allocated()
    offloaded = stand.emoji(cpu_offload=True)
    found.must("MiB on the device before", (torch.cuda.memory_allocated() - before) / 2**20, most=1.0)
    for turn in ("offloaded, dB", "offloaded again, dB"):
        found.must(turn, worst_psnr(wanted, images_of(offloaded, **settings)), least=DEFAULT)
    found.note("MiB on the device after", (torch.cuda.memory_allocated() - before) / 2**20)


def out_of_memory(stand: Stand, found: Found) -> None:
    """With a limit that a whole batch does not fit under, images are the same in smaller batches."""
    if not stand.on_gpu:
        raise NotHereError("needs a GPU")
    bundle, notes = stand.emoji(), _Notes()
    settings = {"prompt": PROMPT, "seeds": "1-256", "steps": 2, "width": 256, "height": 256}
    wanted: list[Image.Image] = []
    took = stand.timed(lambda: wanted.extend(images_of(bundle, **settings)))
    stand.tidy()
    total = torch.cuda.get_device_properties(stand.device).total_memory
    limit = torch.cuda.memory_reserved() + 0.4 * took.peak * 2**30
    torch.cuda.set_per_process_memory_fraction(limit / total)
    try:
        images = images_of(bundle, **settings, listener=notes)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        stand.tidy()
    found.note("peak without a limit, GiB", took.peak)
    found.note("what was said", "; ".join(notes.lines))
    found.must("batches made smaller", len(notes.lines), least=1)
    found.must("images, dB", worst_psnr(wanted, images), least=DEFAULT)


class _Notes(Listener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        """Keeps a line."""
        self.lines.append(line)


def heat_maps_equal(stand: Stand, found: Found) -> None:
    """Heat maps of both devices, and the image with maps against the one without."""
    targets = [Target("apple"), Target(None)]
    maps, images = {}, {}
    for device in ("cpu", str(stand.device)):
        bundle: Bundle = stand.emoji(device=device)
        settings: dict[str, Any] = {
            "prompt": PROMPT,
            "seeds": "1",
            "steps": stand.pick(8, 2),
            **stand.size(128),
        }
        jobs = plan(bundle, requests(lab.GenerateConfig(**settings)))
        with true_float32():
            (result,) = heat_maps(bundle, jobs, targets)
            images[device] = result.image, *images_of(bundle, **settings)
        maps[device] = torch.stack([result.of(target) for target in targets])
    difference = (maps["cpu"] - maps[str(stand.device)]).abs().max()
    found.must("largest difference of shares", float(difference), most=0.01)
    with_maps, without = images[str(stand.device)]
    found.must("the image with maps and the one without, dB", worst_psnr([with_maps], [without]), least=EXACT)
