"""The axes over learned embeddings: their values as names and files, and where these go in the prompts."""

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab.comparing.axis_values import NONE
from lab.embeddings.embedding import NEGATIVE_SUFFIX, PARTNER, Embedding
from lab.embeddings.library import collect, is_source
from lab.errors import InputError, did_you_mean
from lab.files import split_unless_there
from lab.prompt.dialects import find_dialect
from lab.prompt.parse import references_in, without_comments

SLOT = "{embedding}"
"""Stands in a prompt for the embeddings of an axis, or for the texts of the axis `slot`."""

Side = Literal["positive", "negative"]
AskedSide = Literal["auto", "positive", "negative"]


@dataclass(frozen=True)
class NamedEmbeddings:
    """The embeddings of one value of an axis.

    Attributes:
        label: Their names as people write them; of a learned pair the first half alone.
        names: Of all of them.
        files: Of those that are read from files, FILE or FILE=name.
    """

    label: str
    names: tuple[str, ...]
    files: tuple[str, ...]


def named_embeddings(text: str) -> NamedEmbeddings:
    """Reads `none`, a name, a file (FILE or FILE=name), `hub:org/name`, or several of them joined by `+`.

    Raises:
        InputError: a file that is no embedding.
    """
    names: list[str] = []
    files: list[str] = []
    for term in split_unless_there(text, "+", is_source):
        if term.casefold() in (NONE, ""):
            continue
        if is_source(term):
            files.append(term)
            names += list(collect([term]))
        else:
            names.append(term.strip("<>"))
    return NamedEmbeddings(_label(names), tuple(names), tuple(files))


def are_sources(text: str) -> bool:
    """Whether all embeddings that a text joins by `+` are files that are there, or on a hub."""
    return all(map(is_source, split_unless_there(text, "+", is_source)))


def saved_steps(folder: str) -> list[NamedEmbeddings]:
    """Every saved step of a training run: files NAME-STEP in its `checkpoints` folder, pairs with both halves.

    Raises:
        ValueError: there are none.
    """
    checkpoints = Path(folder) / "checkpoints"
    steps: dict[int, dict[str, Path]] = {}
    for path in sorted(checkpoints.glob("*-*")):
        name, _, step = path.stem.rpartition("-")
        if step.isdigit():
            steps.setdefault(int(step), {})[name] = path
    if not steps:
        raise ValueError(f"{checkpoints} holds no saved steps of a training run")
    return [
        NamedEmbeddings(
            f"{_label(list(saved))} step {step}",
            tuple(saved),
            tuple(f"{file}={name}" for name, file in saved.items()),
        )
        for step, saved in sorted(steps.items())
    ]


def _label(names: Sequence[str]) -> str:
    return "+".join(name for name in names if not _is_half(name, names)) or NONE


def _is_half(name: str, names: Container[str]) -> bool:
    """Whether a name is the negative half of a pair that is there as a whole."""
    base = name.removesuffix(NEGATIVE_SUFFIX)
    return base != name and base in names


def place_embeddings(
    texts: tuple[str, str | None],
    added: Sequence[str],
    weight: float,
    library: Mapping[str, Embedding],
    dialect: str,
    side: AskedSide,
) -> tuple[str, str | None]:
    """A prompt and its negative prompt with the embeddings of an axis in them.

    Where `{embedding}` stands they take its place. Else they go to the end of the prompt, or of the negative
    prompt if they are negative. A name that the text has already is not added again. A learned pair acts on both
    sides: wherever its first half goes, `NAME-neg` goes to the negative prompt.

    Args:
        texts: The prompt, and the negative prompt or None if none was given.
        added: Names of the embeddings.
        weight: Of each of them; 1 is as learned.
        library: The embeddings that prompts may name.
        dialect: In which a weight is written.
        side: Which prompt they join; `auto` goes by what their files say they are.

    Raises:
        InputError: an unknown name, an embedding whose side nobody says, or a weight that the dialect cannot write.
    """
    prompt, negative = texts
    for name in added:
        if name not in library:
            known = did_you_mean(name, library) or "; load it with --embedding FILE or --embeddings DIR"
            raise InputError(f"axes: embedding: no embedding is called '{name}'{known}")
    names = list(dict.fromkeys(half for name in added for half in _halves(name, library)))
    negatives = {f"{name}{NEGATIVE_SUFFIX}" for name in names} & set(names)
    if SLOT in prompt or SLOT in (negative or ""):
        filling = [name for name in names if name not in negatives]
        written = ", ".join(written_name(name, weight, dialect) for name in filling)
        prompt, negative = filled(prompt, written), None if negative is None else filled(negative, written)
        names = [name for name in names if name in negatives]
    for name in names:
        sides = references_in(prompt, library, dialect), references_in(negative or "", library, dialect)
        if any(reference.name == name for there in sides for reference in there):
            continue
        written = written_name(name, weight, dialect)
        if name in negatives or _side_of(library[name], side) == "negative":
            negative = _added(negative or "", written, dialect)
        else:
            prompt = _added(prompt, written, dialect)
    return prompt, negative


def _halves(name: str, library: Mapping[str, Embedding]) -> tuple[str, ...]:
    """A name, and of a learned pair its negative half as well."""
    negative = f"{name}{NEGATIVE_SUFFIX}"
    paired = PARTNER in library[name].provenance.metadata and negative in library
    return (name, negative) if paired else (name,)


def _added(text: str, written: str, dialect: str) -> str:
    if not text:
        return written
    in_comment = without_comments(f"{text}.", dialect)[-1] == " "
    return f"{text}\n, {written}" if in_comment else f"{text}, {written}"


def filled(text: str, written: str) -> str:
    """A prompt with something in place of `{embedding}`; where that is nothing, without a gap."""
    return text.replace(SLOT, written) if written else tidy(text.replace(SLOT, ""))


def tidy(text: str) -> str:
    """Closes the gaps that something left which was taken out of a prompt: double spaces, commas on their own."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"(\s*,)+", ",", text)
    return text.strip(" ,")


def written_name(name: str, weight: float, dialect: str) -> str:
    """How a dialect writes an embedding with a weight.

    Raises:
        InputError: a weight other than 1, and the dialect has none.
    """
    if weight == 1:
        return f"<{name}>"
    emphasis = find_dialect(dialect).emphasis
    if emphasis is None:
        raise InputError(
            f"axes: embedding_weight: the {dialect} dialect has no weights; choose another --dialect"
        )
    return emphasis.format(text=f"<{name}>", weight=weight)


def _side_of(embedding: Embedding, side: AskedSide) -> Side:
    if side != "auto":
        return side
    if embedding.kind == "unknown":
        raise InputError(
            f"axes: embedding: the file of '{embedding.name}' does not say whether it is a negative embedding; "
            f"give --embedding-side, or write {SLOT} where it goes"
        )
    return "negative" if embedding.kind == "negative" else "positive"
