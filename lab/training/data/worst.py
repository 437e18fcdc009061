"""Images of what is to be avoided, made by the model itself: the worst of many by a score."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from accelerate import PartialState

from lab.errors import InputError
from lab.files import atomic
from lab.images import read_pixels
from lab.models.bundle import Bundle
from lab.runs.run import RunFolder
from lab.sample.config import GenerateConfig
from lab.sample.engine import Note
from lab.sample.generate import make_images
from lab.sample.plan import Job, plan, requests
from lab.sample.record import BY_CONTENT, contents
from lab.score.config import ScoreOptions
from lab.score.reward import Reward, read_weights
from lab.score.tools import open_tools
from lab.text import read_lines
from lab.training.config import TrainConfig
from lab.training.data.captions import placeholder
from lab.training.folder import TrainingFolder

BATCH = 16
"""Images scored together."""


def with_worst(bundle: Bundle, config: TrainConfig, on_note: Note | None = None) -> TrainConfig:
    """Makes `worst_of` images in the run's folder and has the config learn from the worst of them.

    Each image comes with two captions: the placeholders alone, and behind the prompt that made it, so that what the
    prompt says need not be learned. What is there already is not made again. Several processes share the work.

    Raises:
        InputError: no prompts, fewer images than shall be learned from, a score that cannot be had, or a folder with
            images of other settings.
    """
    assert config.out is not None
    reward, making = _reward(bundle, config), _making(config)
    out, note = config.out, on_note or (lambda line: None)
    state = PartialState(cpu=bundle.device.type == "cpu")
    jobs = _jobs(bundle, config, making)
    made = RunFolder(out / "made")
    if state.is_main_process:
        with TrainingFolder(out).locked():
            RunFolder.open(made.path, making.to_yaml(), contents(bundle, jobs), BY_CONTENT)
    state.wait_for_everyone()
    if len(made.finished()) < len(jobs):
        note(f"Making {len(jobs)} images in {made.path}, to learn from the {config.worst} worst of them.")
    state.wait_for_everyone()  # everybody looks before anybody writes
    make_images(bundle, jobs[state.process_index :: state.num_processes], made)
    state.wait_for_everyone()
    if state.is_main_process:
        files = made.finished()
        _pick(out / "worst", config, jobs, files, _scores(made.path / "scores.json", reward, jobs, files))
    state.wait_for_everyone()
    return config.model_copy(update={"images": out / "worst"})


def describe_worst(bundle: Bundle, config: TrainConfig) -> Iterator[str]:
    """Yields what would be made.

    Raises:
        InputError: as `with_worst`.
    """
    _reward(bundle, config)
    jobs = _jobs(bundle, config, _making(config))
    yield f"{len(jobs)} images would be made of the prompts in {config.prompt_file}, and learned from would be"
    yield f"the {config.worst} worst of them by {config.score}, with two captions each:"
    yield from (f"  {caption}" for caption in _captions(config, "PROMPT"))


def _reward(bundle: Bundle, config: TrainConfig) -> Reward:
    """What the images are scored by."""
    texts = config.reward if config.score == "reward" else [config.score]
    options = ScoreOptions(
        clip=config.clip, pickscore=config.pickscore, aesthetic=config.aesthetic, quality=config.quality
    )
    return Reward(read_weights(texts), open_tools(bundle, options))


def _making(config: TrainConfig) -> GenerateConfig:
    """How the images are made: as many seeds of each prompt as it takes."""
    if config.prompt_file is None:
        raise InputError(
            "prompt_file: --worst-of makes images of prompts; give a file of them with --prompt-file"
        )
    assert config.worst_of is not None
    if config.worst > config.worst_of:
        raise InputError(f"worst: {config.worst} of {config.worst_of} images; make more with --worst-of")
    prompts = read_lines(config.prompt_file)
    seeds = -(-config.worst_of // len(prompts))
    return GenerateConfig(
        prompt=prompts,
        seeds=f"{config.seed + 1}-{config.seed + seeds}",
        steps=config.sampling_steps,
        guidance=config.guidance,
        scheduler=config.scheduler,
        width=config.resolution,
        height=config.resolution,
    )


def _jobs(bundle: Bundle, config: TrainConfig, making: GenerateConfig) -> list[Job]:
    """The first `worst_of` images, every prompt once before any comes again."""
    return sorted(plan(bundle, requests(making)), key=lambda job: job.seed)[: config.worst_of]


@torch.no_grad()
def _scores(path: Path, reward: Reward, jobs: Sequence[Job], files: Mapping[int, Path]) -> dict[int, float]:
    """The score of each image by its index, kept in a file: on another machine the last digits may differ."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    scores = {int(index): score for index, score in known.items()}
    new = [job for job in jobs if job.index not in scores]
    for start in range(0, len(new), BATCH):
        some = new[start : start + BATCH]
        pixels = torch.stack([read_pixels(files[job.index]) for job in some])
        found = reward(reward.batch(pixels, [job.positive.prompt for job in some])).tolist()
        scores |= dict(zip((job.index for job in some), found, strict=True))
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(scores), encoding="utf-8")
    return {job.index: scores[job.index] for job in jobs}


def _pick(
    folder: Path,
    config: TrainConfig,
    jobs: Sequence[Job],
    files: Mapping[int, Path],
    scores: Mapping[int, float],
) -> None:
    """Copies the worst images into a folder, with their captions beside them."""
    worst = sorted(jobs, key=lambda job: (scores[job.index], job.index))[: config.worst]
    kept = {files[job.index].stem for job in worst}
    for path in folder.glob("*"):
        if path.stem not in kept:
            path.unlink()
    for job in worst:
        copy = folder / files[job.index].name
        with atomic(copy) as temporary:
            shutil.copyfile(files[job.index], temporary)
        with atomic(copy.with_suffix(".txt")) as temporary:
            temporary.write_text("\n".join(_captions(config, job.positive.prompt)), encoding="utf-8")


def _captions(config: TrainConfig, prompt: str) -> tuple[str, str]:
    names = ", ".join(placeholder(subject.name) for subject in config.subjects())
    return names, f"{prompt}, {names}"
