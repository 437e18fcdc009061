"""Where the denoising loop and the training loop wait for the device, by PyTorch's own warnings of it."""

import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import lab
from lab.analysis.heatmaps import Target, heat_maps
from lab.sample.config import requests
from lab.sample.plan import plan
from scripts.gpu.learning import learn
from scripts.gpu.shapes import random_bundle
from scripts.gpu.stand import Found, NotHereError, Stand

HERE = Path(lab.__file__).parent
SHOWN = 12
"""Places that are told, those that wait most often first."""

STEPS = 8


def host_waits(stand: Stand, found: Found) -> None:
    """Counts the waits of sampling, of heat maps and of learning, by the lab's line that each comes from."""
    if not stand.on_gpu:
        raise NotHereError("needs a GPU")
    bundle = random_bundle(stand, "sd1")
    settings: dict[str, Any] = {"prompt": "a red apple", "negative_prompt": "", "steps": STEPS}
    jobs = plan(bundle, requests(lab.GenerateConfig(seeds="1", **settings)))
    works: dict[str, Callable[[], object]] = {
        f"{STEPS} denoising steps": lambda: lab.generate(bundle, seeds=[1], **settings),
        f"{STEPS} denoising steps with heat maps": lambda: heat_maps(bundle, jobs, [Target("apple")]),
        f"{STEPS} training steps": lambda: learn(
            bundle, stand.out("waits"), steps=STEPS, evaluate_every=10**6, evaluate_on=1, batch_size=2
        ),
    }
    for name, work in works.items():
        work()
        waits = waits_of(work)
        found.note(f"{name}: waits", sum(waits.values()))
        for place, count in waits.most_common(SHOWN):
            found.note(f"{name}: {place}", count)


def waits_of(work: Callable[[], object]) -> Counter[str]:
    """How often each place made the host wait."""
    places: Counter[str] = Counter()

    def heard(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        if "synchroniz" in str(message):
            places[_place(traceback.extract_stack()[:-1])] += 1  # without this function

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = heard
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return places


def _place(frames: list[traceback.FrameSummary]) -> str:
    """The innermost line of the lab, and the line that it led to where that is another one."""
    stack = [frame for frame in frames if frame.filename != warnings.__file__]
    own = [frame for frame in stack if Path(frame.filename).is_relative_to(HERE)]
    last = stack[-1]
    if not own:
        return f"{last.filename}:{last.lineno}"
    place = f"{Path(own[-1].filename).relative_to(HERE.parent)}:{own[-1].lineno}"
    return place if last is own[-1] else f"{place} in {Path(last.filename).name}:{last.lineno}"
