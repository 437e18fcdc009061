"""`lab.encode`: prompts and learned embeddings to what conditions the U-Net."""

from collections.abc import Sequence
from typing import Any, overload

from lab.condition.conditioning import Conditioning
from lab.condition.config import TextOptions
from lab.condition.prompt_encoder import PromptEncoder
from lab.embeddings.library import Sources, collect
from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.models.config import check_for_loaded
from lab.text import check_prompt


@overload
def encode(
    bundle: Bundle,
    prompt: str,
    config: TextOptions | None = None,
    *,
    embeddings: Sources = (),
    steps: int = 20,
    **settings: Any,
) -> Conditioning: ...
@overload
def encode(
    bundle: Bundle,
    prompt: Sequence[str],
    config: TextOptions | None = None,
    *,
    embeddings: Sources = (),
    steps: int = 20,
    **settings: Any,
) -> list[Conditioning]: ...
def encode(
    bundle: Bundle,
    prompt: str | Sequence[str],
    config: TextOptions | None = None,
    *,
    embeddings: Sources = (),
    steps: int = 20,
    **settings: Any,
) -> Conditioning | list[Conditioning]:
    """Encodes one prompt, or several at once, which is faster.

    Args:
        embeddings: What `<name>` and `embedding:name` in the prompts may refer to: `Embedding` values, files,
            folders, or a mapping from names. What no prompt names is not read from a folder.
        steps: Denoising steps, over which schedules are resolved; twice as many for Heun.
        settings: Fields of `TextOptions`, on top of `config`: `dialect` ("a1111"), `weighting` (the dialect's own),
            `clip_skip` (0 to 11 layers left out at the text encoder's end; A1111 shows one more), `bare_names`,
            `comma_backtrack`, `keep_words`.

    Returns:
        One `Conditioning` for a text, a list for a list.

    Raises:
        InputError: a name that no embedding has, an embedding made for another family, a clip skip or a weight
            out of range, an unknown option.
    """
    check_for_loaded(bundle)
    given = TextOptions.given_with(config, settings)
    asked = TextOptions.model_fields.keys() | settings.keys()  # a config may have other options besides
    options = TextOptions.build({name: value for name, value in given.items() if name in asked})
    if not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps: expected a whole number of at least 1, not {steps!r}")
    library = collect(options.embedding, options.embeddings, embeddings)
    prompts = [check_prompt(one) for one in (prompt if isinstance(prompt, (list, tuple)) else [prompt])]
    made = PromptEncoder(bundle, library, options, steps).encode(prompts)
    return made[prompt] if isinstance(prompt, str) else [made[text] for text in prompts]
