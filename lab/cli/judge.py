"""`lab judge`: whether an embedding helps, how much, and how sure that is."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lab.cli.flags import ConfigFlag, SamplingFlags, ScoreFlags, TextFlags, check_embeddings, given
from lab.condition.config import TextOptions
from lab.errors import InputError
from lab.files import check_writable, portable_name
from lab.judging.config import JudgeConfig, JudgingOptions
from lab.models.config import LoadingOptions, ModelOptions
from lab.models.facts import read_facts
from lab.sample.config import SamplingOptions
from lab.score.config import ScoreOptions
from lab.terminal import Bars, is_first, own_device

JudgingFlags = Annotated[JudgingOptions, Parameter(name="*", group="What is judged, and by what")]
LoadingFlags = Annotated[LoadingOptions, Parameter(name="*", group="Model")]


def judge(
    *file: str,
    judging: JudgingFlags = JudgingOptions(),
    score: ScoreFlags = ScoreOptions(),
    sampling: SamplingFlags = SamplingOptions(),
    text: TextFlags = TextOptions(),
    loading: LoadingFlags = LoadingOptions(),
    config: ConfigFlag = None,
) -> None:
    """Say whether an embedding helps, and stop as soon as that is sure; the same command goes on where it was.

    Parameters
    ----------
    file: Embeddings: files of any layout, FILE=name, or hub:org/name; several are ranked.
    """
    over = given(judging, score, sampling, text, loading)
    settings = JudgeConfig.read(config, over | ({"file": list(file)} if file else {}))
    if not settings.file:
        raise InputError("lab judge: name at least one embedding file")
    check_embeddings(settings.file)
    check_writable(settings.out or Path("outputs"))
    options = {name: getattr(settings, name) for name in LoadingOptions.model_fields}
    with Bars() as bars:
        models = [ModelOptions.build(options | {"model": source}) for source in settings.model]
        facts = [read_facts(model, bars) for model in models]
        from lab.judging.judge import check_before_weights, judge_to_folder
        from lab.models.load import load_options

        check_before_weights(settings, facts)
        here = settings.model_copy(update={"device": own_device(settings.device)})
        first = load_options(models[0].model_copy(update={"device": here.device}), bars, facts[0])
        cards, out = judge_to_folder([first, *settings.model[1:]], settings.file, here, bars)
    if is_first():
        for card in cards:
            print(*card["sentences"], sep="\n")
            print(f"Open {(out / portable_name(card['name'])).resolve().as_uri()}.card.html")
        print(f"The cards in {out} go beside the files; lab inspect shows them.")
