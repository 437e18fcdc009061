"""From a config to a run that is checked and ready to start."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lab.embeddings.embedding import Kind
from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.sample.engine import Note
from lab.score.clip import Clip, open_clip
from lab.training.config import FREE_TO_CHANGE, Subject, TrainConfig
from lab.training.data.captions import placeholder
from lab.training.data.worst import describe_worst, with_worst
from lab.training.estimate import gigabytes, peak_memory, seconds_per_step
from lab.training.folder import fresh_folder, resumed
from lab.training.objectives.table import Material, all_subjects, find_objective
from lab.training.streams import stream
from lab.training.tracking import check_trackers
from lab.training.vectors import Initial, initial_vectors, vocabulary_scale
from lab.training.words import nearest_words


def check_names(bundle: Bundle, names: Sequence[str], overwrite: bool) -> None:
    """Checks the names of the embeddings of a run.

    Args:
        overwrite: Allows words of the model's vocabulary.

    Raises:
        InputError: a name given twice, or one that is a word already.
    """
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"name: '{name}' is given to two embeddings")
        tokenizer = bundle.towers[0].tokenizer
        ids = tokenizer(name, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and not overwrite:
            raise InputError(
                f"name: '{name}' is a word that {bundle.source} knows; take another name, or --overwrite-token"
            )


@dataclass(frozen=True)
class Prepared:
    """A run that is checked and ready: nothing is learned yet.

    Attributes:
        data: What is learned from.
        initial: The first vectors of each embedding, by its name.
        rates: The learning rate of each.
        kinds: What each is to become.
        partners: Of each half of a pair, the other.
    """

    config: TrainConfig
    data: Material
    initial: Mapping[str, Initial]
    rates: Mapping[str, float]
    kinds: Mapping[str, Kind]
    partners: Mapping[str, str]
    clip: Clip | None


def settled(config: TrainConfig) -> TrainConfig:
    """The config to run with: of the run that is resumed, or as given, with its folder chosen.

    Raises:
        InputError: no name, images from two sources, or settings that the resumed run does not have.
    """
    if config.resume is not None:
        return resumed(config, FREE_TO_CHANGE)
    if config.name is None:
        raise InputError("name: there is none; say with --name what prompts will call the embedding")
    if config.worst_of is not None and config.images is not None:
        raise InputError("images: come from a folder or are made with --worst-of; leave one of them out")
    return config if config.out else config.model_copy(update={"out": fresh_folder(config.name)})


def prepare(bundle: Bundle, config: TrainConfig, on_note: Note | None = None) -> Prepared:
    """Reads and checks what a settled config names, and finds the first vectors.

    With `worst_of`, the images are made now, in the run's folder; made before, they are found there.

    Raises:
        InputError: anything that would fail later: images, captions, names, objectives, initial vectors, learning
            rates, trackers.
    """
    subjects = all_subjects(config)
    check_trackers(config.track)
    check_names(bundle, [subject.name for subject in subjects], config.overwrite_token)
    if config.worst_of is not None:
        config = with_worst(bundle, config, on_note)
    data = find_objective(config.objective).read(bundle, config)
    clip = open_clip(bundle, config.clip)
    return Prepared(
        config,
        data,
        _first_vectors(bundle, config, subjects, data, clip),
        _rates(bundle, config, subjects),
        {subject.name: find_objective(subject.objective).kind for subject in subjects},
        _partners(config),
        clip,
    )


def _first_vectors(
    bundle: Bundle, config: TrainConfig, subjects: Sequence[Subject], data: Material, clip: Clip | None
) -> dict[str, Initial]:
    nearest = nearest_words(bundle, clip, data.images) if clip and data.images else None
    initial = {}
    for subject in subjects:
        objective = find_objective(subject.objective)
        initial[subject.name] = initial_vectors(
            bundle,
            subject.init,
            subject.vectors,
            stream(config.seed, "init", subject.name),
            nearest if objective.shown else None,
            objective.word,
        )
    return initial


def _partners(config: TrainConfig) -> dict[str, str]:
    first = config.subjects()[0].name
    others = [subject.name for subject in find_objective(config.objective).partner(config)]
    return {first: others[0], others[0]: first} if others else {}


def _rates(bundle: Bundle, config: TrainConfig, subjects: Sequence[Subject]) -> dict[str, float]:
    """The learning rate of each embedding: its own, or else the run's, or else one that suits the vocabulary."""
    scales = [vocabulary_scale(tower.encoder) for tower in bundle.towers]
    usual = find_objective(config.objective).rate * sum(scales) / len(scales)
    asked = {subject.name: (subject.learning_rate, config.learning_rate, usual) for subject in subjects}
    chosen = {name: next(rate for rate in rates if rate is not None) for name, rates in asked.items()}
    if not any(chosen.values()):
        raise InputError(
            "learning_rate: with 0, vectors never move; give a larger one, or none for the default"
        )
    return chosen


def describe_plan(bundle: Bundle, config: TrainConfig) -> Iterator[str]:
    """Yields what a settled config learns from, its initial tokens, and estimates of memory and time.

    Raises:
        InputError: what would stop the run.
    """
    if config.worst_of is not None:  # nothing can be said of images before they are made
        yield from describe_worst(bundle, config)
    else:
        prepared = prepare(bundle, config)
        yield from prepared.data.describe()
        for name, initial in prepared.initial.items():
            yield from describe_initial(name, initial.origins)
            yield f"learning rate: {prepared.rates[name]:.3g}"
    work = find_objective(config.objective).work
    seconds = seconds_per_step(bundle, config, work)
    yield f"memory: about {gigabytes(peak_memory(bundle, config, work))} at the peak on {bundle.device}"
    yield f"time: about {seconds:.2g} s a step, so at most {_minutes(seconds * config.steps)} for {config.steps} steps"


def describe_initial(name: str, origins: tuple[str, ...]) -> Iterator[str]:
    """Yields which tokens the vectors of an embedding begin at."""
    yield f"{placeholder(name)} begins at:"
    for position, origin in enumerate(origins, start=1):
        yield f"  vector {position}: {origin}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
