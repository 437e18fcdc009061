"""From a config to a run that is checked and ready, and what a run would do, before it does it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from lab.embeddings.embedding import Embedding
from lab.embeddings.layouts import WRITABLE
from lab.embeddings.layouts import check_place as check_layout_place
from lab.embeddings.library import Sources, collect
from lab.errors import InputError, did_you_mean
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.device import gigabytes
from lab.models.vocabulary import embedding_rms
from lab.score.clip import Clip, open_clip
from lab.training.config import Subject, TrainConfig
from lab.training.data.worst import describe_worst, make_worst
from lab.training.estimate import check_memory, peak_memory, seconds_per_step
from lab.training.learned import Beginning, Initial, Learned, initial_vectors, nearest_words
from lab.training.objectives.contrastive import contrastive_initial
from lab.training.objectives.objective import Objective, find_objective
from lab.training.places import placed
from lab.training.run_folder import TrainingFolder, check_model, run_config

BEHIND = 0.3
"""The default learning rate behind the text encoder in units of that in front of it, each in units of what is learned:
of 1, 0.3, 0.1 and 0.03 the one by which the bundled model learns a thing soonest."""


@dataclass(frozen=True)
class PreparedRun:
    """A run that is checked and ready: nothing is learned yet.

    Attributes:
        objective: What is learned for, with its data read.
        learned: The vectors, where they begin.
        clip: What judges previews by the images that are learned from, if there is one.
        embeddings: Others that captions and prompts may name.
    """

    bundle: Bundle
    config: TrainConfig
    objective: Objective[Any]
    learned: Learned
    clip: Clip | None
    embeddings: Mapping[str, Embedding]

    @property
    def folder(self) -> TrainingFolder:
        """Where the run writes."""
        assert self.config.out is not None
        return TrainingFolder(self.config.out)


def prepare(
    bundle: Bundle,
    config: TrainConfig,
    embeddings: Sources = (),
    listener: Listener = Listener(),
) -> PreparedRun:
    """Reads and checks what a config names, and finds the first vectors.

    With `worst_of`, the images are made now, in the run's folder; made before, they are found there.

    Args:
        embeddings: See `lab.train`.
        listener: Hears how images are made.

    Raises:
        InputError: anything that would fail later: images, captions, names, objectives, initial vectors, learning
            rates, trackers, layout, memory, a folder that cannot be resumed.
    """
    config = run_config(config)
    if config.resume is None:  # goes on in the precision that it began in, wherever that is
        config = config.model_copy(update={"dtype": bundle.precision})
    subjects = all_subjects(config)
    library = collect(config.embeddings, embeddings)
    check_trackers(config.track)
    check_model(config, bundle.facts)
    check_embedding_names(bundle, [subject.name for subject in subjects], library, config.overwrite_token)
    check_kept(config)
    if config.worst_of is not None:
        config = make_worst(bundle, config, library, listener)
    objective = find_objective(config.objective)(bundle, config, library)
    clip = open_clip(bundle, config.clip)
    partners = _partners(config)
    beginnings = []
    for number, subject in enumerate(subjects, start=1):
        initial = _initial(objective, subject, clip, _taken(objective, subjects[:number]))
        rate = learning_rate(bundle, config, subject, initial)
        sort = find_objective(subject.objective).kind
        beginnings.append(Beginning(subject.name, sort, initial, rate, partners.get(subject.name)))
    check_rates(beginnings)
    learned = Learned(bundle, beginnings)
    check_layout(config, learned)
    check_memory(bundle, config)
    return PreparedRun(bundle, config, objective, learned, clip, library)


def check_kept(config: TrainConfig) -> None:
    """Refuses to keep what cannot be looked at.

    Raises:
        InputError: so it is.
    """
    for option in ("gradient_checkpointing", "compile"):
        if config.keep_attention and getattr(config, option):
            raise InputError(
                f"{option}: hides what the U-Net's layers attend to; leave it or --keep-attention out"
            )


BY_IMAGES = ("auto", "contrastive", "cross")
"""Beginnings at words that are found in the images."""


def _taken(objective: Objective[Any], subjects: Sequence[Subject]) -> int:
    """How many words found in the very pictures of the last embedding those before it begin at: two things that begin
    alike would be learned alike. Parts that masks cut out are nobody else's."""
    *before, last = subjects
    shown = objective.shown(last.name)
    return sum(
        one.vectors
        for one in before
        if one.init in BY_IMAGES
        and find_objective(one.objective).images_show_it
        and objective.shown(one.name) == shown
    )


def _initial(objective: Objective[Any], subject: Subject, clip: Clip | None, taken: int) -> Initial:
    """Where an embedding begins, in its place."""
    bundle, config, kind = objective.bundle, objective.config, find_objective(subject.objective)
    generator = config.generator("init", subject.name)
    own = objective if kind is type(objective) else kind
    images = objective.shown(subject.name)
    words = nearest_words(bundle, clip, images, skip=taken) if clip and images else None
    auto = words if words and kind.images_show_it else own.word
    nearer = subject.init == "contrastive"
    initial = initial_vectors(bundle, "auto" if nearer else subject.init, subject.vectors, generator, auto)
    if nearer:
        initial = contrastive_initial(bundle, clip, images, initial, generator)
    return initial._replace(vectors=placed(bundle, initial.vectors, config.place, config.clip_skip))


