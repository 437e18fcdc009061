"""How fast the lab compares on the bundled model, against a plain loop over diffusers' own pipeline."""

from pathlib import Path
from typing import Any

import lab
from scripts.bench_compare import NEGATIVES, PROMPTS, SCALES, SEEDS, plain_loop
from scripts.bench_generate import stock_pipeline
from scripts.gpu.stand import Found, Stand


def compare(stand: Stand, found: Found) -> None:
    """8 variants x 4 prompts x 4 seeds: images, metrics, tables and report, against images alone by a plain loop."""
    few = stand.pick(4, 2)
    prompts, seeds, scales = PROMPTS[:few], SEEDS[:few], SCALES[: stand.pick(4, 1)]
    steps = stand.pick(12, 2)
    bundle = stand.emoji(dtype="bfloat16")
    pipeline = stock_pipeline(bundle, bundle.dtype)
    axes = {"negative_prompt": list(NEGATIVES), "guidance": list(scales)}

    def ours() -> Any:
        config = lab.CompareConfig(
            prompts=prompts, seeds=list(seeds), axes=axes, steps=steps, out=stand.out("compare")
        )
        return lab.compare(bundle, config)

    def theirs() -> None:
        plain_loop(pipeline, bundle, steps, prompts, scales, seeds)

    took = stand.take_turns({"lab": ours, "plain loop": theirs}, 1)
    images = len(NEGATIVES) * len(scales) * len(prompts) * len(seeds)
    report = took["lab"].result
    made = list(Path(report.folder, "cells").glob("*.png"))
    found.must("images on disk", len(made), least=images, most=images)
    found.must("rows of effects", len(report.effects), least=1)
    for name, each in took.items():
        found.note(f"{name}, s", each.seconds)
    found.note("lab, images alone, s", _span(report.folder, made))
    found.aim("the lab's speed by the loop's", took["plain loop"].seconds / took["lab"].seconds, least=2.0)


def _span(folder: Path, images: list[Path]) -> float:
    """Seconds from the run's beginning, when its config was written, to the last image."""
    return max(image.stat().st_mtime for image in images) - (folder / "config.yaml").stat().st_mtime
