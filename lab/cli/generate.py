"""`lab generate`: prompts x seeds into a folder of images."""

import hashlib
from pathlib import Path

from lab.cli.flags import ConfigFlag, ModelFlags, PromptFlags, SamplingFlags, TextFlags, given
from lab.cli.progress import console, image_progress
from lab.condition.options import TextOptions
from lab.models.options import ModelOptions
from lab.sample.config import GenerateConfig, PromptOptions, SamplingOptions
from lab.sample.seeds import parse_seeds


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
    from lab.runs.folder import RunFolder
    from lab.runs.sheet import Row, write_sheets
    from lab.sample.generate import stream
    from lab.sample.prompts import read_prompts

    asked = read_prompts(settings)
    bundle = load_options(settings)
    yaml = f"# model {bundle.hash[:10]}\n{settings.model_copy(update={'out': None, 'batch_size': 'auto'}).to_yaml()}"
    out = settings.out or Path("outputs", f"generate-{hashlib.sha256(yaml.encode()).hexdigest()[:8]}")
    folder = RunFolder.open(out, yaml)
    finished = folder.finished()
    if finished:
        console.print(f"{out}: {len(finished)} images are there already; going on with the rest.")
    with image_progress() as bar:
        for result in stream(
            bundle, settings, done=finished.keys(), on_progress=bar.progress, on_note=bar.note
        ):
            finished[result.index] = folder.save(result.index, result.image, result.record)
    seeds = parse_seeds(settings.seeds)
    rows = [
        Row(
            prompt, [(finished[place * len(seeds) + turn], f"seed {seed}") for turn, seed in enumerate(seeds)]
        )
        for place, prompt in enumerate(asked)
    ]
    sheets = write_sheets(out / "contact-sheet.png", rows)
    print(f"{len(finished)} images in {out}; {sheets[0].name} shows them together")