def all_subjects(config: TrainConfig) -> list[Subject]:
    """Every embedding that a run learns: those that captions name, then what the objective brings along.

    Raises:
        InputError: an unknown objective.
    """
    subjects = config.subjects()
    for subject in subjects:
        find_objective(subject.objective)
    partner = find_objective(config.objective).partner(config)
    return [*subjects, partner] if partner else subjects


def _partners(config: TrainConfig) -> dict[str, str]:
    """Of each half of a pair, the other."""
    first, partner = config.subjects()[0].name, find_objective(config.objective).partner(config)
    return {first: partner.name, partner.name: first} if partner else {}


def check_embedding_names(
    bundle: Bundle, names: Sequence[str], library: Mapping[str, Embedding], overwrite: bool
) -> None:
    """Checks the names of the embeddings of a run.

    Args:
        library: Other embeddings that captions may name.
        overwrite: Allows words of the model's vocabulary.

    Raises:
        InputError: a name given twice, or one that another embedding has, or that is a word already.
    """
    tokenizer = bundle.towers[0].tokenizer
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"name: '{name}' is given to two embeddings")
        if name in library:
            raise InputError(
                f"name: '{name}' is the name of an embedding that captions may use; take another"
            )
        ids = tokenizer(name, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and not overwrite:
            raise InputError(
                f"name: '{name}' is a word that {bundle.source} knows; take another name, or --overwrite-token"
            )


def check_trackers(names: Sequence[str]) -> None:
    """Checks that trackers can be had.

    Raises:
        InputError: one that Accelerate does not know, with the nearest names, or whose package is not installed.
    """
    installed = {tracker.value for tracker in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise InputError(
                f"track: Accelerate has no tracker '{name}'{did_you_mean(name, LOGGER_TYPE_TO_CLASS)}"
            )
        if name not in installed:
            raise InputError(f"track: '{name}' is not installed; pip install {name}")


def check_layout(config: TrainConfig, learned: Learned) -> None:
    """Checks that the file layout has room for the vectors, by asking its writer.

    Raises:
        InputError: it has not.
    """
    if config.layout is None:
        return
    write = WRITABLE[config.layout].write
    assert write is not None, "all in this table have one"
    for embedding in learned.embeddings():
        try:
            check_layout_place(config.layout, embedding.place)
            write(embedding, embedding.vectors)
        except InputError as error:
            raise InputError(f"layout: {error}") from None


def learning_rate(bundle: Bundle, config: TrainConfig, subject: Subject, initial: Initial) -> float:
    """The learning rate of an embedding: its own, or the run's, or else one that suits the size of the vocabulary's
    vectors; behind the text encoder of those that it begins at."""
    asked = next((rate for rate in (subject.learning_rate, config.learning_rate) if rate is not None), None)
    if asked is not None:
        return asked
    if config.place == "output":
        scales = [BEHIND * float(rows.square().mean().sqrt()) for rows in initial.vectors.values()]
    else:
        scales = [embedding_rms(tower.encoder) for tower in bundle.towers]
    return find_objective(config.objective).rate * sum(scales) / len(scales)


def check_rates(beginnings: Sequence[Beginning]) -> None:
    """Refuses to learn nothing.

    Raises:
        InputError: all learning rates are 0.
    """
    if not any(beginning.rate for beginning in beginnings):
        raise InputError(
            "learning_rate: with 0, vectors never move; give a larger one, or none for the default"
        )


def describe_run(bundle: Bundle, config: TrainConfig, embeddings: Sources = ()) -> Iterator[str]:
    """Yields what a run would learn from, its initial tokens, and estimates of memory and time.

    Raises:
        InputError: what would stop the run.
    """
    if len(config.counts) > 1:
        yield f"once with each number of vectors: {config.vectors}; here with {config.counts[-1]}"
        config = config.model_copy(update={"vectors": config.counts[-1]})
    if config.worst_of is not None:  # nothing can be said of images before they are made
        yield from describe_worst(bundle, config)
    else:
        run = prepare(bundle, config, embeddings)
        yield from run.objective.describe()
        for beginning in run.learned.beginnings.values():
            yield from beginning.describe()
            yield f"learning rate: {beginning.rate:.3g}"
    seconds = seconds_per_step(bundle, config)
    yield f"memory: about {gigabytes(peak_memory(bundle, config))} at the peak on {bundle.device}"
    if seconds:
        whole = _minutes(seconds * config.steps)
        yield f"time: about {seconds:.2g} s a step, so at most {whole} for {config.steps} steps"
    else:
        yield f"time: little, the U-Net takes no part; at most {config.steps} steps"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
