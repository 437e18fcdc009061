"""Fetch the icon sets, render them, split them, and paint the data set that every other stage reads.

Writes under outputs/pretrain/: packages/ (npm, pinned), icons.pt, split.json, scenes.npy and scenes.jsonl.
A line of scenes.jsonl describes the image of the same index in scenes.npy, (n, 3, 128, 128) uint8; its "use"
says who may look: "train", "extra" (emoji beside the 400, for the autoencoder, and for the U-Net to learn styles from),
or what it is held out as ("object", "style", "pair").
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import subprocess
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from PIL import Image
from torch import Tensor

from scripts.pretrain.catalogue import (
    HELD_OUT_STYLE,
    STYLES,
    Split,
    Thing,
    everything,
    read_icons,
    split,
    things,
)
from scripts.pretrain.common import (
    ASSETS,
    WORK,
    arguments,
    read_config,
    write_atomically,
    write_json,
    write_text,
)
from scripts.pretrain.paint import paint
from scripts.pretrain.scene import Placed, Scene, Shares, close_ups, draw, side_by_side
from scripts.pretrain.words import gather, ranked

Icons = dict[tuple[str, str], Tensor]


def fetch(packages: dict[str, str], folder: Path) -> None:
    """Each npm package (name -> version) unpacked into folder/LAST_PART_OF_NAME; those already there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, version in packages.items():
        target = folder / name.rsplit("/", 1)[-1]
        if target.exists():
            continue
        command = ["npm", "pack", "--silent", f"{name}@{version}"]
        archive = subprocess.run(
            command, cwd=folder, check=True, capture_output=True, text=True
        ).stdout.split()[-1]
        with tarfile.open(folder / archive) as tar:
            tar.extractall(folder / f"{target.name}.part", filter="data")
        (folder / f"{target.name}.part" / "package").rename(target)
        (folder / f"{target.name}.part").rmdir()


def render(body: str, width: int, height: int, size: int) -> Tensor:
    """An iconify body as (4, size, size) uint8, colour premultiplied by opacity."""
    from resvg_py import svg_to_bytes

    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{body}</svg>'
    png = bytes(svg_to_bytes(svg_string=svg, width=size, height=size))
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"), dtype=np.float32)
    pixels[..., :3] *= pixels[..., 3:] / 255
    return torch.from_numpy(pixels.round().astype(np.uint8)).permute(2, 0, 1).contiguous()


def render_all(wanted: list[Thing], packages: Path, size: int) -> Icons:
    """Every drawing of every object: (style, name) -> (4, size, size) uint8."""
    icons: Icons = {}
    for style, package in (STYLES | HELD_OUT_STYLE).items():
        collection = read_icons(packages / package)
        for thing in wanted:
            if style in thing.icons:
                icon = collection["icons"][thing.icons[style]]
                sides = [icon.get(k, collection.get(k, 16)) for k in ("width", "height")]
                icons[style, thing.name] = render(icon["body"], sides[0], sides[1], size)
    return icons


def drawings(chosen: Split, icons: Icons) -> list[tuple[str, str, str]]:
    """(style, name, use) of every drawing: what may be learnt from and what is held out as what."""
    pairs, held, learnt = set(chosen.pairs), set(chosen.objects), set(chosen.train)

    def use(style: str, name: str) -> str:
        if style in HELD_OUT_STYLE:
            return "style"
        if name in held:
            return "object"
        return "pair" if (name, style) in pairs else "train" if name in learnt else "extra"

    return [(style, name, use(style, name)) for style, name in icons]


def scenes(chosen: Split, icons: Icons, config: dict[str, Any]) -> list[tuple[Scene, str]]:
    """(scene, use): a few random ones of every drawing; close-ups and pairs of what is learnt."""
    order, shares = random.Random(config["seed"]), Shares(**config["shares"])
    count = {"train": config["per_drawing"], "extra": config["per_extra"]}
    all_drawings = drawings(chosen, icons)
    learnt = {style: [n for s, n, use in all_drawings if (s, use) == (style, "train")] for style in STYLES}
    found = []
    for style, name, use in all_drawings:
        others = [n for n in learnt[style] if n != name] if use == "train" else []
        own = [
            draw(style, name, others, shares, order) for _ in range(count.get(use, config["per_held_out"]))
        ]
        if use == "train":
            own += close_ups(style, name, **config["close_ups"], order=order)
        found += [(scene, use) for scene in own]
    for _ in range(config["side_by_side"]):
        style = order.choice(list(STYLES))
        found.append((side_by_side(learnt[style], style, order), "train"))
    order.shuffle(found)
    return found


