"""`lab train`: embeddings learned from images or by a reward."""

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated

from cyclopts import Parameter

from lab.cli.flags import ConfigFlag, ModelFlags, given
from lab.config import Config
from lab.models.config import ModelOptions
from lab.models.facts import read_facts
from lab.terminal import Bars, is_first, own_device
from lab.text import counted
from lab.training.config import DataOptions, LearningOptions, RunOptions, StopOptions, TrainConfig
from lab.training.objectives.objective import objective_options
from lab.training.run_folder import check_model, run_config

DataFlags = Annotated[DataOptions, Parameter(name="*", group="What is learned")]
LearningFlags = Annotated[LearningOptions, Parameter(name="*", group="How it is learned")]
StopFlags = Annotated[StopOptions, Parameter(name="*", group="When it stops")]
RunFlags = Annotated[RunOptions, Parameter(name="*", group="What is written")]


def train(
    *,
    data: DataFlags = DataOptions(),
    learning: LearningFlags = LearningOptions(),
    stop: StopFlags = StopOptions(),
    run: RunFlags = RunOptions(),
    model: ModelFlags = ModelOptions(),
    config: ConfigFlag = None,
    dry_run: Annotated[
        bool, Parameter(help="Prints captions, buckets, initial tokens, memory and time; no step.")
    ] = False,
    **objective: Config,
) -> None:
    """Learn an embedding from a folder of images, or a negative one by a reward.

    `--resume RUN` goes on with an interrupted run.
    """
    typed = given(data, learning, *objective.values(), stop, run, model)
    settings = run_config(TrainConfig.read(config, typed))
    with Bars() as bars:
        facts = read_facts(settings, bars)
        check_model(settings, facts)  # what is wrong is told before the engine is imported
        from lab.models.load import load_options
        from lab.training.prepare import describe_run
        from lab.training.train import train as learn

        device = own_device(settings.device)
        bundle = load_options(settings.model_copy(update={"device": device}), bars, facts)
        if dry_run:
            print("\n".join(describe_run(bundle, settings)))
            return
        learned = learn(bundle, settings, listener=bars)
    if is_first():
        for embedding in learned if isinstance(learned, list) else [learned]:
            page = (
                "index.html there"
                if len(settings.counts) == 1
                else f"vectors-{embedding.count}/index.html there"
            )
            print(f"<{embedding.name}>: {counted(embedding.count, 'vector')} in {settings.out}; see {page}")


def _with_options(command: Callable[..., None], classes: Iterable[type[Config]]) -> None:
    """Gives a command a group of flags for each class of options, in place of its `**` parameter."""
    groups = [
        inspect.Parameter(
            options.__name__,
            inspect.Parameter.KEYWORD_ONLY,
            default=options(),
            annotation=Annotated[options, Parameter(name="*", group=heading(options))],
        )
        for options in classes
    ]
    signature = inspect.signature(command)
    *own, _ = signature.parameters.values()
    command.__signature__ = signature.replace(parameters=[*own, *groups])  # type: ignore[attr-defined]


def heading(options: type[Config]) -> str:
    """The first line of a class' docstring, as the heading of its flags."""
    return (options.__doc__ or "").partition("\n")[0].removesuffix(".")


_with_options(train, objective_options())
