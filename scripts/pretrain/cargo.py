"""What a machine without a network needs to train the model, and what it hands back: small files, and not many.

    python -m scripts.pretrain.cargo pack          # outputs/pretrain/ -> outputs/pretrain/cargo/, to take along
    python -m scripts.pretrain.cargo unpack BACK   # what came back -> outputs/pretrain/

Weights travel in fp16, without the optimiser's state: an average that is gone on from begins its run anew.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from scripts.pretrain.common import WORK, write_atomically
from scripts.pretrain.data import Icons, read_split

FOLDER = WORK / "cargo"
ICONS, SMALL, TENSORS = "icons.zip", "small.zip", "tensors"
PART, TOTAL = 15 << 20, 58 << 20  # bytes of a file, and of all weights
KINDS = {".json", ".txt", ".png", ".jsonl"}
TEXT, SIGHT = "clip/average/model.safetensors", "vision/average/model.safetensors"
VAE, DECODER, UNET = (
    f"{folder}/average/diffusion_pytorch_model.safetensors" for folder in ("vae", "decoder", "unet")
)
WEIGHTS = (
    TEXT,
    DECODER,
    VAE,
    UNET,
    SIGHT,
    "quality/model.safetensors",
    "judge_quality/model.safetensors",
    "judge/average.pt",
    "clip/sight.pt",
)
"""What the stages leave behind, relative to outputs/pretrain/, the most important first."""


def write_icons(icons: Icons, path: Path) -> None:
    """Every drawing as a WebP without loss, colour premultiplied as it is: a fortieth of the pixels' size."""

    def fill(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w") as archive:
            for (style, name), pixels in icons.items():
                buffer = io.BytesIO()
                image = Image.fromarray(pixels.permute(1, 2, 0).numpy(), "RGBA")
                image.save(buffer, "WEBP", lossless=True, exact=True, method=4)
                archive.writestr(f"{style}/{name}", buffer.getvalue())

    write_atomically(path, fill)


def read_icons(path: Path) -> Icons:
    """What `write_icons` wrote."""
    icons: Icons = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            style, name = entry.split("/", 1)
            image = np.asarray(Image.open(io.BytesIO(archive.read(entry))).convert("RGBA"))
            icons[style, name] = torch.from_numpy(image.copy()).permute(2, 0, 1).contiguous()
    return icons


def read_weights(work: Path, names: tuple[str, ...] = WEIGHTS) -> dict[str, Tensor]:
    """The weights under `work` in fp16, named FILE:TENSOR, file by file until `TOTAL` is reached.

    What two files share is left out of one: the decoder's stretch has the encoder, too, and the vision tower's file
    repeats the text tower.
    """
    found: dict[str, Tensor] = {}
    for name in names:
        path = work / name
        if not path.exists() or (name == VAE and (work / DECODER).exists()):
            continue
        state = (
            torch.load(path, weights_only=True, map_location="cpu")
            if path.suffix == ".pt"
            else load_file(path)
        )
        kept = {k: v for k, v in state.items() if name != SIGHT or not k.startswith("text_")}
        halves = {f"{name}:{k}": v.half() if v.is_floating_point() else v for k, v in kept.items()}
        if sum(v.nbytes for v in (*found.values(), *halves.values())) > TOTAL:
            print(f"{name} stays behind: too much in all", flush=True)
            continue
        found |= {k: v.contiguous() for k, v in halves.items()}
    return found


def write_weights(tensors: dict[str, Tensor], work: Path) -> None:
    """Every file of `tensors`, as `read_weights` names them, under `work`, in fp32 and complete."""
    files: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        file, key = name.split(":", 1)
        files.setdefault(file, {})[key] = value.float() if value.is_floating_point() else value
    if SIGHT in files:
        files[SIGHT] = files[TEXT] | files[SIGHT]
    if DECODER in files:
        files[VAE] = files[DECODER]
    for file, state in files.items():
        save = torch.save if file.endswith(".pt") else partial(save_file, metadata={"format": "pt"})
        write_atomically(work / file, partial(save, state))


def in_parts(tensors: dict[str, Tensor], limit: int = PART) -> list[dict[str, Tensor]]:
    """The tensors in as few parts of at most `limit` bytes as come out when the largest are placed first."""
    parts: list[tuple[int, dict[str, Tensor]]] = []
    for name, value in sorted(tensors.items(), key=lambda item: -item[1].nbytes):
        size = value.nbytes + len(name) + 100
        for i, (filled, part) in enumerate(parts):
            if filled + size <= limit:
                part[name] = value
                parts[i] = (filled + size, part)
                break
        else:
            parts.append((size, {name: value}))
    return [part for _, part in parts]


def pack(work: Path, out: Path, names: tuple[str, ...] = WEIGHTS) -> None:
    """Weights in parts and everything small (configurations, figures, pictures, the tokenizer) in one zip file."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob(f"{TENSORS}-*"):
        old.unlink()
    for number, part in enumerate(in_parts(read_weights(work, names))):
        write_atomically(out / f"{TENSORS}-{number}.safetensors", partial(save_file, part))

    def fill(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in small_files(work):
                archive.write(path, path.relative_to(work))

    write_atomically(out / SMALL, fill)


def small_files(work: Path) -> list[Path]:
    """What goes along besides weights: the split, the tokenizer, and each stage's configurations, figures, pictures."""
    stages = {Path(name).parts[0] for name in WEIGHTS} | {"tokenizer"}
    inside = [p for stage in stages for p in (work / stage).rglob("*") if p.is_file() and p.suffix in KINDS]
    return sorted([p for p in (work / "split.json", work / "scaling.json") if p.exists()] + inside)


def unpack(folder: Path, work: Path) -> None:
    """What `pack` wrote, under `work`."""
    with zipfile.ZipFile(folder / SMALL) as archive:
        archive.extractall(work)
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob(f"{TENSORS}-*.safetensors")):
        tensors |= load_file(path)
    write_weights(tensors, work)


def main() -> None:
    """Run the stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["pack", "unpack"])
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    args = parser.parse_args()
    if args.what == "unpack":
        return unpack(args.folder, WORK)
    icons: Icons = torch.load(WORK / "icons.pt", weights_only=True)
    going_on = (WORK / UNET).exists()  # it alone learns then, and needs no more than what it learns from
    if (
        going_on
    ):  # of the drawings besides, which show it more of the styles, half of the names fit into 64 MiB
        chosen, _ = read_split(WORK / "split.json")
        others = sorted({name for _, name in icons} - {*chosen.train, *chosen.objects})
        icons = {key: pixels for key, pixels in icons.items() if key[1] not in others[::2]}
    pack(WORK, args.folder, (TEXT, DECODER, VAE, UNET) if going_on else WEIGHTS)
    write_icons(icons, args.folder / ICONS)
    for path in sorted(args.folder.iterdir()):
        print(f"{path.stat().st_size / 2**20:6.2f} MiB  {path}")
    return None


if __name__ == "__main__":
    main()
