"""The demo: generate, train and compare with one model; a page whose sections show what to look for."""

import shlex
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab.comparing.compare import compare
from lab.demo.page import Figure, Section, write_demo_page
from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.files import writing
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.source import ASSETS
from lab.runs.png import record_beside
from lab.runs.run import RunFolder
from lab.sample.generate import generate
from lab.score.clip import image_features, open_clip
from lab.text import counted
from lab.training.config import TrainConfig
from lab.training.data.captions import fill_template
from lab.training.prepare import prepare
from lab.training.train import learn

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


THING = "candle"
NAME = "my-candle"
SEED = "1"
RECIPE = {"vectors": 4, "evaluate_every": 5, "stop_window": 4, "preview_every": 15}
"""As configs/train/emoji-object.yaml, which is not installed."""


def learning(bundle: Bundle, out: Path, listener: Listener) -> Section:
    """Trains on five pictures of a thing that the model has never seen, and draws the same five anew."""
    shown, apart = (
        _drawings(ASSETS / folder / THING, out / folder) for folder in ("samples", "samples_test")
    )
    before, after = _learn(bundle, fresh(out / "demo-training"), listener)
    prompts = [figure.record["prompt"] for figure in shown]
    rows = {
        "learned from": shown,
        "before": make(bundle, out / "untrained", listener, prompt=prompts, seeds=SEED, embeddings=[before]),
        "after": make(bundle, out / "learned", listener, prompt=prompts, seeds=SEED, embeddings=[after]),
        "kept apart": apart,
    }
    text = (
        f"An embedding of {counted(after.count, 'vector')} learned from the five pictures of the first row; nothing "
        f"else of the model changed. Each column has one prompt; before, <{NAME}> stands for its initial vectors. The "
        "last row shows other placements of the same drawing, which nothing has learned from. "
        f"{_judged(bundle, rows, out)}"
    )
    asked = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in RECIPE.items())
    command = (
        f"lab train --images lab/assets/samples/{THING} --name {NAME} {asked} --out outputs/{NAME}\n"
        f"lab generate --prompt {shlex.quote(prompts[-1])} --seeds {SEED} "
        f"--embedding outputs/{NAME}/{NAME}.safetensors"
    )
    link = "demo-training/index.html", "How the training went"
    return Section("A thing learned from five pictures", text, command, list(rows.items()), link)


def _learn(bundle: Bundle, folder: Path, listener: Listener) -> tuple[Embedding, Embedding]:
    """The embedding at its first vectors and as it was learned."""
    images = ASSETS / "samples" / THING
    config = TrainConfig(images=images, name=NAME, out=folder, **RECIPE | {"preview_every": 0})
    run = prepare(bundle, config, listener=listener)
    after = learn(run, listener)
    assert isinstance(after, Embedding)
    return run.learned.beginnings[NAME].embedding(), after


def _drawings(source: Path, folder: Path) -> list[Figure]:
    """Copies of a folder's pictures beside the page."""
    paths = sorted(source.glob("*.png"))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            shutil.copyfile(path, folder / path.name)
    return [Figure(f"{folder.name}/{path.name}", _caption(path), _record(path)) for path in paths]


def _record(path: Path) -> dict[str, str]:
    return {"prompt": _caption(path), "drawn by": "an icon set; see lab/assets/samples/ATTRIBUTION.md"}


def _caption(path: Path) -> str:
    """The first caption beside a picture."""
    return fill_template(path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[0], "", [NAME])


def _judged(bundle: Bundle, rows: dict[str, list[Figure]], out: Path) -> str:
    """How near each row is to the pictures that were kept apart, in a sentence."""
    clip = open_clip(bundle, None)
    if clip is None:
        raise InputError(f"{bundle.root}: holds no CLIP to judge the pictures with; install the lab again")
    features = {
        label: image_features(clip, [out / figure.image for figure in figures])
        for label, figures in rows.items()
    }
    apart = features.pop("kept apart")
    means = {label: float((of_row @ apart.T).mean()) for label, of_row in features.items()}
    return (
        "Mean CLIP similarity to that last row: "
        f"{means['before']:.2f} before, {means['after']:.2f} after; {means['learned from']:.2f} for the pictures it "
        "learned from, the ceiling."
    )


PROMPTS = [
    "a noto emoji of a red apple",
    "a fluent emoji of a rocket",
    "a twemoji emoji of a cat",
    "a noto emoji of a crown on a blue background",
]
METRICS = ["clip_text", "degraded", "sharpness"]


def comparison(bundle: Bundle, out: Path, listener: Listener) -> Section:
    """Asks what the negative prompt changes, over pairs of images with the same noise."""
    report = compare(
        bundle,
        prompts=PROMPTS,
        seeds="1-4",
        axes={"negative_prompt": ["", NEGATIVE]},
        metrics=METRICS,
        out=fresh(out / "demo-comparison"),
        listener=listener,
    )
    figures = [_figure(path) for path in RunFolder(report.folder / "cells").finished().values()]
    rows = {
        label: [figure for figure in figures if figure.record["negative_prompt"] == negative][:5]
        for label, negative in (("without", ""), ("with", NEGATIVE))
    }
    link = "demo-comparison/report.html", "The report: intervals, every pair side by side, what made it"
    text = f"What does the negative prompt “{NEGATIVE}” change? " + " ".join(report.answers)
    command = f"lab compare --config {shlex.quote(str(report.folder / 'config.yaml'))} --out outputs/compared"
    return Section("Compared with certainty", text, command, list(rows.items()), link)


def _figure(path: Path) -> Figure:
    record = record_beside(path)
    return Figure(f"demo-comparison/cells/{path.name}", f"{record['prompt']}, seed {record['seed']}", record)


SECTIONS = {
    "Things and styles": styles,
    "Backgrounds": backgrounds,
    "Negative prompt": negatives,
    "Guidance scale": scales,
    "Training": learning,
    "Comparison": comparison,
}
"""What makes each section of the page, by what the terminal says meanwhile."""


def write_demo(
    bundle: Bundle, out: Path, listener: Listener = Listener(), began: float | None = None
) -> tuple[Path, float]:
    """Makes all pictures of the demo in a folder, and its index.html.

    Args:
        bundle: The bundled model, whose prompts and pictures the demo has.
        began: `time.perf_counter()` when the demo was started, if loading shall count.

    Returns:
        The page, and the seconds that it took.

    Raises:
        InputError: a folder that cannot be written.
    """
    began = time.perf_counter() if began is None else began
    sections = []
    for name, make_section in SECTIONS.items():
        listener.note(name)
        sections.append(make_section(bundle, out, listener))
    seconds = time.perf_counter() - began
    intro = (
        f"Everything here took {seconds:.0f} seconds on {bundle.device.type}, loading and training included. "
        "A CLIP text encoder, a U-Net and a VAE that came with the package made the pictures from the prompts; "
        "nothing was downloaded."
    )
    page = out / "index.html"
    write_demo_page(page, "What the lab does", intro, sections)
    return page, seconds
