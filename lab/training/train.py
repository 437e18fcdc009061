"""`lab.train`: from a config to learned embeddings, with everything on disk that resumes and explains the run."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size

from lab.embeddings.embedding import Embedding
from lab.embeddings.library import Sources
from lab.errors import InputError
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.config import ModelOptions, check_for_loaded
from lab.models.patches import frozen
from lab.runs.run import text_digest
from lab.training.checkpoint import load_checkpoint
from lab.training.config import TrainConfig, config_class
from lab.training.counts import learn_counts
from lab.training.ends import learn_ends
from lab.training.estimate import what_would_fit
from lab.training.journal import Journal
from lab.training.loop import Ending, Loop
from lab.training.prepare import PreparedRun, prepare


def train(
    bundle: Bundle,
    config: TrainConfig | None = None,
    *,
    embeddings: Sources = (),
    listener: Listener = Listener(),
    **settings: Any,
) -> Embedding | list[Embedding]:
    """Learns embeddings from images (textual inversion, 2208.01618) or by a reward.

    The bundle is the same afterwards, to the bit: only the (n, width) vectors are parameters.

    Args:
        config: The settings. With `resume`, the run in that folder goes on, to the same bits on a CPU as if it had
            never been interrupted.
        embeddings: Embeddings, files and folders that captions, prompts and previews may name as `<name>`; what is in
            them stays as it is.
        listener: Hears notes, how many images are encoded, and a `TrainingStep` after each step.
        settings: Fields of `lab.TrainConfig`, on top of `config`: `images="folder", name="my-cat", steps=400`.
            `objective` is a name in `lab.training.objectives.objective.OBJECTIVES`. Which model, where and in which
            precision is the bundle's to say.

    Returns:
        The embedding, or a list if the config names several: the vectors of the best evaluation on the fixed
        examples, as NAME.safetensors in the run's folder holds them. With several numbers of `vectors`, those of the
        fewest that come near enough to the best.

    Raises:
        InputError: bad settings or data, a folder in use, a loss that is no number (the last good vectors are
            saved), vectors that never moved, or too little memory (with options that would need less).
        KeyboardInterrupt: after Ctrl-C, with a checkpoint saved.
    """
    check_for_loaded(bundle, settings)
    chosen = TrainConfig.given_with(config, settings)
    if "resume" not in chosen:  # what the run's config says of the model is what was loaded
        chosen = bundle.options.model_dump(include={*ModelOptions.model_fields} - {"device"}) | chosen
    config = config_class(str(chosen.get("objective"))).build(chosen)

    def learn_one(one: TrainConfig) -> Embedding | list[Embedding]:
        return learn(prepare(bundle, one, embeddings, listener), listener)

    config = learn_ends(config, learn_one, listener)
    return learn_counts(config, learn_one, listener) if len(config.counts) > 1 else learn_one(config)


def learn(run: PreparedRun, listener: Listener = Listener()) -> Embedding | list[Embedding]:
    """Carries out a run that `prepare` made, once.

    Returns:
        The embedding, or a list if the run learns several; see `train`.

    Raises:
        InputError: a folder in use or of another run, a loss that is no number (the last good vectors are saved),
            vectors that never moved, or too little memory (with options that would need less).
        KeyboardInterrupt: after Ctrl-C, or when the listener says so, with a checkpoint saved.
    """
    config, folder = run.config, run.folder
    accelerator = Accelerator(
        cpu=run.bundle.device.type == "cpu", log_with=list(config.track) or None, project_dir=str(folder.path)
    )
    loop = Loop(run.objective, run.learned, config, accelerator)
    journal = Journal(run, loop, accelerator, listener)
    first = accelerator.is_main_process  # the others neither write nor speak
    heard: Listener = journal if first else Listener()
    with folder.locked() if first else nullcontext():
        _open_folder(run, loop, journal, heard, first)
        for line in run.objective.skipped:
            heard.note(line)
        try:
            again = config.gradient_checkpointing and run.objective.layers_stay
            with frozen(run.bundle, again), interruption(heard) as interrupted:
                run.objective.start(run.learned, heard)
                if first:
                    journal.begin()
                ending = loop.run(heard, lambda: interrupted() or listener.stopping())
                if first:
                    journal.end(good=not ending.failed)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, MemoryError) or should_reduce_batch_size(error):
                raise InputError(what_would_fit(run.bundle, config)) from None
            raise
        if ending.interrupted:
            if first:
                journal.break_off()
            heard.note(f"Stopped at step {loop.state.step}; --resume {folder.path} goes on.")
            raise KeyboardInterrupt
        _finish(run, loop, journal, first, ending)
        accelerator.wait_for_everyone()
        learned = journal.read_embeddings()
        return learned[0] if len(learned) == 1 else learned


def _open_folder(run: PreparedRun, loop: Loop, journal: Journal, listener: Listener, first: bool) -> None:
    """Begins the run's folder, or goes on from its checkpoint."""
    folder = run.folder
    contents = {name: text_digest(text) for name, text in run.objective.fingerprint().items()}
    contents |= run.bundle.contents()
    resumed = run.config.resume is not None
    if resumed:
        folder.check_contents(contents)
    if not (resumed and folder.state.is_file()):
        if resumed:
            listener.note(f"{folder.path}: the run stopped before its first checkpoint, and begins anew.")
        elif first:
            folder.begin_run(run.config, contents)
        if resumed and first:
            folder.rewind_progress(0)
        for beginning in run.learned.beginnings.values():
            for line in beginning.describe():
                listener.note(line)
        return
    load_checkpoint(folder.state, loop)
    state, last = loop.state, loop.last_step
    if state.step >= last and journal.saved:
        raise InputError(
            f"{folder.path}: no steps left, {state.step} of {last} are done; give more --steps or a later --stop"
        )
    if first:
        folder.rewind_progress(state.step)
    listener.note(
        f"Going on at step {state.step} of {last}, with vectors, optimizer, schedule, random numbers and the order of "
        f"images as they were; best so far: step {state.best_step}."
    )


