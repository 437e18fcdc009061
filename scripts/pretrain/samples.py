"""Paint the sample folders that ship: drawings that no training saw, to learn embeddings from and to test them on.

lab/assets/samples/NAME/ holds images to learn from, lab/assets/samples_test/NAME/ others of the same drawing (or,
for the held-out style, of other objects in that style). What is shown in that style are objects that the model draws
in others: it can be told which, so that the style alone is left to learn. A folder that is there stays as it is. A text
file beside each image holds its captions, which name
the background and leave a place for the embedding: what a caption says, an embedding need not learn.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from scripts.pretrain.caption import with_article
from scripts.pretrain.catalogue import STYLES
from scripts.pretrain.common import ASSETS, WORK, arguments, read_config, write_atomically, write_text
from scripts.pretrain.data import Icons, load
from scripts.pretrain.paint import paint
from scripts.pretrain.scene import COLOURS, Placed, Scene

SOURCES = {
    "noto": "Noto Emoji, Google, Apache-2.0, https://github.com/googlefonts/noto-emoji",
    "fluent": "Fluent Emoji (flat), Microsoft, MIT, https://github.com/microsoft/fluentui-emoji",
    "twemoji": "Twemoji, Twitter and contributors, CC BY 4.0, https://github.com/jdecked/twemoji",
    "emojione": "Emoji One (Colored), EmojiOne, CC BY 4.0, https://github.com/EmojiTwo/emojitwo",
}
PLACES = ((0.5, 0.5), (0.5, 0.5), (0.36, 0.5), (0.64, 0.5), (0.5, 0.4), (0.42, 0.6), (0.6, 0.4))
SIDES = (112 / 128, 112 / 128, 88 / 128, 72 / 128)


def views(style: str, names: list[str], order: random.Random) -> list[Scene]:
    """One clean scene for each name, every one on a background of its own; the first is large and centred on white."""
    backgrounds = ["white", *order.sample([c for c in COLOURS if c != "white"], len(names) - 1)]
    found = []
    for name, background in zip(names, backgrounds, strict=True):
        (x, y), side = order.choice(PLACES), order.choice(SIDES)
        if background == "white":
            x, y, side = 0.5, 0.5, SIDES[0]
        x, y = (min(max(v, side / 2), 1 - side / 2) for v in (x, y))  # the whole drawing stays in the image
        found.append(Scene(style, (Placed(name, x, y, side),), background, "", "", False, 0))
    return found


def captions(scene: Scene) -> list[str]:
    """What an image shows but for what is to be learned: the style of one in the held-out style, else the drawing."""
    if scene.style == "emojione":
        subject = with_article(scene.objects[0].name)
        heads = [f"a {{name}} emoji of {subject}", f"{subject} in {{name}} style"]
    else:
        heads = ["a {name}", "a picture of a {name}"]
    return [f"{head} on a {scene.background} background" for head in heads]


def write(pixels: Tensor, path: Path) -> None:
    """(3, h, w) uint8 as a small PNG."""
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    write_atomically(path, lambda p: image.save(p, format="PNG", optimize=True))


def main() -> None:
    """Run the stage."""
    config, data = read_config(arguments("samples", __doc__).config), load()
    order = random.Random(config["seed"])
    icons: Icons = torch.load(WORK / "icons.pt", weights_only=True)
    folders = {n: (list(STYLES)[i % len(STYLES)], [n] * 10) for i, n in enumerate(config["objects"])}
    drawn = [n for s, n in icons if s == "emojione" and n in data.split.train]
    folders["emojione style"] = ("emojione", random.Random(config["seed"]).sample(drawn, 10))
    lines = [
        "# Where the drawings come from",
        "",
        "Rendered and placed on coloured backgrounds; otherwise unchanged.",
        "",
    ]
    for title, (style, names) in folders.items():
        missing = set(names) - set(data.split.objects)
        if missing and style in STYLES:
            raise SystemExit(f"{', '.join(sorted(missing))}: not held out, so not fit for a sample")
        folder = title.replace(" ", "-")
        lines.append(f"- `{folder}/`: {SOURCES[style]}")
        if (ASSETS / "samples" / folder).is_dir():
            continue
        for i, scene in enumerate(views(style, names, order)):
            kind = "samples" if i < 5 else "samples_test"
            path = ASSETS / kind / folder / f"{i % 5 + 1}.png"
            write(paint(scene, icons, 128), path)
            said = "".join(f"{line}\n" for line in captions(scene))
            write_text(path.with_suffix(".txt"), said)
    lines += ["", "The licences: `lab/assets/emoji/ATTRIBUTION.md`."]
    text = "\n".join(lines) + "\n"
    for kind in ("samples", "samples_test"):
        write_text(ASSETS / kind / "ATTRIBUTION.md", text)


if __name__ == "__main__":
    main()
