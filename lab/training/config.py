"""The options of training, each defined once: YAML keys, flags and keyword arguments come from here."""

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from lab.config import Config, ExistingFolder, NewPath, at_home, one_of
from lab.embeddings.embedding import Place
from lab.embeddings.layouts import WRITABLE
from lab.errors import InputError
from lab.files import is_folder
from lab.models.config import ModelOptions
from lab.sample.config import Seeds
from lab.training.data.options import DataOptions, Subject
from lab.training.objectives.objective import DENOISING, OBJECTIVES, ObjectiveEntry, objective_options
from lab.training.option_types import Init, Lines, Rate, Stop, VectorCounts

if TYPE_CHECKING:  # options are read without torch
    import torch

    from lab.training.objectives.options import (
        ContrastiveOptions,
        MakingOptions,
        PairOptions,
        RewardOptions,
        SliderOptions,
        TextMatchOptions,
        WorstOptions,
    )

    class ObjectiveOptions(
        MakingOptions,
        WorstOptions,
        RewardOptions,
        PairOptions,
        ContrastiveOptions,
        TextMatchOptions,
        SliderOptions,
    ):
        """What the table's objectives can be told: a type checker reads no tables."""
else:
    ObjectiveOptions = type("ObjectiveOptions", objective_options(), {})


class LearningOptions(Config):
    """How it is learned."""

    vectors: VectorCounts = 1
    """How many vectors the embedding has. For a text or a slider several numbers, such as 1,2,4,8: what each can do,
    and the fewest are kept that come near the best (--tolerance)."""

    place: Place = "input"
    """Where the vectors act: in front of the text encoder, behind it (`output`, as OneTrainer's output embeddings), or
    others in each of the U-Net's layers (`layers`: P+ 2303.09522, kohya's XTI)."""

    init: Init = "auto"
    """Where the vectors begin: `text:WORDS`, `file:EMBEDDING`, `random` (at the vocabulary's norm), `auto`: the words
    whose CLIP text features lie nearest the images' CLIP image features, `contrastive`: these, brought nearer, or
    `cross`: what the text encoder makes of them (2312.15905)."""

    clip: ExistingFolder | None = None
    """Folder of a CLIPModel for `auto` and for the similarity curve; by default the model's own, if it has one."""

    steps: int = Field(400, ge=1, le=1_000_000)
    """The most optimizer steps."""

    seed: int = Field(0, ge=0, le=2**63 - 1)
    """Decides the order of images, captions, crops, timesteps and noise."""

    batch_size: int = Field(4, ge=1, le=1024)
    """Examples in a step, over all processes."""

    accumulation: int = Field(1, ge=1, le=1024)
    """Parts that a step is computed in, one after the other, to save memory."""

    gradient_checkpointing: bool = False
    """Computes the U-Net's activations twice to save memory."""

    optimizer: Literal["shampoo", "adamw", "sphere"] = "shampoo"
    """Shampoo (1802.09568), AdamW without decay, or descent on the sphere with a prior, which leaves norms alone
    (2512.13672, with `--norm mean`); all with steps as long as AdamW's."""

    learning_rate: Rate | None = None
    """AdamW's learning rate, for any of them; by default one that suits the size of the vocabulary's vectors."""

    schedule: Literal["constant", "cosine"] = "constant"
    """How the learning rate goes on after the warm-up."""

    warmup: int = Field(10, ge=0)
    """Steps over which the learning rate rises from 0."""

    clip_gradient: float = Field(1.0, gt=0)
    """The largest norm of the gradient over all vectors; a longer one is cut to it."""

    loss: Literal["mse", "huber"] = "mse"
    """How the error of a prediction counts."""

    weighting: Literal["none", "min-snr"] = "none"
    """How timesteps count: alike, or with gamma = 5 of Hang et al. (2303.09556)."""

    timesteps: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] | None = None
    """Learns from timesteps LOW to HIGH (HIGH not included); by default all."""

    norm: Literal["free", "clamp", "rescale", "mean"] = "free"
    """Vector norms: left alone, kept within the vocabulary's range, or kept at its median or mean."""

    keep_context: float = Field(0.0, ge=0)
    """Weight of what the vectors change of other words' meaning in prompts without images (CoRe, 2408.15914)."""

    keep_attention: float = Field(0.0, ge=0)
    """Weight of what attention a thing gets outside its own place in the images: outside its mask, or, without one,
    where the other things of the caption are attended to, or else its other words."""

    clip_skip: int = Field(0, ge=0, le=11)
    """Leaves out this many of the text encoder's last layers."""

    @field_validator("timesteps")
    @classmethod
    def _ordered(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value and not value[0] < value[1]:
            raise ValueError(f"from {value[0]} to {value[1]} is empty; give LOW before HIGH")
        return value


class StopOptions(Config):
    """When it stops."""

    stop: Stop = "auto"
    """`auto` when the loss on fixed examples has settled, `never` before the last step, or after N steps."""

    evaluate_every: int = Field(10, ge=1)
    """Steps between evaluations on the fixed examples."""

    evaluate_on: int = Field(8, ge=1, le=1024)
    """How many fixed examples there are."""

    stop_window: int = Field(8, ge=2)
    """Evaluations in the window whose variance `auto` watches."""

    stop_ratio: float = Field(0.1, gt=0, lt=1)
    """`auto` stops when the window's variance falls below this share of that of all evaluations."""


class RunOptions(Config):
    """What is written where."""

    out: NewPath | None = None
    """Folder for the run; by default one under outputs/ that the embedding names."""

    resume: NewPath | None = None
    """Goes on with the run in this folder, with its own settings."""

    save_every: int = Field(50, ge=1)
    """Steps between checkpoints; no more than these are ever lost."""

    layout: Annotated[str, one_of(WRITABLE, "layout")] | None = None
    """File layout of the embedding; by default diffusers', or the one for SDXL."""

    latents: NewPath | None = None
    """Folder that keeps encoded images for other runs; by default they stay in memory."""

    preview_every: int = Field(100, ge=0)
    """Steps between previews; 0 for none."""

    preview_prompt: Lines = Field(default_factory=list)
    """What previews show; by default the embedding alone. Repeatable."""

    preview_seeds: Seeds = "1-4"
    """Seeds of the previews' noise."""

    preview_steps: int | None = Field(None, ge=1, le=1000)
    """Denoising steps of a preview; by default the model's own."""

    preview_negative: str = ""
    """Negative prompt of the previews."""

    track: list[str] = Field(default_factory=list)
    """Trackers that Accelerate knows and that are installed, such as `tensorboard`; repeatable."""


class TrainConfig(DataOptions, LearningOptions, ObjectiveOptions, StopOptions, RunOptions, ModelOptions):
    """One training run."""

    def subjects(self) -> list[Subject]:
        """What `name` calls, then `more`: the embeddings that captions name."""
        first = {name: getattr(self, name) for name in Subject.model_fields}
        alike = {name: first[name] for name in ("objective", "vectors", "init", "learning_rate")}
        others = [Subject.build(alike | one.given()) if one.images else one for one in self.more]
        return [Subject.build(first), *others]

    def folders(self) -> list[tuple[Path | None, list[str]]]:
        """The folders of images, each with the embeddings that its captions name: several where it is given for each of
        them, as in a=FOLDER b=FOLDER, and without one of its own an embedding is named by those of the first."""
        named = [(self.images, self.name), *((one.images or self.images, one.name) for one in self.more)]
        found: dict[Path | None, tuple[Path | None, list[str]]] = {}
        for images, name in named:
            _, names = found.setdefault(images and images.resolve(), (images, []))
            names += [] if name is None else [name]
        return list(found.values())

    def folders_at_ends(self) -> dict[str, Path]:
        """Of the ends of a slider, `from` and `to`, those that are folders of images."""
        texts = {"from": self.from_, "to": self.to}
        paths = {end: at_home(Path(text)) for end, text in texts.items() if text}
        return {end: path for end, path in paths.items() if is_folder(path)}

    @property
    def counts(self) -> list[int]:
        """The numbers of vectors to try, in ascending order; one for a run."""
        return [int(count) for count in str(self.vectors).split(",")]

    @property
    def at_once(self) -> int:
        """How many examples are computed together: those of a step, divided by `accumulation` and rounded up."""
        return math.ceil(self.batch_size / self.accumulation)

    @property
    def evaluated_at_once(self) -> int:
        """How many examples are evaluated together: up to a whole step's, also where a step is computed in parts.

        At SDXL's shape a row of the U-Net's batch keeps 5 GiB for the way back and passes through 0.3 GiB without.
        Where activations are not kept either way, parts are as small as they were asked for.
        """
        return self.at_once if self.gradient_checkpointing else min(self.batch_size, 4 * self.at_once)

    def generator(self, *place: object) -> "torch.Generator":
        """A CPU generator for one place of the run, such as ("noise", step, slot).

        What is drawn depends on the seed and the place alone. So a resumed run, and a run over several processes, draw
        what one uninterrupted process would have drawn, and no state of a generator has to be saved.
        """
        import torch

        digest = hashlib.blake2b(repr((self.seed, *place)).encode(), digest_size=8).digest()
        return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "little"))


