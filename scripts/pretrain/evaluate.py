"""Print how good a model is beside what it is to be; every image comes from StableDiffusionPipeline as it stands.

    python -m scripts.pretrain.evaluate                          # the export
    python -m scripts.pretrain.evaluate --model lab/assets/emoji # what ships

Writes NAME.json, NAME-seen.png, -pairs.png, -words.png, -negative.png and -failures.png under
outputs/pretrain/evaluate/, NAME being the folder's; the table shows all the models evaluated so far.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from scripts.pretrain.caption import with_article
from scripts.pretrain.catalogue import STYLES
from scripts.pretrain.clip import retrieval
from scripts.pretrain.common import CONFIGS, WORK, read_config, write_json
from scripts.pretrain.data import Data, Icons, load
from scripts.pretrain.export import FOLDER as EXPORT
from scripts.pretrain.judge import FOLDER as JUDGE
from scripts.pretrain.judge import Judge
from scripts.pretrain.measures import clip_top1, degraded, distance, judged, nearest_words
from scripts.pretrain.paint import paint
from scripts.pretrain.quality import quality_network
from scripts.pretrain.scene import COLOURS, LARGE, Placed, Scene
from scripts.pretrain.vae import figures as reconstruction
from scripts.pretrain.vae import softness, write_grid
from scripts.pretrain.vision import embed_images, embed_text

FOLDER = WORK / "evaluate"


@dataclass(frozen=True)
class Case:
    """One image to ask for; `said` is what the prompt calls the object, its name unless given."""

    name: str
    style: str
    background: str
    seed: int
    said: str = ""

    @property
    def prompt(self) -> str:
        """The request in words."""
        return f"a {self.style} emoji of {with_article(self.said or self.name)} on a {self.background} background"

    def rendering(self, icons: Icons) -> Tensor:
        """The real thing, (3, 128, 128) in [-1, 1]."""
        scene = Scene(self.style, (Placed(self.name, 0.5, 0.5, LARGE),), self.background, "", "", False, 0)
        return paint(scene, icons, 128).float() / 127.5 - 1


def some_background(order: random.Random) -> str:
    """White half of the time."""
    return "white" if order.random() < 0.5 else order.choice([c for c in COLOURS if c != "white"])


def cases(data: Data, order: random.Random) -> dict[str, list[Case]]:
    """Every object in a style that it was learnt in; every pair held out; and objects by another word of theirs."""
    held = set(data.split.pairs)
    seen = []
    for number, name in enumerate(data.split.train):
        style = order.choice([s for s in STYLES if (name, s) not in held])
        seen.append(Case(name, style, some_background(order), 1000 + number))
    pairs = [Case(name, style, some_background(order), 1) for name, style in data.split.pairs]
    known = [(c, max(data.words[c.name].items(), key=lambda w: w[1])) for c in seen if data.words[c.name]]
    clear = sorted(known, key=lambda k: -k[1][1])[:100]  # the words that say most about their object
    words = [Case(c.name, c.style, c.background, c.seed, word) for c, (word, _) in clear]
    return {"seen": seen, "pairs": pairs, "words": words}


@torch.no_grad()
def generate(
    pipeline: StableDiffusionPipeline, wanted: list[Case], negative: str, settings: dict[str, Any]
) -> Tensor:
    """(n, 3, 128, 128) in [-1, 1]."""
    found, device = [], pipeline.device
    for start in range(0, len(wanted), 25):
        part = wanted[start : start + 25]
        with torch.autocast(device.type, torch.bfloat16):
            images = pipeline(
                [c.prompt for c in part],
                negative_prompt=[negative] * len(part),
                num_inference_steps=settings["steps"],
                guidance_scale=settings["guidance"],
                guidance_rescale=settings["guidance_rescale"],
                generator=[torch.Generator().manual_seed(c.seed) for c in part],
                output_type="pt",
            ).images
        found.append(images.float().cpu() * 2 - 1)
        print(f"generated {start + len(part)} of {len(wanted)}", flush=True)
    return torch.cat(found)


def read_clip(folder: Path) -> CLIPModel:
    """The model's own CLIP: what completes the text encoder, and the text encoder."""
    clip = CLIPModel(CLIPConfig.from_pretrained(folder / "clip"))
    stored = load_file(folder / "clip" / "model.safetensors") | load_file(
        folder / "text_encoder" / "model.safetensors"
    )
    clip.load_state_dict({k: v.float() for k, v in stored.items()}, strict=False)  # but for index buffers
    return clip.eval()


def write_small(rows: Tensor, path: Path) -> None:
    """(rows, columns, 3, h, w) in [-1, 1] as one PNG at half size, in 160 colours: it ships."""
    write_grid(torch.stack([F.avg_pool2d(row, 2) for row in rows]), path)
    Image.open(path).quantize(160, kmeans=3).save(path, optimize=True)


