"""The axes: what can vary in a comparison, one table entry each."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lab.comparing import values
from lab.embeddings.library import collect
from lab.embeddings.read import NEGATIVE_SUFFIX
from lab.errors import InputError

NONE = "none"


@dataclass(frozen=True)
class Draft:
    """What one image is made from, before embeddings are placed in its text.

    Attributes:
        settings: Fields of `GenerateConfig` on top of the experiment's own.
        embeddings: Names of the embeddings that an axis adds.
        weight: Of these embeddings in the prompt.
    """

    prompt: str
    seed: int
    settings: Mapping[str, Any]
    embeddings: tuple[str, ...] = ()
    weight: float = 1.0

    def having(self, **settings: Any) -> "Draft":
        """The same with other settings."""
        return replace(self, settings={**self.settings, **settings})


@dataclass(frozen=True)
class Choice:
    """One value of an axis.

    Attributes:
        label: As people write it.
        apply: Changes a draft accordingly.
    """

    label: str
    apply: Callable[[Draft], Draft]


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        choices: Reads the values that an experiment gives it.
        replaces: The options that it varies, which the experiment therefore must not fix as well.
        excludes: The axes that it cannot be combined with.
    """

    choices: Callable[[Any], list[Choice]]
    replaces: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()


def _setting(name: str, read: Callable[[Any], Sequence[Any]]) -> Axis:
    """An axis over an option of `GenerateConfig`."""

    def choose(value: Any) -> Choice:
        label = f"{value:g}" if isinstance(value, float) else str(value)
        return Choice(label, lambda draft: draft.having(**{name: value}))

    return Axis(lambda given: [choose(value) for value in read(given)], (name,))


def _prompts(given: Any) -> list[Choice]:
    def choose(text: str) -> Choice:
        return Choice(text, lambda draft: replace(draft, prompt=text))

    return [choose(text) for text in values.texts(given)]


def _replacements(given: Any) -> list[Choice]:
    """As in A1111's X/Y/Z plot: the first text is looked for, and the others take its place."""
    texts = values.texts(given)

    def choose(text: str) -> Choice:
        return Choice(text, lambda draft: replace(draft, prompt=draft.prompt.replace(texts[0], text)))

    if not texts or not texts[0]:
        raise ValueError("the first text is the one to look for, and it is empty")
    return [choose(text) for text in texts]


def _seeds(given: Any) -> list[Choice]:
    def choose(seed: int) -> Choice:
        return Choice(str(seed), lambda draft: replace(draft, seed=seed))

    return [choose(seed) for seed in values.integers(given)]


def _embeddings(given: Any) -> list[Choice]:
    """`none`, a name, a file, or several joined by `+`."""

    def choose(text: str) -> Choice:
        names: list[str] = []
        files: list[str] = []
        for term in (term.strip() for term in text.split("+")):
            if term.casefold() in (NONE, ""):
                continue
            source = term.rpartition("=")[0] or term
            if Path(source).exists() or source.startswith("hub:"):
                files.append(term)
                names += list(collect([term]))
            else:
                names.append(term.strip("<>"))
        shown = [name for name in names if not _is_half(name, names)]
        return Choice(
            "+".join(shown) or NONE,
            lambda draft: replace(_reading(draft, files), embeddings=(*draft.embeddings, *names)),
        )

    return [choose(text) for text in values.texts(given)]


def _checkpoints(given: Any) -> list[Choice]:
    """Every saved step of training runs: files NAME-STEP in their `checkpoints` folders, pairs with both halves."""

    def choose(step: str, saved: Mapping[str, Path]) -> Choice:
        files = [f"{file}={name}" for name, file in saved.items()]
        shown = "+".join(name for name in saved if not _is_half(name, saved))
        return Choice(
            f"{shown} step {int(step)}",
            lambda draft: replace(_reading(draft, files), embeddings=(*draft.embeddings, *saved)),
        )

    choices = []
    for text in values.texts(given):
        folder = Path(text) / "checkpoints"
        steps: dict[str, dict[str, Path]] = {}
        for path in sorted(folder.glob("*-*")):
            name, _, step = path.stem.rpartition("-")
            if step.isdigit():
                steps.setdefault(step, {})[name] = path
        if not steps:
            raise ValueError(f"{folder} holds no saved steps of a training run")
        choices += [choose(step, steps[step]) for step in sorted(steps)]
    return choices


def _is_half(name: str, names: Container[str]) -> bool:
    """Whether a name is the negative half of a pair that is there as a whole."""
    base = name.removesuffix(NEGATIVE_SUFFIX)
    return base != name and base in names


def _weights(given: Any) -> list[Choice]:
    def choose(weight: float) -> Choice:
        return Choice(f"{weight:g}", lambda draft: replace(draft, weight=weight))

    return [choose(weight) for weight in values.floats(given)]


def _reading(draft: Draft, files: Sequence[str]) -> Draft:
    return draft.having(embedding=[*draft.settings.get("embedding", ()), *files])


AXES: Mapping[str, Axis] = {
    "prompt": Axis(_prompts, ("prompts",), ("prompt_replace",)),
    "prompt_replace": Axis(_replacements),
    "negative_prompt": _setting("negative_prompt", values.texts),
    "embedding": Axis(_embeddings, (), ("embedding_checkpoint",)),
    "embedding_weight": Axis(_weights),
    "embedding_checkpoint": Axis(_checkpoints),
    "model": _setting("model", values.texts),
    "dialect": _setting("dialect", values.texts),
    "weighting": _setting("weighting", values.texts),
    "guidance": _setting("guidance", values.floats),
    "guidance_rescale": _setting("guidance_rescale", values.floats),
    "steps": _setting("steps", values.integers),
    "scheduler": _setting("scheduler", values.texts),
    "clip_skip": _setting("clip_skip", values.integers),
    "seed": Axis(_seeds, ("seeds",)),
}


def read_choices(name: str, given: Any) -> list[Choice]:
    """The values of one axis.

    Raises:
        InputError: no value, one given twice, or one that cannot be read.
    """
    try:
        choices = AXES[name].choices(given)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"axes: {name}: {error}") from None
    labels = [choice.label for choice in choices]
    if not labels:
        raise InputError(f"axes: {name}: there is no value")
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f"axes: {name}: '{label}' is given twice")
    return choices
