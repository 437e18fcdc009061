"""`lab generate`: prompts x seeds into a folder of images."""

from lab.cli.flags import ConfigFlag, ModelFlags, PromptFlags, SamplingFlags, TextFlags, given
from lab.condition.config import TextOptions
from lab.models.config import ModelOptions
from lab.sample.config import GenerateConfig, PromptOptions, SamplingOptions, read_prompts
from lab.terminal import Bars


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
    read_prompts(settings)  # what is wrong with them is told before the model is loaded
    from lab.models.load import load_options
    from lab.sample.generate import generate_to_disk

    with Bars() as bars:
        bundle = load_options(settings, bars)
        results = generate_to_disk(bundle, settings, bars)
    print(f"{len(results)} images in {results.folder}; index.html shows them")
