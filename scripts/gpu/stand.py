"""What every check stands on: where it computes, what it found, and how both sides of a comparison are timed."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import lab
from lab.images import psnr
from lab.models.bundle import Bundle

IDENTICAL = 120.0
"""dB; stands for the infinite ratio of equal images, which JSON cannot hold."""


class NotHereError(Exception):
    """A check that does not apply here; the text says why."""


@dataclass
class Found:
    """What a check found. What was noted before an error is reported all the same.

    Attributes:
        figures: Numbers and words by name.
        goals: What was wanted of some of them. A missed `must` fails the check, a missed `aim` is only told.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    goals: list[dict[str, Any]] = field(default_factory=list)

    def note(self, name: str, value: float | str | bool) -> None:
        """Reports a figure."""
        self.figures[name] = _rounded(value)

    def must(self, name: str, value: float, least: float | None = None, most: float | None = None) -> None:
        """Reports a figure that has to lie within bounds."""
        self._goal(name, value, least, most, must=True)

    def aim(self, name: str, value: float, least: float | None = None, most: float | None = None) -> None:
        """Reports a figure that ought to lie within bounds."""
        self._goal(name, value, least, most, must=False)

    @property
    def broken(self) -> list[str]:
        """The names of what had to be and is not."""
        return [goal["name"] for goal in self.goals if goal["must"] and not goal["met"]]

    def _goal(self, name: str, value: float, least: float | None, most: float | None, must: bool) -> None:
        # A value that is no number meets nothing.
        met = (least is None or value >= least) and (most is None or value <= most) and value == value
        self.note(name, value)
        wanted = f"at least {least:g}" if least is not None else f"at most {most:g}"
        self.goals.append({"name": name, "wanted": wanted, "must": must, "met": bool(met)})


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


@dataclass(frozen=True)
class Stand:
    """Where checks compute.

    Attributes:
        tiny: Tiny shapes and few steps: the same code in a moment, on any machine.
        folder: For what checks write; nothing of it is kept.
        kept: The last random model, by its family and whether it is tiny: the next check need not make it again.
    """

    device: torch.device
    tiny: bool
    folder: Path
    kept: dict[tuple[str, bool], Bundle] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a CUDA GPU."""
        return self.device.type == "cuda"

    def pick(self, usual: int, tiny: int) -> int:
        """A number of steps, images or rounds."""
        return tiny if self.tiny else usual

    def size(self, usual: int) -> dict[str, int]:
        """Width and height of the bundled model's images, in pixels."""
        return dict.fromkeys(("width", "height"), usual // 2 if self.tiny else usual)

    def emoji(self, device: str | None = None, **options: Any) -> Bundle:
        """The bundled model, on the device or on another, in float32 unless the options say otherwise."""
        return lab.load("emoji", **{"device": device or str(self.device), "dtype": "float32", **options})

    def out(self, name: str) -> Path:
        """A folder that is not there yet."""
        taken = len(list(self.folder.glob(f"{name}-*")))
        (self.folder / f"{name}-{taken}").mkdir()
        return self.folder / f"{name}-{taken}" / "run"

    def take_turns(self, sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, "Took"]:
        """Seconds and peak memory of several sides, which take turns; the first turn of each warms up."""
        taken: dict[str, list[Took]] = {name: [] for name in sides}
        for turn in range(rounds + 1):
            for name, side in sides.items():
                took = self.timed(side)
                if turn:
                    taken[name].append(took)
        return {
            name: Took(
                statistics.median(each.seconds for each in some),
                max(each.peak for each in some),
                some[-1].result,
            )
            for name, some in taken.items()
        }

    def timed(self, side: Callable[[], object]) -> "Took":
        """Seconds of one call, until the device is done, and the most memory beside what was in use before."""
        before = 0
        if self.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        began = time.perf_counter()
        result = side()
        if self.on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        peak = (torch.cuda.max_memory_allocated() - before) / 2**30 if self.on_gpu else 0.0
        return Took(seconds, peak, result)

    def tidy(self) -> None:
        """Gives memory back between two checks."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()


@dataclass(frozen=True)
class Took:
    """What a call took: seconds, and GiB of GPU memory at the peak (0 on a CPU); and what it returned."""

    seconds: float
    peak: float
    result: Any = None


def worst_psnr(first: list[Image.Image], second: list[Image.Image]) -> float:
    """The lowest peak signal-to-noise ratio over pairs of images, in dB."""
    return min(min(psnr(a, b), IDENTICAL) for a, b in zip(first, second, strict=True))


def images_of(bundle: Bundle, **settings: Any) -> list[Image.Image]:
    """The images of one call of `lab.generate`.

    Raises:
        AssertionError: latents that are no numbers.
    """
    results = lab.generate(bundle, **settings)
    for result in results:
        assert result.latents is None or bool(result.latents.isfinite().all()), "latents are no numbers"
    return [result.image for result in results]
