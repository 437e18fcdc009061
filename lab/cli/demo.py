"""`lab demo`: the lab's main job on the bundled model, as a page of pictures."""

import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.cli.progress import console, image_progress

if TYPE_CHECKING:
    from lab.models.bundle import Bundle
    from lab.runs.gallery import Figure, Section

THINGS = ("red apple", "cat face", "rocket", "crown", "frog", "tulip")
STYLES = ("noto", "fluent", "twemoji")
COLOURS = ("white", "blue", "yellow", "green", "pink", "black")
NEGATIVE = "blurry, pixelated, noisy, washed out, low quality"
SCALES = (1.0, 2.0, 4.0, 7.0, 10.0)
SEEDS = "1-6"


def demo(*, out: Path = Path("outputs", "demo"), device: str = "auto") -> None:
    """Make pictures with the bundled model and write a page that shows them.

    Parameters
    ----------
    out: Folder for the page and its pictures.
    device: `auto`, `cpu`, `cuda` or `mps`.
    """
    began = time.perf_counter()
    with console.status("Loading the bundled model"):
        from lab.models.load import load
        from lab.runs.gallery import write_gallery

        bundle = load("emoji", device=device)
    sections = [make(bundle, out) for make in (_styles, _backgrounds, _negatives, _scales)]
    seconds = time.perf_counter() - began
    count = sum(len(figures) for section in sections for _, figures in section.rows)
    intro = (
        f"{count} images of {bundle.defaults.width} x {bundle.defaults.height} pixels, made on "
        f"{bundle.device.type} in {seconds:.0f} seconds, loading included. A CLIP text encoder, a U-Net and a VAE "
        "that came with the package made them from the prompts; nothing was downloaded."
    )
    page = out / "index.html"
    write_gallery(page, "What the lab does", intro, sections)
    print(f"{count} images in {seconds:.0f} s. Open {page.resolve().as_uri()}")


def _styles(bundle: "Bundle", out: Path) -> "Section":
    prompts = [[f"{style} emoji of a {thing}" for style in STYLES] for thing in THINGS]
    settings: dict[str, Any] = {"prompt": [prompt for row in prompts for prompt in row], "seeds": "7"}
    figures = _make(bundle, out / "styles", **settings)
    rows = [(thing, [_captioned(figures.pop(0), f"{style} style") for style in STYLES]) for thing in THINGS]
    return _section(
        "Things and styles",
        "One noise for all of them: what changes is what the words change.",
        settings,
        rows,
    )


def _backgrounds(bundle: "Bundle", out: Path) -> "Section":
    prompts = [f"noto emoji of a {THINGS[0]} on a {colour} background" for colour in COLOURS]
    settings: dict[str, Any] = {"prompt": prompts, "seeds": "7"}
    figures = _make(bundle, out / "backgrounds", **settings)
    row = [_captioned(figure, colour) for figure, colour in zip(figures, COLOURS, strict=True)]
    return _section("Backgrounds", "The same thing before six colours.", settings, [(THINGS[0], row)])


def _negatives(bundle: "Bundle", out: Path) -> "Section":
    settings: dict[str, Any] = {"prompt": [f"fluent emoji of a {THINGS[2]}"], "seeds": SEEDS}
    without = _make(bundle, out / "without-negative", **settings)
    settings["negative_prompt"] = NEGATIVE
    with_negative = _make(bundle, out / "with-negative", **settings)
    return _section(
        "With and without a negative prompt",
        f"Each column is one seed. The model learned from images of which a part is degraded; the lower row has "
        f"the negative prompt “{NEGATIVE}”.",
        settings,
        [("without", without), ("with", with_negative)],
    )


def _scales(bundle: "Bundle", out: Path) -> "Section":
    settings: dict[str, Any] = {"prompt": [f"twemoji emoji of a {THINGS[1]}"], "seeds": "3"}
    row = []
    for scale in SCALES:
        settings["guidance"] = scale
        row += [
            _captioned(figure, f"scale {scale:g}")
            for figure in _make(bundle, out / f"scale-{scale:g}", **settings)
        ]
    return _section(
        "Guidance scale",
        "From no guidance to a lot of it, with the same noise.",
        settings,
        [("guidance", row)],
    )


def _make(bundle: "Bundle", folder: Path, **settings: Any) -> list["Figure"]:
    """Generates the images of one section into its folder."""
    from lab.runs.folder import RunFolder
    from lab.runs.gallery import Figure
    from lab.sample.generate import generate

    with image_progress(folder.name) as bar:
        results = generate(bundle, on_progress=bar.progress, on_note=bar.note, **settings)
    run = RunFolder(folder)
    paths = [run.save(result.index, result.image, result.record) for result in results]
    return [
        Figure(f"{folder.name}/{path.name}", f"seed {result.record['seed']}", result.record)
        for path, result in zip(paths, results, strict=True)
    ]


def _captioned(figure: "Figure", caption: str) -> "Figure":
    return replace(figure, caption=caption)


def _section(title: str, text: str, settings: dict[str, Any], rows: list[Any]) -> "Section":
    """A section with the command line that makes its last row."""
    from lab.runs.gallery import Section

    words = ["lab", "generate"]
    for name, value in settings.items():
        for each in value if isinstance(value, list) else [value]:
            words += [f"--{name.replace('_', '-')}", str(each)]
    return Section(title, text, shlex.join(words), rows)
