"""Captions of images: where they come from, how they vary, and how they name embeddings."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from lab.config import at_home
from lab.errors import InputError, did_you_mean
from lab.files import is_file, read_text
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
