"""Captions: where they come from, how they vary, and where the placeholders stand in them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
import yaml
from torch import Tensor

from lab.condition.chunks import Chunk, first_chunk
from lab.condition.tokens import Tokenizer
from lab.condition.towers import encode_chunks
from lab.errors import InputError, did_you_mean
from lab.models.bundle import Bundle
from lab.prompt.syntax import Run, Segment
from lab.training.config import TrainConfig
from lab.training.vectors import Learned

TEMPLATES = Path(__file__).parent / "templates"


def placeholder(name: str) -> str:
    """How a caption names an embedding."""
    return f"<{name}>"


def read_templates(chosen: Sequence[str]) -> list[str]:
    """The lines of template sets, of YAML files and those given as they are.

    Raises:
        InputError: no such set or file, or one that is not a list of lines.
    """
    lines: list[str] = []
    for each in chosen:
        lines += [each] if "{" in each else _read_set(each)
    return lines


def _read_set(name: str) -> list[str]:
    sets = {path.stem: path for path in sorted(TEMPLATES.glob("*.yaml"))}
    path = sets.get(name, Path(name))
    try:
        lines = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise InputError(
            f"templates: '{name}' is no set, no YAML file and has no {{name}}{did_you_mean(name, sets)}"
        ) from None
    if not isinstance(lines, list) or not lines or not all(isinstance(line, str) for line in lines):
        raise InputError(f"{path}: expected a YAML list of caption templates, one a line")
    return lines


def file_words(path: Path) -> str:
    """The words of a file's name, without the numbers that tell copies apart: `red_apple-02.png` is `red apple`."""
    words = re.split(r"[\s_\-.,()\[\]]+", path.stem)
    return " ".join(word for word in words if word and not word.isdigit())


def alternatives(
    path: Path, config: TrainConfig, templates: Sequence[str], names: Sequence[str]
) -> tuple[str, ...]:
    """The captions of one image, of which each example takes one.

    Lines of a sidecar file name the embedding as prompts do (`<name>`), or as templates do ({name}), so that they serve
    whatever it is called.

    Raises:
        InputError: a sidecar file that is asked for and missing, empty, or not text.
    """
    source, sidecar, words = config.captions, path.with_suffix(".txt"), file_words(path)
    if source == "sidecar" or (source == "auto" and sidecar.is_file()):
        return tuple(fill(line, words, names) if "{" in line else line for line in _read_sidecar(sidecar))
    if source == "filename":
        return (" ".join([*map(placeholder, names), words]).strip(),)
    fitting = [line for line in templates if words or "{words}" not in line]
    if not fitting:
        raise InputError(f"{path}: its name holds no words, and every caption template asks for {{words}}")
    return tuple(dict.fromkeys(fill(line, words, names) for line in fitting))


def fill(template: str, words: str, names: Sequence[str]) -> str:
    """Puts names and words in; `{name}` is the first embedding, `{name2}` the second, and so on."""
    text = template.replace("{words}", words).replace("{name}", placeholder(names[0]))
    for position, name in enumerate(names[1:], start=2):
        mark = f"{{name{position}}}"
        text = text.replace(mark, placeholder(name)) if mark in text else f"{text}, {placeholder(name)}"
    return " ".join(text.split())


def _read_sidecar(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot read the caption: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: the caption is not UTF-8 text") from None
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise InputError(f"{path}: holds no caption; write one a line, or remove the file")
    return lines


def vary(caption: str, config: TrainConfig, marks: Sequence[str], generator: torch.Generator) -> str:
    """Shuffles and drops tags; the first `keep_tags` and those with a placeholder in `marks` always stay."""
    if not (config.shuffle_tags or config.tag_dropout):
        return caption
    tags = [tag.strip() for tag in caption.split(",") if tag.strip()]
    kept, rest = tags[: config.keep_tags], tags[config.keep_tags :]
    if config.tag_dropout:
        chances = torch.rand(len(rest), generator=generator).tolist()
        rest = [
            tag
            for tag, chance in zip(rest, chances, strict=True)
            if chance >= config.tag_dropout or any(mark in tag for mark in marks)
        ]
    if config.shuffle_tags:
        rest = [rest[place] for place in torch.randperm(len(rest), generator=generator).tolist()]
    return ", ".join([*kept, *rest])


def split_at_placeholders(caption: str, marks: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """Cuts a caption into (text, None) and (placeholder, name) in order; everything else in it is plain text.

    Args:
        marks: The names by their placeholders.
    """
    pattern = "|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True))
    pieces = re.split(f"({pattern})", caption)
    return [(piece, marks.get(piece)) for piece in pieces if piece]


class CaptionEncoder:
    """Encodes captions of one chunk; what a caption has beyond the text encoder's context is cut off."""

    def __init__(self, bundle: Bundle, learned: Learned, clip_skip: int = 0):
        self._bundle = bundle
        self._learned = learned
        self._clip_skip = clip_skip
        self._chunker = Chunker(
            bundle, {name: len(next(iter(rows.values()))) for name, rows in learned.rows.items()}
        )

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Prompt embeddings (b, context, d) and pooled ones (b, p) or None; each distinct caption is encoded once."""
        distinct = list(dict.fromkeys(captions))
        chunks = [self._chunker(caption) for caption in distinct]
        hidden = encode_chunks(self._bundle, chunks, self._learned.rows, self._clip_skip)
        index = torch.tensor([distinct.index(caption) for caption in captions], device=self._bundle.device)
        pooled = None if hidden.pooled is None else hidden.pooled[index]
        return hidden.joined[index], pooled


class Chunker:
    """Captions to the first chunk of their tokens, each distinct one once.

    Args:
        counts: The number of vectors of each embedding.
    """

    def __init__(self, bundle: Bundle, counts: Mapping[str, int]):
        self._room = bundle.context_length - 2
        self._tokenizer = Tokenizer(bundle, counts)
        self._marks = {placeholder(name): name for name in counts}
        self._chunks: dict[str, Chunk] = {}

    def __call__(self, caption: str) -> Chunk:
        """The caption's tokens, with the embeddings in their places."""
        if caption not in self._chunks:
            pieces = self._tokenizer.pieces(self._segments(caption))
            self._chunks[caption] = first_chunk(pieces, self._room)
        return self._chunks[caption]

    def _segments(self, caption: str) -> list[Segment]:
        segments, start = [], 0
        for text, name in split_at_placeholders(caption, self._marks):
            kind: Literal["embedding", "text"] = "embedding" if name else "text"
            run = Run(0, start, len(text))
            segments.append(Segment(name or text, 1.0, (start, start + len(text)), kind, (run,)))
            start += len(text)
        return segments


def check_placeholders(
    bundle: Bundle, captions: Iterable[tuple[str, str]], counts: Mapping[str, int]
) -> None:
    """Checks final captions, given with their images' names.

    Raises:
        InputError: captions without a placeholder, or that lose it where the text encoder's context ends.
    """
    chunker = Chunker(bundle, counts)
    missing: dict[str, str] = {}
    cut = False
    for caption, image in captions:
        found = {piece.embedding for piece in chunker(caption)}
        for name in counts:
            if name not in found:
                missing.setdefault(image, f"{placeholder(name)} in '{caption[:80]}'")
                cut = cut or placeholder(name) in caption
    if missing:
        images = list(missing)
        more = f" and {len(images) - 3} more" if len(images) > 3 else ""
        why = "; it is cut off at the end of the text encoder's context" if cut else ""
        raise InputError(
            f"captions: {', '.join(images[:3])}{more}: without {missing[images[0]]}{why}; every caption has to name "
            "what is learned"
        )
