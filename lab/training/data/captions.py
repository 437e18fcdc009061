"""Captions of images: where they come from, how they vary, and how they become prompt embeddings."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lab.condition.chunks import Chunk, first_chunk
from lab.condition.conditioning import TokenSpan, token_spans
from lab.condition.output_rows import with_output_rows
from lab.condition.tokens import Tokenizer
from lab.condition.towers import EncodedChunks, encode_chunks, vectors_for
from lab.config import at_home
from lab.embeddings.embedding import XTI_LAYERS, Embedding
from lab.errors import InputError, did_you_mean
from lab.files import is_file, read_text
from lab.models.bundle import Bundle
from lab.models.device import to_device
from lab.prompt.syntax import Run, Segment
from lab.strict_yaml import read_yaml
from lab.text import split_lines
from lab.training.config import TrainConfig

TEMPLATES = Path(__file__).parent / "templates"


def placeholder(name: str) -> str:
    """How a caption or a prompt names an embedding: `<name>`."""
    return f"<{name}>"


def read_templates(chosen: Sequence[str]) -> list[str]:
    """The lines of template sets, of YAML files and those given as they are.

    Raises:
        InputError: no such set or file, or one that is not a list of lines.
    """
    lines: list[str] = []
    for text in chosen:
        lines += [text] if "{" in text else _read_set(text)
    return lines


def _read_set(name: str) -> list[str]:
    sets = {path.stem: path for path in sorted(TEMPLATES.glob("*.yaml"))}
    path = sets.get(name, at_home(Path(name)))
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"templates: '{name}' is no set, no YAML file and has no {{name}}{did_you_mean(name, sets)}"
        ) from None
    lines, _ = read_yaml(text, str(path))
    if not isinstance(lines, list) or not lines or not all(isinstance(line, str) for line in lines):
        raise InputError(f"{path}: expected a YAML list of caption templates, one a line")
    return lines


def filename_words(path: Path) -> str:
    """The words of a file's name, without the numbers that tell copies apart: `red_apple-02.png` is `red apple`."""
    words = re.split(r"[\s_\-.,()\[\]]+", path.stem)
    return " ".join(word for word in words if word and not word.isdigit())


def image_captions(
    path: Path, config: TrainConfig, templates: Sequence[str], names: Sequence[str]
) -> tuple[str, ...]:
    """The captions of an image file, of which each example takes one.

    Lines of a sidecar file name the embedding as prompts do (`<name>`), or as templates do ({name}), so that they serve
    whatever it is called.

    Raises:
        InputError: a sidecar file that is asked for and missing, empty, or not text.
    """
    source, sidecar, words = config.captions, _sidecar(path), filename_words(path)
    if source == "sidecar" or (source == "auto" and is_file(sidecar)):
        return tuple(
            fill_template(line, words, names) if "{" in line else line for line in _read_sidecar(sidecar)
        )
    if source == "filename":
        return (" ".join([*map(placeholder, names), words]).strip(),)
    fitting = [line for line in templates if words or "{words}" not in line]
    if not fitting:
        raise InputError(f"{path}: its name holds no words, and every caption template asks for {{words}}")
    return tuple(dict.fromkeys(fill_template(line, words, names) for line in fitting))


def fill_template(template: str, words: str, names: Sequence[str]) -> str:
    """Puts placeholders and words into a caption template.

    Args:
        template: With {words}, and with {name} for the first embedding, {name2} for the second, and so on; embeddings
            that it does not name are put behind it.
        words: What {words} stands for.
        names: Of the embeddings, without brackets.
    """
    text = template.replace("{words}", words).replace("{name}", placeholder(names[0]))
    for position, name in enumerate(names[1:], start=2):
        mark = f"{{name{position}}}"
        text = text.replace(mark, placeholder(name)) if mark in text else f"{text}, {placeholder(name)}"
    return " ".join(text.split())


def _sidecar(path: Path) -> Path:
    """`NAME.txt` beside an image, or kohya's `NAME.caption` where that alone is there."""
    text, caption = path.with_suffix(".txt"), path.with_suffix(".caption")
    return caption if is_file(caption) and not is_file(text) else text


def _read_sidecar(path: Path) -> tuple[str, ...]:
    lines = tuple(line for line in split_lines(read_text(path, "the caption")) if line)
    if not lines:
        raise InputError(f"{path}: holds no caption; write one a line, or remove the file")
    return lines


def vary_tags(caption: str, config: TrainConfig, names: Sequence[str], generator: torch.Generator) -> str:
    """Shuffles and drops a caption's comma-separated tags, as the config says.

    The first `keep_tags` stay where they are, and a tag with the placeholder of one of `names` is never dropped.
    """
    if not (config.shuffle_tags or config.tag_dropout):
        return caption
    tags = [tag.strip() for tag in caption.split(",") if tag.strip()]
    kept, rest = tags[: config.keep_tags], tags[config.keep_tags :]
    if config.tag_dropout:
        chances = torch.rand(len(rest), generator=generator).tolist()
        rest = [
            tag
            for tag, chance in zip(rest, chances, strict=True)
            if chance >= config.tag_dropout or any(placeholder(name) in tag for name in names)
        ]
    if config.shuffle_tags:
        rest = [rest[place] for place in torch.randperm(len(rest), generator=generator).tolist()]
    return ", ".join([*kept, *rest])


class EncodedCaptions(NamedTuple):
    """Captions, encoded.

    Attributes:
        embeds: (b, context, d) prompt embeddings.
        pooled: (b, p) SDXL's pooled ones, or None.
        layers: Other embeds for each of `XTI_LAYERS`, where an embedding in them has vectors of its own there.
    """

    embeds: Tensor
    pooled: Tensor | None
    layers: Sequence[Tensor] = ()


