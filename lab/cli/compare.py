"""`lab compare`: what variants change, how much, and how sure that is."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lab.cli.flags import ConfigFlag, ModelFlags, SamplingFlags, ScoreFlags, TextFlags, given
from lab.comparing.axes import AXES
from lab.comparing.config import CompareConfig, ExperimentOptions, read_axes, stand_in
from lab.condition.config import TextOptions
from lab.errors import InputError
from lab.files import check_writable
from lab.models.config import ModelOptions
from lab.models.facts import read_facts
from lab.sample.config import SamplingOptions
from lab.score.config import ScoreOptions
from lab.terminal import Bars, is_first, own_device

if TYPE_CHECKING:
    from lab.comparing.effects import EffectSentence

MOST_SENTENCES = 16
"""Sentences up to which all are printed."""

ExperimentFlags = Annotated[ExperimentOptions, Parameter(name="*", group="What is compared")]
Assignments = Annotated[list[str] | None, Parameter(group="What is compared", negative=())]
AxisFlag = Annotated[
    list[str] | None,
    Parameter(
        group="What is compared",
        negative=(),
        help=f"""What varies, as NAME=VALUE,VALUE: guidance=1-10 [4], or negative_prompt=,"blurry, noisy". Repeatable.
        [choices: {", ".join(AXES)}]""",
    ),
]


def compare(
    *,
    prompt: Assignments = None,
    axis: AxisFlag = None,
    baseline: Assignments = None,
    experiment: ExperimentFlags = ExperimentOptions(),
    score: ScoreFlags = ScoreOptions(),
    sampling: SamplingFlags = SamplingOptions(),
    text: TextFlags = TextOptions(),
    model: ModelFlags = ModelOptions(),
    config: ConfigFlag = None,
) -> None:
    """Compare what embeddings, prompts and settings do, in pairs of images with the same noise.

    The same command again goes on where it was interrupted.

    Parameters
    ----------
    prompt: What the images show; repeatable.
    baseline: The value of an axis to compare with, as NAME=VALUE; by default its first. Repeatable.
    """
    over: dict[str, Any] = given(experiment, score, sampling, text, model)
    over |= {"prompts": prompt} if prompt else {}
    over |= {"axes": _assigned("axis", axis)} if axis else {}
    over |= {"baseline": _assigned("baseline", baseline)} if baseline else {}
    settings = CompareConfig.read(config, over)
    read_axes(stand_in(settings))  # what is wrong is told before the engine is imported
    check_writable(settings.out or Path("outputs"))
    with Bars() as bars:
        facts = read_facts(settings, bars)
        from lab.comparing.cells import check_cells_by_configs
        from lab.comparing.compare import compare as run
        from lab.comparing.experiment import Experiment
        from lab.models.load import load_options

        check_cells_by_configs(facts, Experiment(settings), bars)
        here = settings.model_copy(update={"device": own_device(settings.device)})
        bundle = load_options(here, bars, facts)
        report = run(bundle, settings, listener=bars)
    if is_first():
        _print(report.sentences)
        print(f"Open {report.page.resolve().as_uri()}")


def _print(sentences: Sequence["EffectSentence"]) -> None:
    """Prints all sentences of a small comparison, and of a large one those that say something."""
    clear = [sentence for sentence in sentences if sentence.clear]
    shown = sentences if len(sentences) <= MOST_SENTENCES else clear
    for sentence in shown:
        print(sentence.text)
    if len(shown) < len(sentences):
        print(f"{len(clear)} of {len(sentences)} effects are clear; the report has them all.")


def _assigned(flag: str, texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--{flag} {text}: expected NAME=VALUE")
        found[name.strip().replace("-", "_")] = value
    return found