@dataclass(frozen=True)
class Data:
    """The data set as later stages see it."""

    images: Tensor  # (n, 3, 128, 128) uint8: the file itself on a CPU, all of it on the card elsewhere
    scenes: list[Scene]
    uses: list[str]
    words: dict[str, dict[str, float]]  # other words for an object, with weights
    split: Split

    def indices(self, *uses: str) -> list[int]:
        """Which images have one of these uses."""
        return [i for i, use in enumerate(self.uses) if use in uses]


def load(device: str = "cpu", folder: Path = WORK) -> Data:
    """What `main` wrote, with the images on the device."""
    lines = [json.loads(line) for line in (folder / "scenes.jsonl").read_text().splitlines()]
    uses = [line.pop("use") for line in lines]
    rows = [Scene(**line | {"objects": tuple(Placed(**o) for o in line["objects"])}) for line in lines]
    chosen, words = read_split(folder / "split.json")
    images = np.load(folder / "scenes.npy", mmap_mode="c" if device == "cpu" else None)
    return Data(torch.from_numpy(images).to(device), rows, uses, words, chosen)


def read_split(path: Path) -> tuple[Split, dict[str, dict[str, float]]]:
    """The split, and other words for its objects."""
    stored = json.loads(path.read_text())
    pairs = tuple((name, style) for name, style in stored["pairs"])
    return Split(tuple(stored["train"]), tuple(stored["objects"]), pairs), stored["words"]


def paint_all(rows: list[tuple[Scene, str]], icons: Icons, size: int, folder: Path) -> None:
    """scenes.npy and scenes.jsonl, painted by as many processes as there are cores for this one."""
    cores = len(os.sched_getaffinity(0))

    def fill(path: Path) -> None:
        open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(rows), 3, size, size)).flush()
        start = path.stat().st_size - len(rows) * 3 * size * size

        def part(number: int) -> None:
            first, last = (len(rows) * i // cores for i in (number, number + 1))
            with path.open("r+b") as file:  # written, not mapped: mapped files are slow under some kernels
                file.seek(start + first * 3 * size * size)
                for scene, _ in rows[first:last]:
                    file.write(paint(scene, icons, size).numpy().tobytes())

        # Forked: the icons are shared as they are, and what is painted goes to the file, not through a pipe.
        others = [
            multiprocessing.get_context("fork").Process(target=part, args=(i,)) for i in range(1, cores)
        ]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # of each process, or they would get in each other's way
        for process in others:
            process.start()
        part(0)
        torch.set_num_threads(threads)
        for process in others:
            process.join()
            if process.exitcode:
                raise SystemExit("painting failed in one of its processes")

    write_atomically(folder / "scenes.npy", fill)
    text = "".join(json.dumps(asdict(scene) | {"use": use}) + "\n" for scene, use in rows)
    write_text(folder / "scenes.jsonl", text)
    print(f"{len(rows)} scenes", flush=True)


def main() -> None:
    """Run the stage. What is held out stays what it was: the objects that the shipped model's list names."""
    config = read_config(arguments("data", __doc__).config)
    packages = WORK / "packages"
    fetch(config["packages"], packages)
    fit = things(packages, config)
    held = tuple(json.loads((ASSETS / "emoji" / "held_out.json").read_text())["objects"])
    chosen = split(ranked(fit, packages, config["called"]), config, held)
    named = [t for t in fit if t.name in {*chosen.train, *held}]
    print(f"{len(fit)} objects fit; {len(chosen.train)} to learn, {len(named) - len(chosen.train)} held out")
    codes = {t.code for t in named}
    extra = [
        t for t, group in everything(packages, {}) if t.code not in codes and group in config["extra_groups"]
    ]
    icons = render_all([*named, *extra], packages, config["icon_size"])
    write_atomically(WORK / "icons.pt", lambda p: torch.save(icons, p))
    write_json(WORK / "split.json", asdict(chosen) | {"words": gather(named, packages, config)})
    paint_all(scenes(chosen, icons, config), icons, config["size"], WORK)


if __name__ == "__main__":
    main()
