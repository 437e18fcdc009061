"""What a training run shows of itself: previews made with the vectors as they are, loss curves, and a page of both."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lab.analysis.figures import as_svg, drawing, save_figure
from lab.embeddings.embedding import Embedding
from lab.embeddings.library import collect
from lab.images import to_tensor
from lab.listening import Listener
from lab.runs.pages import write_page
from lab.sample.config import parse_seeds
from lab.sample.generate import Result, generate
from lab.sample.record import save_result
from lab.score.clip import image_features
from lab.text import read_lines
from lab.training.config import TrainConfig
from lab.training.data.captions import placeholder
from lab.training.prepare import PreparedRun
from lab.training.run_folder import TrainingFolder

if TYPE_CHECKING:  # slow to import, and not needed before the first picture
    from matplotlib.figure import Figure

PROMPTS_SHOWN = 2
"""Of the prompt file of a run that learns nothing but negative embeddings."""


class Previews:
    """Generates with the vectors as they are, and says how like the training images the results are."""

    def __init__(self, run: PreparedRun):
        """Chooses what is shown: negative embeddings go into the negative prompt."""
        self._run = run
        self._config = run.config
        self._features: Tensor | None = None
        kinds = {name: beginning.kind for name, beginning in run.learned.beginnings.items()}
        wanted = [placeholder(name) for name, kind in kinds.items() if kind != "negative"]
        avoided = [placeholder(name) for name, kind in kinds.items() if kind == "negative"]
        self._prompts = run.config.preview_prompt or _usual_prompts(run.config, wanted)
        self._negative = ", ".join([text for text in (run.config.preview_negative, *avoided) if text])

    def due(self, step: int, last: int) -> bool:
        """Whether previews are made after this step."""
        every = self._config.preview_every
        return every > 0 and (step % every == 0 or step == last)

    def made(self, step: int) -> bool:
        """Whether the run's folder has previews of a step."""
        return any(self._run.folder.previews.glob(f"{step:06d}-prompt*.png"))

    def make(self, step: int, embeddings: Sequence[Embedding], listener: Listener) -> float | None:
        """Writes the previews of a step.

        Args:
            listener: Hears how far they are: with a large model on a CPU they take longer than a hundred steps.

        Returns:
            Their mean CLIP cosine (-1 to 1) to the training images, or None without such images or a CLIP.

        Raises:
            InputError: settings that the model cannot serve, or a folder that cannot be written.
        """
        results = generate(
            self._run.bundle,
            prompt=self._prompts,
            negative_prompt=self._negative or None,
            seeds=self._config.preview_seeds,
            steps=self._config.preview_steps,
            guidance=self._config.guidance,
            scheduler=self._config.scheduler,
            embeddings=collect({one.name: one for one in embeddings}, self._run.embeddings),
            listener=_Making(listener),
        )
        per_prompt = len(parse_seeds(self._config.preview_seeds))
        for result in results:
            number, seed = result.index // per_prompt + 1, result.record["seed"]
            save_result(
                self._run.folder.previews / f"{step:06d}-prompt{number}-seed{seed}.png",
                result.image,
                result.record,
            )
        return self._similarity(results)

    def _similarity(self, results: Sequence[Result]) -> float | None:
        clip, images = self._run.clip, self._run.objective.images
        if clip is None or not images:
            return None
        if self._features is None:
            self._features = image_features(clip, images)
        with torch.no_grad():
            features = clip.images(to_tensor([result.image for result in results]))
        return float((features @ self._features.T).mean())


class _Making(Listener):
    """Passes on how far images are, as previews."""

    def __init__(self, listener: Listener):
        self._listener = listener

    def note(self, line: str) -> None:
        self._listener.note(line)

    def progress(self, done: float, total: int, things: str = "images") -> None:
        self._listener.progress(done, total, "previews" if things == "images" else things)