class CaptionEncoder:
    """Encodes captions of one chunk; what a caption has beyond the text encoder's context is cut off.

    A caption is plain text: nothing in it means anything but the placeholders `<name>`.
    """

    def __init__(self, bundle: Bundle, embeddings: Mapping[str, Embedding], clip_skip: int = 0):
        """Takes what placeholders stand for.

        Args:
            embeddings: By name, with their tensors on the bundle's device; gradients go back to these.
            clip_skip: Leaves out this many of the text encoder's last layers.
        """
        self._bundle = bundle
        self._clip_skip = clip_skip
        self._chunker = CaptionChunker(bundle, vector_counts(embeddings))
        self.embeddings = embeddings
        self._at_layers = [
            {name: one.at_layer(layer) if one.layers else one for name, one in embeddings.items()}
            for layer in XTI_LAYERS
        ]

    def __call__(self, captions: Sequence[str]) -> EncodedCaptions:
        """Encodes captions, each distinct one once."""
        distinct = list(dict.fromkeys(captions))
        chunks = [self._chunker(caption) for caption in distinct]
        places = torch.tensor([distinct.index(caption) for caption in captions])
        index = to_device(places, self._bundle.device)
        named = {word.embedding for chunk in chunks for word in chunk if word.embedding is not None}
        if any(self.embeddings[name].layers for name in named):
            layers = [self._encoded(chunks, each)[0][index] for each in self._at_layers]
            return EncodedCaptions(layers[0], None, layers)  # no layer is left to read the first
        states, pooled = self._encoded(chunks, self.embeddings)
        return EncodedCaptions(states[index], None if pooled is None else pooled[index])

    def _encoded(self, chunks: Sequence[Chunk], embeddings: Mapping[str, Embedding]) -> EncodedChunks:
        vectors = {name: vectors_for(self._bundle, one, elsewhere=True) for name, one in embeddings.items()}
        encoded = encode_chunks(self._bundle, chunks, vectors, self._clip_skip)
        return encoded._replace(states=with_output_rows(self._bundle, chunks, encoded.states, embeddings))

    def spans(self, caption: str) -> tuple[TokenSpan, ...]:
        """What the rows of a caption's prompt embeddings stand for."""
        return tuple(token_spans([self._chunker(caption)], self._bundle.context_length))


class CaptionChunker:
    """Turns captions into the first chunk of their tokens, each distinct one once."""

    def __init__(self, bundle: Bundle, counts: Mapping[str, int], room: int | None = None):
        """Takes the number of vectors of each embedding that captions may name, and how many tokens a chunk holds: by
        default what the text encoders take."""
        self._room = room or bundle.context_length - 2
        self._tokenizer = Tokenizer(bundle, counts.__getitem__)
        self._names_by_placeholder = {placeholder(name): name for name in counts}
        self._chunks: dict[str, Chunk] = {}

    def __call__(self, caption: str) -> Chunk:
        """The caption's tokens, with the embeddings in their places."""
        if caption not in self._chunks:
            (words,) = self._tokenizer.words(self._segments(caption))
            self._chunks[caption] = first_chunk(words, self._room)
        return self._chunks[caption]

    def _segments(self, caption: str) -> list[Segment]:
        segments, start = [], 0
        for text, name in split_at_placeholders(caption, self._names_by_placeholder):
            span, run = (start, start + len(text)), Run(0, start, len(text))
            segments.append(Segment(name or text, 1.0, span, "embedding" if name else "text", (run,)))
            start += len(text)
        return segments


def split_at_placeholders(
    caption: str, names_by_placeholder: Mapping[str, str]
) -> list[tuple[str, str | None]]:
    """Cuts a caption into (text, None) and (placeholder, name) in order; everything else in it is plain text.

    Args:
        names_by_placeholder: The names by their placeholders.
    """
    if not names_by_placeholder:
        return [(caption, None)]
    pattern = "|".join(re.escape(text) for text in sorted(names_by_placeholder, key=len, reverse=True))
    pieces = re.split(f"({pattern})", caption)
    return [(piece, names_by_placeholder.get(piece)) for piece in pieces if piece]


def embeddings_named(
    bundle: Bundle, texts: Iterable[str], embeddings: Mapping[str, Embedding]
) -> dict[str, Embedding]:
    """Those embeddings whose placeholders stand in any of the texts, on the bundle's device.

    Raises:
        InputError: one that was made for another family of models.
    """
    texts = list(texts)
    names = [name for name in embeddings if any(placeholder(name) in text for text in texts)]
    found = {}
    for name in names:
        vectors = vectors_for(bundle, embeddings[name])
        there = {key: rows.to(bundle.device) for key, rows in vectors.items()}
        found[name] = replace(embeddings[name], vectors=there)
    return found


def vector_counts(embeddings: Mapping[str, Embedding]) -> dict[str, int]:
    """The number of vectors of each embedding, by its name."""
    return {name: embedding.count for name, embedding in embeddings.items()}


def check_placeholders(
    bundle: Bundle,
    captions: Iterable[tuple[str, str]],
    counts: Mapping[str, int],
    others: Mapping[str, Embedding],
    names: Sequence[str],
) -> None:
    """Checks that captions name what is learned, within the text encoder's context.

    Args:
        captions: Final captions, each with the name of an image that it comes with.
        counts: The number of vectors of each embedding that is learned.
        others: Embeddings that captions may name as well.
        names: Of those that are learned, the ones that every caption has to name.

    Raises:
        InputError: captions without a placeholder, or that lose it where the text encoder's context ends.
    """
    chunker = CaptionChunker(bundle, vector_counts(others) | dict(counts))
    missing: dict[str, str] = {}
    cut = False
    for caption, image in captions:
        found = {word.embedding for word in chunker(caption)}
        for name in names:
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
