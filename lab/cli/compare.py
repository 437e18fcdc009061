"""`lab compare`: what variants change, how much, and how sure that is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lab.cli.flags import ConfigFlag, ModelFlags, SamplingFlags, TextFlags, given
from lab.comparing.config import CompareConfig, ExperimentOptions
from lab.condition.config import TextOptions
from lab.errors import InputError
from lab.models.config import ModelOptions
from lab.sample.config import SamplingOptions
from lab.score.config import ScoreOptions
from lab.terminal import Bars, is_first, own_device

if TYPE_CHECKING:
    from lab.comparing.sentences import Answer

MOST_ANSWERS = 16
"""Sentences up to which all are printed."""

ExperimentFlags = Annotated[ExperimentOptions, Parameter(name="*", group="What is compared")]
ScoreFlags = Annotated[ScoreOptions, Parameter(name="*", group="How it is judged")]
Assignments = Annotated[list[str] | None, Parameter(group="What is compared", negative=())]


def compare(
    *,
    prompt: Assignments = None,
    axis: Assignments = None,
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
    axis: What varies, as NAME=VALUE,VALUE: guidance=1-10 [4], or negative_prompt=,"blurry, noisy". Repeatable.
    baseline: The value of an axis to compare with, as NAME=VALUE; by default its first. Repeatable.
    """
    over: dict[str, Any] = given(experiment, score, sampling, text, model)
    over |= {"prompts": prompt} if prompt else {}
    over |= {"axes": _assigned("axis", axis)} if axis else {}
    over |= {"baseline": _assigned("baseline", baseline)} if baseline else {}
    settings = CompareConfig.read(config, over)
    from lab.comparing.compare import compare as run
    from lab.models.load import load_options

    bundle = load_options(settings.model_copy(update={"device": own_device(settings.device)}))
    with Bars() as bar:
        report = run(bundle, settings, on_progress=bar.progress, on_note=bar.note)
    if not is_first():
        return
    _print(report.sentences)
    print(f"Open {report.page.resolve().as_uri()}")


def _print(answers: Sequence["Answer"]) -> None:
    """Prints all sentences of a small comparison, and of a large one those that say something."""
    clear = [answer for answer in answers if answer.clear]
    shown = answers if len(answers) <= MOST_ANSWERS else clear
    for answer in shown:
        print(answer.text)
    if len(shown) < len(answers):
        print(f"{len(clear)} of {len(answers)} effects are clear; the report has them all.")


def _assigned(flag: str, texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--{flag} {text}: expected NAME=VALUE")
        found[name.strip().replace("-", "_")] = value
    return found
