"""Puts the embeddings of an axis into the text, and takes embeddings and weight syntax out of it again."""

import re
from collections.abc import Mapping
from typing import Literal

from lab.comparing.axes import Draft
from lab.condition.config import Dialect
from lab.embeddings.embedding import Embedding
from lab.embeddings.read import NEGATIVE_SUFFIX, PARTNER
from lab.errors import InputError, did_you_mean
from lab.prompt.parse import parse, resolve
from lab.prompt.references import find_references

SLOT = "{embedding}"
Side = Literal["positive", "negative"]


def place(
    draft: Draft,
    library: Mapping[str, Embedding],
    dialect: Dialect,
    side: Literal["auto", "positive", "negative"],
) -> tuple[str, str | None]:
    """The prompt and negative prompt of a draft with its embeddings in them.

    Where `{embedding}` stands they take its place. Else they go to the end of the prompt, or of the negative
    prompt if they are negative. A name that the text has already is not added again. A learned pair acts on both
    sides: wherever its first half goes, `NAME-neg` goes to the negative prompt.

    Raises:
        InputError: an unknown name, an embedding whose side nobody says, or a weight that the dialect cannot write.
    """
    prompt, negative = draft.prompt, draft.settings.get("negative_prompt")
    for name in draft.embeddings:
        if name not in library:
            known = did_you_mean(name, library) or "; load it with --embedding FILE or --embeddings DIR"
            raise InputError(f"axes: embedding: no embedding is called '{name}'{known}")
    names = list(dict.fromkeys(half for name in draft.embeddings for half in _halves(name, library)))
    negatives = {f"{name}{NEGATIVE_SUFFIX}" for name in names} & set(names)
    if SLOT in prompt or SLOT in (negative or ""):
        filling = [name for name in names if name not in negatives]
        written = ", ".join(_written(name, draft.weight, dialect) for name in filling)
        prompt, negative = _filled(prompt, written), None if negative is None else _filled(negative, written)
        names = [name for name in names if name in negatives]
    for name in names:
        if _names(prompt, name, library) or _names(negative or "", name, library):
            continue
        written = _written(name, draft.weight, dialect)
        if name in negatives or _side_of(library[name], side) == "negative":
            negative = f"{negative}, {written}" if negative else written
        else:
            prompt = f"{prompt}, {written}" if prompt else written
    return prompt, negative


def _halves(name: str, library: Mapping[str, Embedding]) -> tuple[str, ...]:
    """A name, and of a learned pair its negative half as well."""
    negative = f"{name}{NEGATIVE_SUFFIX}"
    paired = PARTNER in library[name].provenance.metadata and negative in library
    return (name, negative) if paired else (name,)


def plain_text(prompt: str, dialect: Dialect, library: Mapping[str, Embedding], steps: int) -> str:
    """What a prompt says in words: without embeddings, weight syntax and schedules (its last stage counts)."""
    parsed = parse(prompt, dialect, find_references(prompt, library))
    parts = (
        "".join(each.text if each.kind == "text" else " " for each in timeline.variants[-1].segments)
        for timeline in resolve(parsed, steps)
        if timeline.variants
    )
    return _tidy(", ".join(parts))


def _filled(text: str, written: str) -> str:
    return text.replace(SLOT, written) if written else _tidy(text.replace(SLOT, ""))


def _tidy(text: str) -> str:
    """Closes the gaps that something left which was taken out."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"(\s*,)+", ",", text)
    return text.strip(" ,")


def _written(name: str, weight: float, dialect: Dialect) -> str:
    if weight == 1:
        return f"<{name}>"
    if dialect == "plain":
        raise InputError("axes: embedding_weight: the plain dialect has no weights; choose another --dialect")
    return f"(<{name}>){weight:g}" if dialect == "compel" else f"(<{name}>:{weight:g})"


def _names(text: str, name: str, library: Mapping[str, Embedding]) -> bool:
    return any(reference.name == name for reference in find_references(text, library))


def _side_of(embedding: Embedding, side: Literal["auto", "positive", "negative"]) -> Side:
    if side != "auto":
        return side
    if embedding.kind == "unknown":
        raise InputError(
            f"axes: embedding: the file of '{embedding.name}' does not say whether it is a negative embedding; "
            f"give --embedding-side, or write {SLOT} where it goes"
        )
    return "negative" if embedding.kind == "negative" else "positive"
