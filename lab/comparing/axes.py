"""The axes: what can vary in a comparison, one table entry each.

The table is read without the engine: embedding files are read when an axis over them is.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_origin

from lab.comparing.axis_values import NONE, read_interval, read_numbers, read_texts, split_values
from lab.comparing.embedding_axes import (
    NamedEmbeddings,
    are_sources,
    filled,
    named_embeddings,
    saved_steps,
    tidy,
)
from lab.config import at_home
from lab.errors import InputError, given_twice
from lab.files import is_there
from lab.sample.config import GenerateConfig

NOT_GIVEN = "(not given)"
"""The label of null, which leaves an option out."""


@dataclass(frozen=True)
class CellDraft:
    """What one image is made from, before the embeddings of an axis are placed in its text.

    Attributes:
        settings: Fields of `GenerateConfig`, beside the prompt and the seed.
        embeddings: Names of the embeddings that an axis adds.
        weight: Of these embeddings in the prompt; 1 is as learned.
    """

    prompt: str
    seed: int
    settings: Mapping[str, Any]
    embeddings: tuple[str, ...] = ()
    weight: float = 1.0

    def with_setting(self, name: str, value: Any) -> "CellDraft":
        """The same with another value of a setting."""
        return replace(self, settings={**self.settings, name: value})

    def without_settings(self, names: Collection[str]) -> "CellDraft":
        """The same with settings left out, so that their defaults count."""
        return replace(
            self, settings={key: value for key, value in self.settings.items() if key not in names}
        )

    def with_embeddings(self, names: Sequence[str], files: Sequence[str]) -> "CellDraft":
        """The same with more embeddings in the prompt, some of them read from files (FILE or FILE=name)."""
        given = [*self.settings.get("embedding", ()), *files]
        return replace(self.with_setting("embedding", given), embeddings=(*self.embeddings, *names))


@dataclass(frozen=True)
class AxisValue:
    """One value of an axis.

    Attributes:
        label: As people write it.
        apply: Changes a draft accordingly.
    """

    label: str
    apply: Callable[[CellDraft], CellDraft]


@dataclass(frozen=True)
class Axis:
    """One axis, an entry of `AXES`.

    Attributes:
        read: Turns what an experiment gives it, a list or text, into values; raises ValueError where it cannot.
        replaces: The options that it varies, which the experiment therefore must not fix as well.
        excludes: The axes that it cannot be combined with.
        needs: Axes of which it needs one, or none.
        keeps_words: Images are to show what the baseline's prompt says, whatever the axis does to the text.
    """

    read: Callable[[Any], list[AxisValue]]
    replaces: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    keeps_words: bool = False


PLACES = ("model", "controlnet", "control_image")
"""The options whose values are files or folders, which may have a comma in their name."""


_NOTHING_WITHOUT = {"controlnet": ("control_image", "control_scale")}
"""By the option without which they say nothing: others that are left out with it."""


def option_axis(name: str) -> Axis:
    """The axis over an option of `GenerateConfig`, which says what values it takes.

    Of an option that is a number, values may be written as ranges (see `read_numbers`), of one that is an interval as
    `LOW HIGH`; null or `none` leaves an option out that need not be given.
    """
    annotation = GenerateConfig.model_fields[name].annotation
    number, optional = _number_type(annotation), type(None) in get_args(annotation)
    interval = any(get_origin(one) is tuple for one in get_args(annotation))

    def read(given: Any) -> list[AxisValue]:
        values = split_values(given, _is_place if name in PLACES else None)
        if number is not None:
            values = [one for value in values for one in _expanded(value, number is int)]
        return [value_of(value) for value in values]

    def value_of(value: Any) -> AxisValue:
        if value is None or (optional and isinstance(value, str) and value.strip().casefold() == NONE):
            left_out = (name, *_NOTHING_WITHOUT.get(name, ()))
            return AxisValue(NOT_GIVEN, lambda draft: draft.without_settings(left_out))
        if number is None and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)
        if interval:
            value = read_interval(value)
        checked = getattr(GenerateConfig.build({name: value}, where="axes"), name)
        return AxisValue(_label(checked), lambda draft: draft.with_setting(name, checked))

    return Axis(read, replaces=(name,))


def _is_place(text: str) -> bool:
    return is_there(at_home(Path(text.removeprefix("file:"))))


def _number_type(annotation: Any) -> type | None:
    """int or float for the annotation of an option that is one, or None."""
    types = get_args(annotation) or (annotation,)
    return next((one for one in (int, float) if one in types), None)


def _expanded(value: Any, whole: bool) -> list[Any]:
    return [None] if value is None or value == NONE else read_numbers(value, whole)


def _label(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_label, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read_prompts(given: Any) -> list[AxisValue]:
    def value_of(text: str) -> AxisValue:
        return AxisValue(text, lambda draft: replace(draft, prompt=text))

    return [value_of(text) for text in read_texts(given)]


def _read_fillings(given: Any) -> list[AxisValue]:
    """Texts that take the place of `{embedding}` in the prompt and the negative prompt."""

    def value_of(text: str) -> AxisValue:
        return AxisValue(text, lambda draft: _with_filling(draft, partial(filled, written=text)))

    return [value_of(text) for text in read_texts(given)]


def _read_left_out(given: Any) -> list[AxisValue]:
    """Words or embeddings that are taken out of the prompt's text; null for the whole prompt."""

    def value_of(text: str | None) -> AxisValue:
        if text is None:
            return AxisValue(NOT_GIVEN, lambda draft: draft)
        word = re.compile(rf"(?<!\w){re.escape(text)}(?!\w)", re.IGNORECASE)
        return AxisValue(text, lambda draft: replace(draft, prompt=tidy(word.sub("", draft.prompt))))

    return [value_of(None if one in (None, NONE) else str(one)) for one in split_values(given)]


