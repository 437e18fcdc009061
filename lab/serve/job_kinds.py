"""The kinds of jobs: what a client may set of each, what is checked before it waits, and the call that it comes to."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import create_model, field_validator, model_validator

from lab.comparing.cells import check_cells_by_configs
from lab.comparing.compare import compare
from lab.comparing.config import CompareConfig, read_axes, stand_in
from lab.comparing.experiment import Experiment
from lab.config import Config
from lab.embeddings.embedding import Embedding
from lab.embeddings.library import collect
from lab.errors import InputError, did_you_mean
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.sample.config import GenerateConfig, Request, requests
from lab.sample.generate import generate
from lab.sample.settings import check_requests_by_configs, resolve_settings
from lab.score.metrics import choose_metrics
from lab.score.tools import open_tools
from lab.serve.bounds import check_bounds, check_readings
from lab.serve.config import CLIENTS_SET, ServeOptions, fields_of
from lab.serve.image_sets import ImageSets
from lab.training.config import TrainConfig, check_options, config_class
from lab.training.data.pictures import read_captions
from lab.training.objectives.denoising import Denoising
from lab.training.objectives.objective import find_objective
from lab.training.prepare import all_subjects, describe_run
from lab.training.run_folder import TrainingFolder
from lab.training.train import train

MOST_IMAGES = 10_000
"""Of one job."""

MOST_STEPS = 20_000
"""Of one training."""

_IMAGES = ("width", "height", *(name for name in CLIENTS_SET if name != "strength"))

GENERATE_SET = ("prompt", "seeds", *_IMAGES)
"""The options of `GenerateConfig` that a job may set; of these and the next ones, none opens a file."""

COMPARE_SET = (
    *("prompts", "seeds", "axes", "baseline", "contrast", "embedding_side", "metrics"),
    *("knock_out_by", "heat_map", "heat_layers", "guidance_curve"),
    *_IMAGES,
)
"""Those of `CompareConfig`; what of its axes opens a file is refused."""

TRAIN_SET = (
    *(
        "name",
        "captions",
        "shuffle_tags",
        "keep_tags",
        "tag_dropout",
        "resolution",
        "buckets",
        "crop",
        "crops",
    ),
    *("flip", "alpha", "background", "skip_broken", "overwrite_token", "text"),
    *("vectors", "init", "negative_vectors", "negative_init", "negative_rate", "layout"),
    *("steps", "seed", "batch_size", "accumulation", "gradient_checkpointing", "optimizer", "learning_rate"),
    *("schedule", "warmup", "clip_gradient", "loss", "weighting", "timesteps", "norm", "clip_skip"),
    *("stop", "evaluate_every", "evaluate_on", "stop_window", "stop_ratio", "save_every"),
    *("preview_every", "preview_prompt", "preview_seeds", "preview_steps", "preview_negative"),
)
"""Those of `TrainConfig`, of which `init` and `negative_init` may not begin with `file:`."""

OPEN_AXES = frozenset(("model", "controlnet", "control_image", "control_scale", "embedding_checkpoint"))
"""The axes of a comparison whose values are files."""

if TYPE_CHECKING:  # a type checker reads no tables
    _OfGenerate = Config
    _OfCompare = Config
    _OfTrain = Config
else:
    _OfGenerate = create_model("_OfGenerate", __base__=Config, **fields_of(GenerateConfig, GENERATE_SET))
    _OfCompare = create_model("_OfCompare", __base__=Config, **fields_of(CompareConfig, COMPARE_SET))
    _OfTrain = create_model("_OfTrain", __base__=Config, **fields_of(TrainConfig, TRAIN_SET))


class GenerateJob(_OfGenerate):
    """Prompts x seeds into a run folder, as `lab generate` makes them."""


class CompareJob(_OfCompare):
    """What variants change, as `lab compare` finds it. Axes over files are left out; embeddings are named."""


class TrainJob(_OfTrain):
    """An embedding learned as `lab train` does. When it is done, texts may name it."""

    images: str | None = None
    """The id of a set of images that was sent; none for the objective `text`."""

    objective: Literal["concept", "style", "negative", "pair", "text"] = "concept"
    """What is learned."""

    @field_validator("init", "negative_init", check_fields=False)
    @classmethod
    def _no_file(cls, value: str) -> str:
        if value.startswith("file:"):
            raise ValueError("a server opens no files that a client names; write text:WORDS, random or auto")
        return value

    @model_validator(mode="after")
    def _check_images(self) -> Self:
        if (self.images is None) != (self.objective == "text"):
            raise ValueError("images: say which are learned from, and none for the objective 'text'")
        return self


@dataclass(frozen=True)
class Place:
    """What a job works with: the model, the embeddings that it may name, the sets of images, and its folder."""

    bundle: Bundle
    library: Mapping[str, Embedding]
    options: ServeOptions
    sets: ImageSets
    folder: Path


@dataclass(frozen=True)
class JobKind:
    """A kind of job.

    Attributes:
        asked: What a client may set.
        check: Refuses at once what would fail later.
        run: Does it in the place's folder, or goes on with what is in there.
    """

    asked: type[Config]
    check: Callable[[Place, Any], None]
    run: Callable[[Place, Any, Listener], object]


def _check_generate(place: Place, asked: GenerateJob) -> None:
    config = GenerateConfig.build(asked.given())
    images = requests(config)
    _check_images(place, images)
    check_requests_by_configs(place.bundle.facts, images, place.library)


def _check_images(place: Place, images: list[Request]) -> None:
    if len(images) > MOST_IMAGES:
        raise InputError(f"seeds: {len(images):,} images are over {MOST_IMAGES:,} in a job; split it")
    groups: dict[tuple[Any, ...], list[Request]] = {}
    for image in images:
        options = image.options
        key = (options.steps, options.width, options.height, options.scheduler, options.dialect)
        groups.setdefault(key, []).append(image)
    for group in groups.values():
        settings = resolve_settings(place.bundle.facts, group[0].options)
        check_bounds(place.options, settings, group, MOST_IMAGES)
        check_readings(group, settings.prompt_steps, place.library)


def _check_compare(place: Place, asked: CompareJob) -> None:
    config = _compare_config(place, asked)
    axes, _ = read_axes(stand_in(config))
    variants = math.prod(len(values) for values in axes.values())
    count = (
        variants * max(len(config.prompts), 1) * len(requests(GenerateConfig(prompt="", seeds=config.seeds)))
    )
    if count > MOST_IMAGES:
        raise InputError(f"axes: {count:,} images are over {MOST_IMAGES:,} in a job; leave some out")
    if config.metrics:
        choose_metrics(config.metrics, open_tools(place.bundle, config))
    experiment = Experiment(config, place.library)
    cells = [
        Request(cell.index, cell.prompt, cell.options.negative_prompt, cell.seed, cell.options)
        for cell in experiment.cells
    ]
    _check_images(place, cells)
    check_cells_by_configs(place.bundle.facts, experiment, Listener())


def _compare_config(place: Place, asked: CompareJob) -> CompareConfig:
    """The config of a comparison whose axes open no files.

    Raises:
        InputError: one does, or names an embedding that is not served.
    """
    config = CompareConfig.build(asked.given())
    for name, values in config.axes.items():
        if name in OPEN_AXES:
            raise InputError(f"axes: {name}: a server opens no files that a client names; leave it out")
        if name == "embedding":
            for value in values if isinstance(values, list) else [values]:
                _check_named(place.library, value)
    return config


def _check_named(library: Mapping[str, Embedding], value: Any) -> None:
    """Refuses what is not null, `none` or names of served embeddings joined by `+`, before it is taken for a file."""
    for term in str(value or "").split("+"):
        name = term.strip().strip("<>")
        if name.casefold() not in ("", "none") and name not in library:
            raise InputError(
                f"axes: embedding: '{name[:100]}' is not served{did_you_mean(name[:100], library)}"
            )


def _run_generate(place: Place, asked: GenerateJob, listener: Listener) -> object:
    config = GenerateConfig.build(asked.given() | {"out": place.folder})
    return generate(place.bundle, config, embeddings=place.library, listener=listener)


def _run_compare(place: Place, asked: CompareJob, listener: Listener) -> object:
    config = _compare_config(place, asked).model_copy(update={"out": place.folder})
    return compare(place.bundle, config, embeddings=place.library, listener=listener)


def _check_train(place: Place, asked: TrainJob) -> None:
    config = config_class(asked.objective).build(_train_settings(place, asked))
    check_options(config)
    if config.name is None:
        raise InputError("name: there is none; say what prompts will call the embedding")
    if config.name in collect(place.options.embeddings):
        raise InputError(f"name: '{config.name}' is an embedding that the server has; choose another")
    if config.steps > MOST_STEPS:
        raise InputError(f"steps: {config.steps:,} are over {MOST_STEPS:,}, this server's most")
    if (config.resolution or 0) ** 2 > place.options.max_pixels:
        raise InputError(
            f"resolution: {config.resolution} is over {place.options.max_pixels:,} pixels in all"
        )
    _check_previews(place, config)


def _check_previews(place: Place, config: TrainConfig) -> None:
    texts = {"prompt": config.preview_prompt or "", "negative_prompt": config.preview_negative}
    previews = GenerateConfig.build({**texts, "seeds": config.preview_seeds})
    options = previews.model_copy(update={"steps": config.preview_steps})
    settings, images = resolve_settings(place.bundle.facts, options), requests(previews)
    check_bounds(place.options, settings, images)
    names = {*place.library, *(subject.name for subject in all_subjects(config))}
    check_readings(images, settings.prompt_steps, names)


def _train_settings(place: Place, asked: TrainJob) -> dict[str, Any]:
    found = {} if asked.images is None else {"images": place.sets.find(asked.images)}
    return asked.given() | {"objective": asked.objective} | found


def describe_training(place: Place, asked: TrainJob) -> list[str]:
    """What a training would learn from, where it begins, and what it takes, as `lab train --dry-run` tells it.

    Raises:
        InputError: what would stop it.
    """
    _check_train(place, asked)
    config = config_class(asked.objective).build(_train_settings(place, asked) | {"out": place.folder})
    return list(describe_run(place.bundle, config, place.library))


def training_captions(place: Place, asked: TrainJob) -> dict[str, tuple[str, ...]]:
    """The captions of each image that a training learns from, by its file's name.

    Raises:
        InputError: bad settings or captions.
    """
    config = config_class(asked.objective).build(_train_settings(place, asked))
    objective = find_objective(asked.objective)
    assert issubclass(objective, Denoising), "no other learns from captions"
    return read_captions(config, objective.templates)


def _run_train(place: Place, asked: TrainJob, listener: Listener) -> object:
    folder = TrainingFolder(place.folder)
    if folder.exists:
        return train(place.bundle, resume=place.folder, embeddings=place.library, listener=listener)
    settings = _train_settings(place, asked) | {"out": place.folder}
    return train(place.bundle, embeddings=place.library, listener=listener, **settings)


JOB_KINDS = {
    "generate": JobKind(GenerateJob, _check_generate, _run_generate),
    "compare": JobKind(CompareJob, _check_compare, _run_compare),
    "train": JobKind(TrainJob, _check_train, _run_train),
}