def grid(images: Tensor, path: Path, columns: int = 16) -> None:
    """The first images as one PNG."""
    rows = min(len(images) // columns, 5)
    write_small(images[: rows * columns].unflatten(0, (rows, columns)), path)


def failures(images: Tensor, real: Tensor, wrong: Tensor, path: Path, columns: int = 12) -> None:
    """A row of images whose object is not recognised, and below it what they should have shown."""
    which = wrong.nonzero()[:, 0]
    which = which[:: max(1, len(which) // columns)][:columns]
    if len(which):
        write_small(torch.stack([images[which], real[which]]), path)


def table(found: dict[str, dict[str, Any]], targets: dict[str, str]) -> str:
    """Every figure that has a target, one model a column; figures are named PART.FIGURE."""

    def shown(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)

    lines = [["what", *found, "target"]]
    for name, target in targets.items():
        part, figure = name.split(".")
        lines.append(
            [name, *(shown(model.get(part, {}).get(figure)) for model in found.values()), str(target)]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)


@dataclass(frozen=True)
class Eyes:
    """What looks at the images: the judge, the shipped classifier of degraded ones, and the model's own CLIP."""

    judge: Judge
    quality: torch.nn.Module
    clip: CLIPModel
    tokenizer: CLIPTokenizer

    def look(
        self, data: Data, wanted: list[Case], images: Tensor, real: Tensor
    ) -> tuple[dict[str, float], Tensor]:
        """All figures of a set of images; and which of their objects are recognised."""
        right = judged(self.judge, list(data.split.train), wanted, images)
        figures = {name: found.float().mean().item() for name, found in right.items()}
        figures |= {
            "object by its CLIP": clip_top1(
                self.clip, self.tokenizer, list(data.split.train), wanted, images
            ),
            "degraded": degraded(self.quality, images),
            "softness": softness(images),
            "distance": distance(self.judge, images, real),
        }
        return figures, right["object among all"]


def read_eyes(folder: Path, objects: int) -> Eyes:
    """The judge of outputs/pretrain/, and what the model has itself."""
    judge = Judge(objects).eval()
    judge.load_state_dict(torch.load(JUDGE / "average.pt", weights_only=True))
    quality = quality_network(read_config(folder / "quality" / "config.json")["widths"])
    quality.load_state_dict(load_file(folder / "quality" / "model.safetensors"))
    return Eyes(judge, quality, read_clip(folder), CLIPTokenizer.from_pretrained(folder / "tokenizer"))


def main() -> None:
    """Evaluate one model and print all that were."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=EXPORT, help="a folder that diffusers loads")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    config, data, name = read_config(CONFIGS / "evaluate.yaml"), load(), args.model.name
    settings = read_config(args.model / "generation_config.json")
    eyes = read_eyes(args.model, len(data.split.train))
    icons: Icons = torch.load(WORK / "icons.pt", weights_only=True)
    pipeline = StableDiffusionPipeline.from_pretrained(args.model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    clip, tokenizer = eyes.clip, eyes.tokenizer
    see, read = (lambda x: embed_images(clip, x)), (lambda ids: embed_text(clip, ids))
    size = sum(f.stat().st_size for f in args.model.rglob("*") if f.is_file())
    figures: dict[str, Any] = {
        "autoencoder": reconstruction(pipeline.vae, data)[0],
        "text": {
            "retrieval": retrieval(see, read, tokenizer, data, "cpu"),
            "a small feline": " ".join(nearest_words(clip, tokenizer, "a small feline", 8)),
        },
        "files": {"megabytes": size / 1e6},
    }
    for part in (pipeline.to(args.device).unet, pipeline.vae):
        part.to(memory_format=torch.channels_last)  # the same images, sooner on a CPU
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = cases(data, random.Random(config["seed"]))
    for title, some in wanted.items():
        images, real = generate(pipeline, some, "", settings), torch.stack([c.rendering(icons) for c in some])
        figures[title], right = eyes.look(data, some, images, real)
        figures[f"{title} rendered"] = eyes.look(data, some, real, real)[0]
        grid(images, FOLDER / f"{name}-{title}.png")
        if title == "seen":
            failures(images, real, ~right, FOLDER / f"{name}-failures.png")
    some = wanted["seen"][:: config["negative_every"]]
    images = generate(pipeline, some, config["negative"], settings)
    grid(images, FOLDER / f"{name}-negative.png")
    figures["negative"] = eyes.look(data, some, images, torch.stack([c.rendering(icons) for c in some]))[0]
    write_json(FOLDER / f"{name}.json", figures)
    done = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
    print(table(done, config["targets"]))


if __name__ == "__main__":
    main()
