"""Print how good the exported model is; every generated image comes from StableDiffusionPipeline as it stands.

Figures: autoencoder PSNR, CLIP retrieval, and for generated images the object, style and background that the
judge sees, beside the same for real renderings of the same prompts; then what the negative prompt does.
Writes figures.json, seen.png (samples.png of the model card), pairs.png, negative.png and failures.png under
outputs/pretrain/evaluate/.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from scripts.pretrain.caption import with_article
from scripts.pretrain.catalogue import STYLES
from scripts.pretrain.clip import retrieval, tokens
from scripts.pretrain.common import CONFIGS, WORK, arguments, read_config, write_json
from scripts.pretrain.data import Data, Icons, load
from scripts.pretrain.export import FOLDER as EXPORT
from scripts.pretrain.judge import FOLDER as JUDGE
from scripts.pretrain.judge import Judge
from scripts.pretrain.latents import learnt
from scripts.pretrain.paint import paint
from scripts.pretrain.quality import quality_network
from scripts.pretrain.scene import COLOURS, LARGE, Placed, Scene
from scripts.pretrain.vae import held_out_psnr, write_grid
from scripts.pretrain.vision import FOLDER as VISION
from scripts.pretrain.vision import embed_images, embed_text

FOLDER = WORK / "evaluate"


@dataclass(frozen=True)
class Case:
    """One image to ask for."""

    name: str
    style: str
    background: str
    seed: int

    @property
    def prompt(self) -> str:
        """The request in words."""
        return f"a {self.style} emoji of {with_article(self.name)} on a {self.background} background"

    def rendering(self, icons: Icons) -> Tensor:
        """The real thing, (3, 128, 128) in [-1, 1]."""
        scene = Scene(self.style, (Placed(self.name, 0.5, 0.5, LARGE),), self.background, "", "", False, 0)
        return paint(scene, icons, 128).float() / 127.5 - 1


def cases(data: Data, names: list[str], objects: int, seeds: int, order: random.Random) -> list[Case]:
    """`objects` of the objects learnt, each `seeds` times, in styles that it was learnt in; half of them on white."""
    held, found = set(data.split.pairs), []
    colours = [c for c in COLOURS if c != "white"]
    for name in order.sample(names, objects):
        styles = [s for s in STYLES if (name, s) not in held]
        for seed in range(seeds):
            background = "white" if order.random() < 0.5 else order.choice(colours)
            found.append(Case(name, order.choice(styles), background, 1000 + seed))
    return found


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


@torch.no_grad()
def judged(judge: Judge, data: Data, wanted: list[Case], images: Tensor) -> dict[str, Tensor]:
    """Which images' object (among the objects asked for), style and background are recognised, (n,) bool each."""
    names, styles, colours = list(data.split.train), list(STYLES), list(COLOURS)
    among = sorted({names.index(c.name) for c in wanted})
    logits = [
        torch.cat(part) for part in zip(*(judge(F.avg_pool2d(b, 2)) for b in images.split(64)), strict=True)
    ]
    truth = torch.tensor(
        [
            (among.index(names.index(c.name)), styles.index(c.style), colours.index(c.background))
            for c in wanted
        ]
    ).T
    answers = (logits[0][:, among], logits[1], logits[2])
    right = [a.argmax(1) == t for a, t in zip(answers, truth, strict=True)]
    return dict(zip(("object", "style", "background"), right, strict=True))


def shares(right: dict[str, Tensor]) -> dict[str, float]:
    """How many of the images are right, in [0, 1]."""
    return {name: found.float().mean().item() for name, found in right.items()}


@torch.no_grad()
def clip_top1(clip: CLIPModel, tokenizer: CLIPTokenizer, wanted: list[Case], images: Tensor) -> float:
    """Share of images to whose prompt the shipped CLIP finds them nearest, among the prompts with other objects."""
    names = sorted({c.name for c in wanted})
    right = 0
    settings = {(c.style, c.background) for c in wanted}
    for style, background in settings:
        texts = [Case(name, style, background, 0).prompt for name in names]
        words = embed_text(clip, tokens(tokenizer, texts, None))
        rows = [i for i, c in enumerate(wanted) if (c.style, c.background) == (style, background)]
        best = (embed_images(clip, F.avg_pool2d(images[rows], 2)) @ words.T).argmax(1).tolist()
        right += sum(names[b] == wanted[i].name for i, b in zip(rows, best, strict=True))
    return right / len(wanted)