def _finish(run: PreparedRun, loop: Loop, journal: Journal, first: bool, ending: Ending) -> None:
    """Saves the vectors to keep, and says why the run stopped."""
    state, learned = loop.state, run.learned
    if not state.best and not ending.failed:
        raise InputError(f"{ending.reason}; it came so soon that there are no good vectors to keep")
    kept = state.best or learned.snapshot()
    step = state.best_step if state.best else state.step
    found = dict(state.evaluations).get(step)
    exact = found is not None and found["loss"] == 0  # a text of as many tokens begins at its own
    moved = learned.moved(kept) or exact
    verdict = ""
    if first and found and moved and not ending.failed:
        verdict = f" {run.objective.verdict(found, learned.embeddings(kept))}".rstrip()
    if first and (moved or ending.failed):
        status = f"Stopped at step {state.step}: {ending.reason}. Kept: step {step}.{verdict}"
        journal.save_embeddings(learned.embeddings(kept), step, status)
    rates = ", ".join(dict.fromkeys(f"{beginning.rate:g}" for beginning in run.learned.beginnings.values()))
    if ending.failed:
        raise InputError(
            f"learning_rate: {rates} is too high, {ending.reason}; the vectors of step {step} are kept in "
            f"{run.folder.path}"
        )
    if not moved:
        raise InputError(f"the vectors never moved: learning_rate is {rates}; nothing was learned")
    if first:
        line = f"Stopped at step {state.step}: {ending.reason}. The best vectors, of step {step}, are kept."
        journal.note(f"{line}{verdict}")


@contextmanager
def interruption(listener: Listener) -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether Ctrl-C or a termination signal came; a second one interrupts at once.

    So a step is finished and saved before the run ends. Outside the main thread signals keep their meaning.

    Args:
        listener: Hears of the first one, since a step, or what is drawn on the way, may take its time.
    """
    came: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)
        listener.note("Stopping after the next step, which is saved; interrupt once more to stop at once.")

    if current_thread() is not main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