def check_options(config: TrainConfig) -> None:
    """Refuses options that say nothing to the objective; where they have their defaults, nothing was asked for.

    Raises:
        InputError: names the first of them, and the objectives that it is for.
    """
    for name in not_taken(config, config.objective):
        if getattr(config, name) != _default(name):
            takers = [other for other in OBJECTIVES if name in _taken(config, other)]
            raise InputError(
                f"{name.removesuffix('_')}: says nothing to --objective {config.objective}, but to "
                f"{', '.join(takers)}; leave it out, or choose another objective"
            )


def with_objective(config: TrainConfig, objective: str, **changes: Any) -> TrainConfig:
    """A config with another objective and other changes, and defaults in what the objective does not take."""
    changed = config.model_copy(update={**changes, "objective": objective})
    left_out = {name: _default(name) for name in not_taken(changed, objective)}
    return changed.model_copy(update=left_out)


def not_taken(config: TrainConfig, objective: str) -> list[str]:
    """The options that some objectives take and this one does not; one that was added since answers for itself."""
    if not isinstance(OBJECTIVES[objective], ObjectiveEntry):
        return []
    some = {name for other in OBJECTIVES for name in _taken(config, other)}
    return [name for name in TrainConfig.model_fields if name in some - _taken(config, objective)]


def _taken(config: TrainConfig, objective: str) -> frozenset[str]:
    entry = OBJECTIVES[objective]
    taken = entry.taken if isinstance(entry, ObjectiveEntry) else frozenset()
    return taken | {*DENOISING} if objective == "slider" and config.folders_at_ends() else taken


def _default(name: str) -> Any:
    return TrainConfig.model_fields[name].get_default(call_default_factory=True)


def config_class(objective: str) -> type[TrainConfig]:
    """The class of a run's config: `TrainConfig`, with those of an objective that was added to the table since."""
    options = OBJECTIVES[objective].options if objective in OBJECTIVES else None
    if options is None or issubclass(TrainConfig, options):
        return TrainConfig
    return type("TrainConfig", (options, TrainConfig), {"__doc__": TrainConfig.__doc__})