@torch.no_grad()
def degraded(network: torch.nn.Module, images: Tensor) -> float:
    """Share of images that are more likely degraded than clean."""
    probability = torch.cat([network(b).softmax(1)[:, 0] for b in images.split(64)])
    return (probability < 0.5).float().mean().item()


def write_small(rows: Tensor, path: Path) -> None:
    """(rows, columns, 3, h, w) in [-1, 1] as one PNG at half size, in 160 colours: it ships."""
    write_grid(torch.stack([F.avg_pool2d(row, 2) for row in rows]), path)
    Image.open(path).quantize(160, kmeans=3).save(path, optimize=True)


def grid(images: Tensor, path: Path, columns: int = 16) -> None:
    """The first images as one PNG."""
    rows = min(len(images) // columns, 5)
    write_small(images[: rows * columns].unflatten(0, (rows, columns)), path)


def failures(images: Tensor, real: Tensor, wrong: Tensor, columns: int = 12) -> None:
    """A row of images whose object is not recognised, and below it what they should have shown."""
    which = wrong.nonzero()[:, 0]
    which = which[:: max(1, len(which) // columns)][:columns]
    if len(which):
        write_small(torch.stack([images[which], real[which]]), FOLDER / "failures.png")


def main() -> None:
    """Run the stage."""
    args = arguments("evaluate", __doc__)
    config, data = read_config(args.config), load()
    order, settings = random.Random(config["seed"]), read_config(EXPORT / "generation_config.json")
    icons: Icons = torch.load(WORK / "icons.pt", weights_only=True)
    clip = CLIPModel.from_pretrained(VISION / "average").eval()
    tokenizer = CLIPTokenizer.from_pretrained(EXPORT / "tokenizer")
    judge = Judge(len(data.split.train)).eval()
    judge.load_state_dict(torch.load(JUDGE / "average.pt", weights_only=True))
    quality = quality_network(read_config(EXPORT / "quality" / "config.json")["widths"])
    quality.load_state_dict(load_file(EXPORT / "quality" / "model.safetensors"))
    pipeline = StableDiffusionPipeline.from_pretrained(EXPORT, dtype=torch.float32).to(args.device)
    pipeline.unet.to(memory_format=torch.channels_last)  # the same images, sooner on a CPU
    pipeline.vae.to(memory_format=torch.channels_last)
    pipeline.set_progress_bar_config(disable=True)

    names = sorted(learnt(read_config(CONFIGS / "latents.yaml"), data))
    seen = cases(data, names, config["objects"], config["seeds"], order)
    white = ["white" if i % 2 else order.choice(list(COLOURS)) for i in range(len(data.split.pairs))]
    pairs = [Case(n, s, b, 1) for (n, s), b in zip(data.split.pairs, white, strict=True)]
    FOLDER.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"settings": settings}
    vae = AutoencoderKL.from_pretrained(EXPORT / "vae").float()
    figures["psnr"] = held_out_psnr(vae, data, "cpu")[0]
    figures["retrieval"] = retrieval(
        lambda x: embed_images(clip, x), lambda ids: embed_text(clip, ids), tokenizer, data, "cpu"
    )
    for title, wanted in (("seen", seen), ("pairs", pairs)):
        images = generate(pipeline, wanted, "", settings)
        real = torch.stack([c.rendering(icons) for c in wanted])
        for kind, which in (("generated", images), ("rendered", real)):
            right = judged(judge, data, wanted, which)
            figures[f"{title}_{kind}"] = shares(right) | {
                "clip": clip_top1(clip, tokenizer, wanted, which),
                "degraded": degraded(quality, which),
            }
            if title == "seen" and kind == "generated":
                failures(images, real, ~right["object"])
        print(title, figures[f"{title}_generated"], figures[f"{title}_rendered"], flush=True)
        grid(images, FOLDER / f"{title}.png")
    some = seen[:: config["negative_every"]]
    images = generate(pipeline, some, config["negative"], settings)
    grid(images, FOLDER / "negative.png")
    figures["negative"] = shares(judged(judge, data, some, images)) | {"degraded": degraded(quality, images)}
    write_json(FOLDER / "figures.json", figures)
    for name, value in figures.items():
        print(name, value)


if __name__ == "__main__":
    main()