def _usual_prompts(config: TrainConfig, placeholders: Sequence[str]) -> list[str]:
    """The embeddings alone, or else the first prompts of the run's file, or else nothing."""
    if placeholders:
        return [", ".join(placeholders)]
    return read_lines(config.prompt_file)[:PROMPTS_SHOWN] if config.prompt_file else [""]


GREY, BLUE, GREEN = "#8a8f98", "#2f7fd6", "#3f9d5a"
"""Colours of curves that can be seen on white and on black."""


def draw_curves(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Draws a run's losses, with a moving mean through those of single steps, and below them how like the images that
    are learned from its previews are, if that is known.

    Args:
        lines: Of progress.jsonl, in order: `step`, `loss`, and where there are some `fixed_loss` and `similarity`.

    Raises:
        InputError: the folder cannot be written.
    """
    save_figure(_curves(lines), path)


def curves_svg(lines: Sequence[Mapping[str, Any]]) -> str:
    """What `draw_curves` draws as an SVG element, in the colour of the text around it."""
    return as_svg(_curves(lines))


def _curves(lines: Sequence[Mapping[str, Any]]) -> "Figure":
    compared = any("similarity" in line for line in lines)
    heights = (2, 1) if compared else (1,)
    with drawing(8, 5.5 if compared else 3.7) as figure:
        places = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        top = places[0]
        steps, losses = [line["step"] for line in lines], [line["loss"] for line in lines]
        top.plot(steps, losses, color=GREY, alpha=0.4, linewidth=0.8, label="each step")
        top.plot(steps, _smoothed(losses), color=GREY, label="each step, smoothed")
        _plot(top, lines, "fixed_loss", "fixed examples", BLUE)
        top.set_ylabel("loss")
        top.legend(loc="upper right")
        if compared:
            _plot(places[1], lines, "similarity", "previews to training images", GREEN)
            places[1].set_ylabel("CLIP cosine")
        places[-1].set_xlabel("step")
    return figure


def _plot(axes: Any, lines: Sequence[Mapping[str, Any]], key: str, label: str, colour: str) -> None:
    points = [(line["step"], line[key]) for line in lines if key in line]
    if points:
        axes.plot(*zip(*points, strict=True), marker=".", color=colour, label=label)


def _smoothed(values: Sequence[float], keep: float = 0.95) -> list[float]:
    """Exponential moving mean without the bias of its start."""
    result, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        result.append(mean / weight)
    return result


IMAGES_SHOWN = 8
"""Training images that a run's page shows."""


def write_run_page(
    folder: TrainingFolder, title: str, status: str, ended: bool, settings: str, images: Sequence[Path]
) -> None:
    """Writes the index.html of a training run from what lies in its folder; until the run has ended it reloads itself.

    Args:
        status: How the run stands or why it stopped, in a sentence.
        ended: Whether nothing will be added.
        settings: The config as YAML.
        images: Those that are learned from; some are shown for comparison, from where they are.

    Raises:
        InputError: the folder cannot be written.
    """
    rows = [(f"step {step}", figures) for step, figures in preview_rows(folder)]
    learned_from = [(_relative(path, folder.path), path.name) for path in images[:IMAGES_SHOWN]]
    write_page(
        folder.path / "index.html",
        "training.html",
        "lab.training",
        title=title,
        status=status,
        ending=ended,
        curves="curves.png" if (folder.path / "curves.png").is_file() else None,
        rows=[*rows, ("learned from", learned_from)] if learned_from else rows,
        settings=settings,
    )


def preview_rows(folder: TrainingFolder) -> list[tuple[int, list[tuple[str, str]]]]:
    """The previews of a run by their steps, in order: of each its file, relative to the folder, and what it shows."""
    steps: dict[int, list[tuple[str, str]]] = {}
    for path in sorted(folder.previews.glob("*.png")):
        match = re.fullmatch(r"(\d{6,})-(.+)", path.stem)
        if match:  # else it is somebody else's
            figure = f"{folder.previews.name}/{path.name}", match[2].replace("-", ", ")
            steps.setdefault(int(match[1]), []).append(figure)
    return sorted(steps.items())


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
