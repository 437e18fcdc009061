"""`lab compose`: prompts from keywords."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lab.cli.flags import ConfigFlag, ModelFlags, given
from lab.files import atomic, check_writable
from lab.models.config import ModelOptions
from lab.models.facts import ModelFacts, read_facts
from lab.sample.config import GenerateConfig, requests
from lab.sample.settings import check_requests_by_configs
from lab.search.chat import ask
from lab.search.config import ChatOptions, ComposeConfig, ComposeOptions
from lab.terminal import Bars, console, say
from lab.text import counted

if TYPE_CHECKING:
    from lab.models.bundle import Bundle

ComposeFlags = Annotated[ComposeOptions, Parameter(name="*", group="What prompts are put together from")]
ChatFlags = Annotated[ChatOptions, Parameter(name="*", group="A chat server in the library's place")]


def compose(
    *,
    what: ComposeFlags = ComposeOptions(),
    chat: ChatFlags = ChatOptions(),
    model: ModelFlags = ModelOptions(),
    config: ConfigFlag = None,
) -> None:
    """Write prompts about keywords: from a library's parts, or by a chat server."""
    settings = ComposeConfig.read(config, given(what, chat, model))
    if settings.out is not None:
        check_writable(settings.out.parent)
    if settings.then_generate:
        check_writable(Path("outputs"))
    with Bars() as bars:
        facts = read_facts(settings, bars, without_vae=not settings.then_generate)
        drafts = ask(settings) if settings.chat_url is not None else None  # before the engine is imported
        from lab.models.load import load_options
        from lab.search.compose import compose as run

        bundle = load_options(settings, bars, facts, text_only=not settings.then_generate)
        prompts = run(bundle, settings, drafts=drafts, listener=bars)
    print(*prompts, sep="\n", flush=True)
    if settings.out is not None:
        with atomic(settings.out) as path:
            path.write_text("\n".join([*prompts, ""]), encoding="utf-8")
        say(
            console,
            f"{settings.out}: {counted(len(prompts), 'prompt')}; lab generate --prompt-file takes them",
        )
    if settings.then_generate:
        _generate(bundle, facts, settings, prompts[: settings.then_generate])


def _generate(bundle: "Bundle", facts: ModelFacts, settings: ComposeConfig, prompts: list[str]) -> None:
    """Makes an image of each prompt, into a folder that what they are made of names."""
    from lab.sample.generate import generate_to_disk

    loaded = {name: value for name, value in settings.given().items() if name in ModelOptions.model_fields}
    images = GenerateConfig.build({**loaded, "prompt": prompts})
    check_requests_by_configs(facts, requests(images))
    with Bars() as bars:
        results = generate_to_disk(bundle, images, bars)
    say(console, f"{counted(len(results), 'image')} in {results.folder}; index.html shows them")