def _with_filling(draft: CellDraft, fill: Callable[[str], str]) -> CellDraft:
    negative = draft.settings.get("negative_prompt")
    changed = replace(draft, prompt=fill(draft.prompt))
    return changed if negative is None else changed.with_setting("negative_prompt", fill(negative))


def _read_replacements(given: Any) -> list[AxisValue]:
    """As in A1111's X/Y/Z plot: the first text is looked for, and the others take its place."""
    texts = read_texts(given)
    if not texts or not texts[0]:
        raise ValueError("the first text is the one to look for, and it is empty")

    def value_of(text: str) -> AxisValue:
        return AxisValue(text, lambda draft: replace(draft, prompt=draft.prompt.replace(texts[0], text)))

    return [value_of(text) for text in texts]


def _read_seeds(given: Any) -> list[AxisValue]:
    def value_of(seed: int) -> AxisValue:
        return AxisValue(str(seed), lambda draft: replace(draft, seed=seed))

    return [value_of(seed) for seed in read_numbers(given, whole=True)]


def _read_embeddings(given: Any) -> list[AxisValue]:
    """`none` or null, a name, a file, or several joined by `+`."""

    def value_of(text: str) -> AxisValue:
        named = named_embeddings(text)
        return AxisValue(named.label, lambda draft: draft.with_embeddings(named.names, named.files))

    values = [NONE if one is None else one for one in split_values(given, are_sources)]
    return [value_of(text) for text in read_texts(values)]


def _read_checkpoints(given: Any) -> list[AxisValue]:
    """Folders of training runs: every step that is saved in them."""

    def value_of(named: NamedEmbeddings) -> AxisValue:
        return AxisValue(named.label, lambda draft: draft.with_embeddings(named.names, named.files))

    return [
        value_of(named)
        for folder in read_texts(split_values(given, is_there))
        for named in saved_steps(folder)
    ]


def _read_weights(given: Any) -> list[AxisValue]:
    def value_of(weight: float) -> AxisValue:
        return AxisValue(_label(weight), lambda draft: replace(draft, weight=weight))

    return [value_of(weight) for weight in read_numbers(given)]


EMBEDDING_AXES = ("embedding", "embedding_checkpoint")

AXES: dict[str, Axis] = {
    "prompt": Axis(_read_prompts, replaces=("prompts",), excludes=("prompt_replace",)),
    "prompt_replace": Axis(_read_replacements),
    "slot": Axis(
        _read_fillings, excludes=("embedding", "embedding_checkpoint", "negative_prompt"), keeps_words=True
    ),
    "knock_out": option_axis("knock_out"),
    "left_out": Axis(_read_left_out, excludes=("knock_out",), keeps_words=True),
    "negative_prompt": option_axis("negative_prompt"),
    "embedding": Axis(_read_embeddings, excludes=("embedding_checkpoint",)),
    "embedding_weight": Axis(_read_weights, needs=EMBEDDING_AXES),
    "embedding_checkpoint": Axis(_read_checkpoints),
    "model": option_axis("model"),
    "dialect": option_axis("dialect"),
    "weighting": option_axis("weighting"),
    "guidance": option_axis("guidance"),
    "guidance_rescale": option_axis("guidance_rescale"),
    "negative_method": option_axis("negative_method"),
    "negative_strength": option_axis("negative_strength"),
    "negative_interval": option_axis("negative_interval"),
    "steps": option_axis("steps"),
    "scheduler": option_axis("scheduler"),
    "clip_skip": option_axis("clip_skip"),
    "controlnet": option_axis("controlnet"),
    "control_image": option_axis("control_image"),
    "control_scale": option_axis("control_scale"),
    "seed": Axis(_read_seeds, replaces=("seeds",)),
}


def read_axis(name: str, given: Any) -> list[AxisValue]:
    """The values of an axis of the table.

    Args:
        given: A list of values, or text such as `1-10 [5]` or `a, "b, c"`.

    Raises:
        InputError: no value, one given twice, or one that cannot be read or that its option refuses.
    """
    try:
        values = AXES[name].read(given)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"axes: {name}: {error}") from None
    labels = [value.label for value in values]
    if not labels:
        raise InputError(f"axes: {name}: there is no value")
    twice = given_twice(labels)
    if twice is not None:
        raise InputError(f"axes: {name}: '{twice}' is given twice")
    return values
