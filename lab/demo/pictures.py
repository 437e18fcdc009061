"""The demo's sections of generated pictures: each makes its images and says what to look for."""

import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab.demo.page import Figure, Section
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.runs.run import RunFolder
from lab.sample.generate import generate

THINGS = ("a red apple", "a cat", "a rocket", "a crown", "a carrot", "an avocado")
STYLES = ("noto", "fluent", "twemoji")
COLOURS = ("white", "blue", "yellow", "green", "pink", "black")
NEGATIVE = "blurry, pixelated, noisy, washed out, low quality"
SCALES = (1.0, 2.0, 4.0, 7.0, 10.0)
SEEDS = "1-6"


def styles(bundle: Bundle, out: Path, listener: Listener) -> Section:
    """Six things in three styles."""
    prompts = [[f"{style} emoji of {thing}" for style in STYLES] for thing in THINGS]
    settings: dict[str, Any] = {"prompt": [prompt for row in prompts for prompt in row], "seeds": "7"}
    figures = make(bundle, out / "styles", listener, **settings)
    rows = [(thing, [captioned(figures.pop(0), f"{style} style") for style in STYLES]) for thing in THINGS]
    return section(
        "Things and styles",
        "One noise for all of them: what changes is what the words change.",
        settings,
        rows,
    )


def backgrounds(bundle: Bundle, out: Path, listener: Listener) -> Section:
    """One thing before six colours."""
    prompts = [f"noto emoji of {THINGS[0]} on a {colour} background" for colour in COLOURS]
    settings: dict[str, Any] = {"prompt": prompts, "seeds": "7"}
    figures = make(bundle, out / "backgrounds", listener, **settings)
    row = [captioned(figure, colour) for figure, colour in zip(figures, COLOURS, strict=True)]
    return section("Backgrounds", "The same thing before six colours.", settings, [(THINGS[0], row)])


def negatives(bundle: Bundle, out: Path, listener: Listener) -> Section:
    """The same seeds with and without a negative prompt."""
    settings: dict[str, Any] = {"prompt": [f"fluent emoji of {THINGS[2]}"], "seeds": SEEDS}
    without = make(bundle, out / "without-negative", listener, **settings)
    settings["negative_prompt"] = NEGATIVE
    with_negative = make(bundle, out / "with-negative", listener, **settings)
    return section(
        "With and without a negative prompt",
        f"Each column is one seed. The model learned from images of which a part is degraded; the lower row has "
        f"the negative prompt “{NEGATIVE}”.",
        settings,
        [("without", without), ("with", with_negative)],
    )


def scales(bundle: Bundle, out: Path, listener: Listener) -> Section:
    """A sweep over the guidance scale."""
    settings: dict[str, Any] = {"prompt": [f"twemoji emoji of {THINGS[1]}"], "seeds": "3"}
    row = []
    for scale in SCALES:
        settings["guidance"] = scale
        row += [
            captioned(figure, f"scale {scale:g}")
            for figure in make(bundle, out / f"scale-{scale:g}", listener, **settings)
        ]
    return section(
        "Guidance scale",
        "From no guidance to a lot of it, with the same noise.",
        settings,
        [("guidance", row)],
    )


def make(bundle: Bundle, folder: Path, listener: Listener, **settings: Any) -> list[Figure]:
    """Generates images into a folder beside the page; the figures come prompt-major, then by seeds."""
    results = generate(bundle, out=fresh(folder), listener=listener, **settings)
    return [
        Figure(f"{folder.name}/{result.path.name}", f"seed {result.record['seed']}", result.record)
        for result in results
        if result.path is not None
    ]


def fresh(folder: Path) -> Path:
    """The folder, without the run that an earlier demo left in it."""
    run = RunFolder(folder)
    if run.exists or run.finished():
        shutil.rmtree(folder)
    return folder


def captioned(figure: Figure, caption: str) -> Figure:
    """A figure with another caption."""
    return replace(figure, caption=caption)


def section(title: str, text: str, settings: dict[str, Any], rows: list[Any]) -> Section:
    """A section with the command line that makes its last row."""
    words = ["lab", "generate"]
    for name, value in settings.items():
        for one in value if isinstance(value, list) else [value]:
            words += [f"--{name.replace('_', '-')}", str(one)]
    return Section(title, text, shlex.join(words), rows)
