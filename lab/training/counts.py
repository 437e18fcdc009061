"""How many vectors a text or a slider takes: a run for each of several numbers, and the fewest that do nearly what the
best do."""

from collections.abc import Callable, Mapping

from lab.embeddings.embedding import Embedding
from lab.embeddings.read import read_file
from lab.errors import InputError
from lab.files import atomic
from lab.listening import Listener
from lab.terminal import is_first
from lab.text import counted
from lab.training.checkpoint import embedding_file
from lab.training.config import TrainConfig
from lab.training.objectives.objective import find_objective
from lab.training.run_folder import TrainingFolder, run_config

Learned = Embedding | list[Embedding]


def learn_counts(
    config: TrainConfig, learn: Callable[[TrainConfig], Learned], listener: Listener = Listener()
) -> Learned:
    """Learns with each of the config's numbers of vectors, in a folder of its own, and tells how much each does.

    What is kept is copied into the run's folder beside these. Where there are such runs already, those that ended are
    taken as they are, and one that was interrupted goes on.

    Args:
        learn: Carries out a run with one number of vectors.
        listener: Hears the share of the effect aimed at that each number has, and which is kept.

    Returns:
        What the run learned that has the fewest vectors within `tolerance` of the best.

    Raises:
        InputError: an objective that measures no share of an effect, or a folder that holds runs with other settings.
        KeyboardInterrupt: after Ctrl-C, with what was learned so far on disk.
    """
    if "explained" not in find_objective(config.objective).watched:
        raise InputError(
            f"vectors: several numbers are for --objective text and slider; with {config.objective} give one"
        )
    config = run_config(config)
    assert config.out is not None, "run_config chooses one"
    runs = {
        count: config.model_copy(update={"vectors": count, "out": config.out / f"vectors-{count}"})
        for count in config.counts
    }
    folders = {count: TrainingFolder(config.out / f"vectors-{count}") for count in runs}
    try:
        learned = {count: learn_or_go_on(run, folders[count], learn) for count, run in runs.items()}
    except KeyboardInterrupt:
        listener.note(f"The same command with --out {config.out} goes on with all numbers of vectors.")
        raise
    shares = {count: best_share(folder) for count, folder in folders.items()}
    chosen = fewest(shares, config.tolerance)
    for count, share in shares.items():
        mark = " (kept)" * (count == chosen)
        listener.note(f"{counted(count, 'vector')}: {100 * share:.1f} % of what is aimed at{mark}")
    kept = learned[chosen]
    for embedding in kept if isinstance(kept, list) else [kept]:
        path = embedding.provenance.path
        if path is not None and is_first():
            with atomic(config.out / path.name) as temporary:
                temporary.write_bytes(path.read_bytes())
    return kept


def learn_or_go_on(
    config: TrainConfig, folder: TrainingFolder, learn: Callable[[TrainConfig], Learned]
) -> Learned:
    """What a run learns, one of several that make up a command: it begins, goes on, or ended before.

    Raises:
        InputError: the folder holds a run with other settings.
    """
    if not folder.exists:
        return learn(config)
    before = folder.read_config()
    resumed = config.model_copy(update={"resume": folder.path, "dtype": before.dtype})
    run_config(resumed)  # refuses other settings
    files = [embedding_file(folder.path / subject.name, before.layout) for subject in before.subjects()]
    if not all(file.is_file() for file in files):
        return learn(resumed)
    found = [read_file(file) for file in files]
    return found[0] if len(found) == 1 else found


def best_share(folder: TrainingFolder) -> float:
    """The share of the effect (1 for all of it) at the lowest loss on the fixed examples, where vectors are kept."""
    lines = [line for line in folder.read_progress() if "fixed_explained" in line]
    return float(min(lines, key=lambda line: line["fixed_loss"])["fixed_explained"])


def fewest(shares: Mapping[int, float], tolerance: float) -> int:
    """The smallest number of vectors whose share is at most `tolerance` below the largest."""
    best = max(shares.values())
    return min(count for count, share in shares.items() if share >= best - tolerance)
