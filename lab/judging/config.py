"""The options of judging embeddings, each defined once, the prompts that come with the lab, and where cards lie.

Imports no torch.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from lab.comparing.axis_values import read_numbers
from lab.comparing.embedding_axes import SLOT
from lab.condition.config import TextOptions
from lab.config import Config, ExistingFile, NewPath
from lab.embeddings.embedding import Embedding
from lab.embeddings.library import check_embedding_source
from lab.errors import InputError, given_twice
from lab.files import portable_name
from lab.models.config import LoadingOptions
from lab.sample.config import Prompts, SamplingOptions, Seeds
from lab.score.config import ScoreOptions
from lab.text import read_lines

Side = Literal["negative", "positive"]

WORDS = "blurry, pixelated, noisy, washed out, low quality"
"""What people write as a negative prompt where they have no embedding."""

LISTS = Path(__file__).parent / "prompts"

CARD = ".card.json"
"""What the name of a card ends with that lies beside an embedding's file, after the embedding's name."""

_EMOJI_STYLE = re.compile(r"^an? \w+ emoji of")


def _checked_weights(text: str) -> str:
    read_weights(text)
    return text


def read_weights(text: str) -> list[float]:
    """The weights of a strength curve, in ascending order; none of an empty text.

    Raises:
        ValueError: no numbers, or some below 0.
    """
    weights: list[float] = sorted(set(read_numbers(text))) if text.strip() else []
    if weights and weights[0] < 0:
        raise ValueError(f"{weights[0]:g} is below 0, and a weight is not")
    return weights


class JudgingOptions(Config):
    """What is judged, and by what."""

    model: list[str] = Field(default_factory=lambda: ["emoji"], min_length=1)
    """The model to judge on: `emoji`, a diffusers folder, `file:x.safetensors` or `hub:org/name`. Repeatable: the
    effect on each, and whether they differ."""

    side: Literal["auto", "negative", "positive"] = "auto"
    """Which prompt the embedding is for; `auto` goes by what its file says."""

    prompt: Prompts = Field(default_factory=list)
    """A prompt to judge with, in which `{embedding}` stands where a positive embedding goes. Repeatable; by default 64
    that come with the lab."""

    prompt_file: ExistingFile | None = None
    """A text file with one prompt a line."""

    words: str | None = None
    """The words that it is held against: by default usual negative words, or the word that a concept began at."""

    seeds: Seeds = "1-2"
    """Seeds of the noise, such as 1-4; more prompts say more than more seeds."""

    smallest: float = Field(0.02, gt=0)
    """The smallest difference that matters, in the metric's own unit."""

    block: int = Field(8, ge=2)
    """Prompts between two looks."""

    weights: Annotated[str, AfterValidator(_checked_weights)] = "0-1.5 (+0.25)"
    """Strengths of the embedding that are tried once it is judged; empty for none."""

    out: NewPath | None = None
    """Folder for the images and the card; by default one under outputs/ that the settings name."""


class JudgeConfig(JudgingOptions, ScoreOptions, SamplingOptions, TextOptions, LoadingOptions):
    """One judgement."""

    file: list[Annotated[str, AfterValidator(check_embedding_source)]] = Field(default_factory=list)
    """The embeddings: files of any layout, FILE=name, or hub:org/name."""


def side_of(embedding: Embedding, asked: str) -> Side:
    """Which prompt an embedding is for.

    Raises:
        InputError: neither the file nor the person says.
    """
    if asked == "negative" or (asked == "auto" and embedding.kind == "negative"):
        return "negative"
    if asked == "auto" and embedding.kind == "unknown":
        raise InputError(
            f"side: the file of '{embedding.name}' does not say which prompt it is for; give --side negative or "
            "--side positive"
        )
    return "positive"


def choose_prompts(config: JudgeConfig, side: Side, style: bool, emoji: bool) -> list[str]:
    """The prompts to judge with: those given, or the list that fits the model and what the embedding is.

    Args:
        style: Of a positive embedding: it is a style, not a thing.
        emoji: The model is the bundled one.

    Raises:
        InputError: a prompt file that cannot be read, a prompt given twice, or fewer than two.
    """
    given = [*config.prompt, *(read_lines(config.prompt_file) if config.prompt_file else [])]
    prompts = given or _listed(side, style, emoji)
    if side == "positive":
        prompts = [text if SLOT in text else f"{text}, {SLOT}" for text in prompts]
    twice = given_twice(" ".join(text.split()) for text in prompts)
    if twice is not None:
        raise InputError(f"prompt: '{twice}' is given twice and would count as two")
    if len(prompts) < 2:
        raise InputError("prompt: there is one; a verdict on prompts needs two or more")
    return prompts


def _listed(side: Side, style: bool, emoji: bool) -> list[str]:
    family = "emoji" if emoji else "general"
    if side == "positive" and not style:
        return read_lines(LISTS / f"{family}-concept.txt")
    prompts = read_lines(LISTS / f"{family}.txt")
    if side == "negative":
        return prompts
    if emoji:
        return [_EMOJI_STYLE.sub(f"a {SLOT} emoji of", text) for text in prompts]
    return [f"{text}, in the style of {SLOT}" for text in prompts]


def card_beside(embedding: Embedding) -> dict[str, Any] | None:
    """The card of an embedding that lies beside its file, or None where there is none that can be read."""
    file = embedding.provenance.path
    if file is None:
        return None
    for name in dict.fromkeys((embedding.name, file.stem)):
        try:
            card = json.loads((file.parent / f"{portable_name(name)}{CARD}").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(card, dict) and isinstance(card.get("sentences"), list):
            return card
    return None
