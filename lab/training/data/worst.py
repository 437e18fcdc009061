"""Images of what is to be avoided, made by the model itself: the worst of many by a score."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from accelerate import PartialState

from lab.config import validated
from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.files import atomic, read_json
from lab.images import read_pixels
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.runs.pages import write_overview
from lab.runs.run import RunFolder
from lab.sample.config import GenerateConfig, Request, requests
from lab.sample.generate import share_images
from lab.sample.plan import Job, plan
from lab.sample.record import BY_CONTENT, contents
from lab.score.config import ScoreOptions
from lab.score.reward import Reward, read_weights
from lab.score.tools import open_tools
from lab.text import read_lines
from lab.training.config import TrainConfig
from lab.training.data.captions import placeholder

SCORED_AT_ONCE = 16


def make_worst(
    bundle: Bundle,
    config: TrainConfig,
    embeddings: Mapping[str, Embedding],
    listener: Listener = Listener(),
) -> TrainConfig:
    """Makes `worst_of` images in the run's folder, copies the worst of them, and has the config learn from these.

    Each image comes with two captions: the placeholders alone, and behind the prompt that made it, so that what the
    prompt says need not be learned. What is there already is not made again. Several processes share the work.

    Args:
        embeddings: What the prompts may name.

    Raises:
        InputError: no prompts, fewer images than shall be learned from, a score that cannot be had, or a folder with
            images of other settings.
    """
    assert config.out is not None
    reward, making = _open_reward(bundle, config), _generate_config(config)
    jobs = plan(bundle, _requests(config, making), embeddings)
    processes = PartialState(cpu=bundle.device.type == "cpu")
    place, worst = config.out / "made", config.out / "worst"
    made_of = contents(bundle, jobs)
    with RunFolder.shared(place, making.to_yaml(), made_of, BY_CONTENT, processes) as made:
        if processes.is_main_process and len(made.finished()) < len(jobs):
            listener.note(
                f"Making {len(jobs)} images in {place}, to learn from the {config.worst} worst of them."
            )
        files = share_images(bundle, jobs, made, processes, listener)
        if processes.is_main_process:
            write_overview(made, files)
            scores = _score(place / "scores.json", reward, jobs, files)
            _copy_worst(worst, config, jobs, files, scores)
    return config.model_copy(update={"images": worst})


def describe_worst(bundle: Bundle, config: TrainConfig) -> Iterator[str]:
    """Yields what would be made.

    Raises:
        InputError: as `make_worst`.
    """
    _open_reward(bundle, config)
    asked = _requests(config, _generate_config(config))
    yield f"{len(asked)} images would be made of the prompts in {config.prompt_file}, and learned from would be"
    yield f"the {config.worst} worst of them by {config.score}, with two captions each:"
    yield from (f"  {caption}" for caption in _captions(config, "PROMPT"))


def _open_reward(bundle: Bundle, config: TrainConfig) -> Reward:
    """What the images are scored by."""
    texts = config.reward if config.score == "reward" else [config.score]
    weights = read_weights(texts)
    return Reward(weights, open_tools(bundle, ScoreOptions.tools_of(config), metrics=weights))


def _generate_config(config: TrainConfig) -> GenerateConfig:
    """How the images are made: as many seeds of each prompt as it takes."""
    if config.prompt_file is None:
        raise InputError(
            "prompt_file: --worst-of makes images of prompts; give a file of them with --prompt-file"
        )
    assert config.worst_of is not None
    if config.worst > config.worst_of:
        raise InputError(f"worst: {config.worst} of {config.worst_of} images; make more with --worst-of")
    prompts = read_lines(config.prompt_file)
    seeds = math.ceil(config.worst_of / len(prompts))
    drawn = f"{config.seed + 1}-{config.seed + seeds}"
    return config.sampling(config.resolution, prompt=prompts, seeds=drawn)


def _requests(config: TrainConfig, making: GenerateConfig) -> list[Request]:
    """The first `worst_of` images, every prompt once before any comes again."""
    return sorted(requests(making), key=lambda request: request.seed)[: config.worst_of]


@torch.no_grad()
def _score(path: Path, reward: Reward, jobs: Sequence[Job], files: Mapping[int, Path]) -> dict[int, float]:
    """The score of each image by its index, kept in a file: on another machine the last digits may differ."""
    scores = _read_scores(path)
    new = [job for job in jobs if job.index not in scores]
    for start in range(0, len(new), SCORED_AT_ONCE):
        some = new[start : start + SCORED_AT_ONCE]
        pixels = torch.stack([read_pixels(files[job.index]) for job in some])
        found = reward(reward.batch(pixels, [job.positive.prompt for job in some])).tolist()
        scores |= dict(zip((job.index for job in some), found, strict=True))
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(scores), encoding="utf-8")
    return {job.index: scores[job.index] for job in jobs}


def _read_scores(path: Path) -> dict[int, float]:
    """The scores in a file; none if it is missing or damaged."""
    try:
        return validated(dict[int, float], read_json(path), path)
    except InputError:
        return {}


def _copy_worst(
    folder: Path,
    config: TrainConfig,
    jobs: Sequence[Job],
    files: Mapping[int, Path],
    scores: Mapping[int, float],
) -> None:
    """Copies the worst images and their records into a folder, with captions beside them. Images that an earlier choice
    left there go; files of other people stay, and are not learned from."""
    worst = sorted(jobs, key=lambda job: (scores[job.index], job.index))[: config.worst]
    chosen = {files[job.index].name for job in worst}
    for path in RunFolder(folder).finished().values():
        if path.name not in chosen:
            for suffix in (".png", ".json", ".txt"):
                path.with_suffix(suffix).unlink(missing_ok=True)
    for job in worst:
        image = files[job.index]
        for source in (image.with_suffix(".json"), image):
            with atomic(folder / source.name) as temporary:
                shutil.copyfile(source, temporary)
        with atomic(folder / f"{image.stem}.txt") as temporary:
            temporary.write_text("\n".join(_captions(config, job.positive.prompt)), encoding="utf-8")


def _captions(config: TrainConfig, prompt: str) -> tuple[str, str]:
    names = ", ".join(placeholder(subject.name) for subject in config.subjects())
    return names, f"{prompt}, {names}"
