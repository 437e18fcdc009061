"""`lab generate`: prompts x seeds into a folder of images."""

from pathlib import Path

from lab.cli.flags import ConfigFlag, ModelFlags, PromptFlags, SamplingFlags, TextFlags, given
from lab.condition.config import TextOptions
from lab.files import check_writable
from lab.models.config import ModelOptions
from lab.models.facts import read_facts
from lab.sample.config import GenerateConfig, PromptOptions, SamplingOptions, read_prompts, requests
from lab.sample.settings import check_requests_by_configs
from lab.terminal import Bars, is_first, own_device
from lab.text import counted


def generate(
    *,
    prompts: PromptFlags = PromptOptions(),
    sampling: SamplingFlags = SamplingOptions(),
    text: TextFlags = TextOptions(),
    model: ModelFlags = ModelOptions(),
    config: ConfigFlag = None,
) -> None:
    """Make images from prompts. The same command again goes on where it was interrupted."""
    settings = GenerateConfig.read(config, given(prompts, sampling, text, model))
    read_prompts(settings)  # what is wrong is told before the engine is imported
    check_writable(settings.out or Path("outputs"))
    with Bars() as bars:
        facts = read_facts(settings, bars)
        check_requests_by_configs(facts, requests(settings), listener=bars)
        from lab.models.load import load_options
        from lab.sample.generate import generate_to_disk

        here = settings.model_copy(update={"device": own_device(settings.device)})
        bundle = load_options(here, bars, facts)
        results = generate_to_disk(bundle, settings, bars)
    if is_first():
        print(f"{counted(len(results), 'image')} in {results.folder}; index.html shows them")
