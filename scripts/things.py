"""The twelve things and the style that the bundled model has never seen: pictures to learn from, and others kept apart.

Beside each picture lies a file of captions, in which {name} is where the embedding goes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

LEARN_FROM, KEPT_APART = Path("lab/assets/samples"), Path("lab/assets/samples_test")
NEAR = 24
"""How near to that of its corner the colours of a picture's ground are, of 255."""


def all_things() -> list[str]:
    """The folders of things, in order; the style is none."""
    return sorted(path.name for path in LEARN_FROM.iterdir() if path.is_dir() and not is_style(path.name))


def is_style(name: str) -> bool:
    return name.endswith("style")


def background(caption: str) -> str:
    """The colour that a caption of a sample names."""
    return caption.rsplit(" background", 1)[0].rsplit(" ", 1)[-1]


def read_contexts(name: str, folder: Path = LEARN_FROM) -> list[str]:
    """The first caption beside each image to learn from."""
    files = sorted((folder / name).glob("*.txt"))
    return [file.read_text(encoding="utf-8").splitlines()[0] for file in files]


def pictures_of(name: str, folder: Path = LEARN_FROM) -> list[Path]:
    """The pictures of a thing, in the order of their captions."""
    return sorted((folder / name).glob("*.png"))


def fill_all(contexts: Sequence[str], name: str) -> list[str]:
    return [context.replace("{name}", name) for context in contexts]


def side_by_side(left: Path, right: Path) -> Image.Image:
    """A picture of two things, of two square ones of one each, half as large, on the plain ground of the first."""
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in (left, right)]
    ground, side = pictures[0][0, 0], len(pictures[0])
    scene = Image.new("RGB", (side, side), tuple(ground.tolist()))
    for place, pixels in enumerate(pictures):
        plain = (np.abs(pixels - pixels[0, 0].astype(int)) < NEAR).all(axis=-1, keepdims=True)
        half = Image.fromarray(np.where(plain, ground, pixels)).resize((side // 2, side // 2))
        scene.paste(half, (place * side // 2, side // 4))
    return scene


def write_scenes(names: Sequence[str], folder: Path, masks: bool) -> None:
    """Writes pictures of two things side by side, every other time the first of them on the right, with captions.

    Args:
        names: Of both; captions call them `<my-NAME>`.
        masks: Writes masks as well, which say whose each half of a picture is.
    """
    for number, shown in enumerate(zip(*(pictures_of(name) for name in names), strict=True)):
        step = -1 if number % 2 else 1
        order, paths = names[::step], shown[::step]
        scene = side_by_side(*paths)
        scene.save(folder / f"{number}.png")
        colour = background(read_contexts(order[0])[pictures_of(order[0]).index(paths[0])])
        caption = f"a <my-{order[0]}> next to a <my-{order[1]}> on a {colour} background"
        (folder / f"{number}.txt").write_text(caption, encoding="utf-8")
        for place, name in enumerate(order if masks else ()):
            mask = Image.new("L", scene.size)
            mask.paste(255, (place * scene.width // 2, 0, (place + 1) * scene.width // 2, scene.height))
            mask.save(folder / f"{number}.my-{name}.mask.png")
