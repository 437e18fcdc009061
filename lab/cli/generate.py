"""`lab generate`: prompts x seeds into a folder of images."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lab.cli.flags import ConfigFlag, ModelFlags, PromptFlags, SamplingFlags, TextFlags, given
from lab.condition.config import TextOptions
from lab.models.config import ModelOptions
from lab.sample.config import GenerateConfig, PromptOptions, SamplingOptions
from lab.terminal import Bars, console

if TYPE_CHECKING:
    from lab.runs.sheet import Row
    from lab.sample.plan import Job


def generate(
    *,
    prompts: PromptFlags = PromptOptions(),
    sampling: SamplingFlags = SamplingOptions(),
    text: TextFlags = TextOptions(),
    model: ModelFlags = ModelOptions(),
    config: ConfigFlag = None,
) -> None:
    """Make images from prompts. The same command again goes on where it was interrupted."""
    settings = GenerateConfig.read(config, given(prompts, sampling, text, model))
    from lab.models.load import load_options
    from lab.runs.run import RunFolder
    from lab.runs.sheet import write_sheets
    from lab.sample.generate import plan, stream

    bundle = load_options(settings)
    jobs = plan(bundle, settings)
    stored = settings.model_copy(update={"out": None, "batch_size": "auto"}).to_yaml()
    yaml = f"# model {bundle.hash[:10]}\n{stored}"
    out = settings.out or Path("outputs", f"generate-{hashlib.sha256(yaml.encode()).hexdigest()[:8]}")
    folder = RunFolder.open(out, yaml)
    finished = folder.finished()
    if finished:
        console.print(
            f"{out}: {len(finished)} images are there already; going on with the rest.", soft_wrap=True
        )
    waiting = [job for job in jobs if job.index not in finished]
    with Bars() as bar:
        for result in stream(bundle, settings, waiting, listener=bar):
            finished[result.index] = folder.save(result.index, result.image, result.record)
    sheets = write_sheets(out / "contact-sheet.png", _rows(jobs, finished))
    print(f"{len(finished)} images in {out}; {sheets[0].name} shows them together")


def _rows(jobs: Sequence["Job"], files: Mapping[int, Path]) -> list["Row"]:
    """The contact sheet's rows: one a prompt, its seeds side by side."""
    from lab.runs.sheet import Row

    cells: dict[str, list[tuple[Path, str]]] = {}
    for job in jobs:
        cells.setdefault(job.positive.prompt, []).append((files[job.index], f"seed {job.seed}"))
    return [Row(prompt, images) for prompt, images in cells.items()]
