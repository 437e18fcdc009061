"""Parts of an encoded prompt, and the prompt without one: its rows replaced by those of the empty text.

After Padding Tone (Toker et al. 2501.06751): what a row contributes is seen where clean padding, encoded without the
prompt, stands in its place.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lab.condition.conditioning import Conditioning, Encoding, TokenSpan
from lab.errors import InputError, did_you_mean
from lab.text import shortened

if TYPE_CHECKING:
    from torch import Tensor

END, PADDING, POOLED = "[end]", "[padding]", "[pooled]"
"""The parts of a prompt that are no words: its end tokens, what follows them, and SDXL's pooled text."""

_VECTOR = re.compile(r"<(.+)>:(\d+)")


def find_rows(encoding: Encoding, text: str | None) -> list[int]:
    """The rows of an encoding that a target occupies, wherever the text has it; none if it is not there.

    An embedding's vectors and a word's tokens belong together, so all their rows count. Case does not matter, and
    an embedding's name may stand in `<>` or behind `embedding:` as prompts have it.
    """
    spans = encoding.spans if text is None else _find_spans(encoding.spans, text)
    return sorted({row for span in spans for row in range(span.start, span.end)})


def _find_spans(spans: Sequence[TokenSpan], text: str) -> list[TokenSpan]:
    name = text.removeprefix("embedding:").strip("<>")
    found = [span for span in spans if span.embedding == name]
    wanted = "".join(text.split()).casefold()
    for start in range(len(spans)):
        joined = ""
        for end in range(start, len(spans)):
            joined += spans[end].text.casefold()
            if joined == wanted:
                found.extend(spans[start : end + 1])
            if len(joined) >= len(wanted):
                break
    return found


def parts_of(encoding: Encoding) -> list[str]:
    """What can be knocked out of a prompt: each of its words once, each vector of its embeddings, and the rest."""
    words = [span.text for span in encoding.spans if span.embedding is None]
    lengths = {
        span.embedding: span.skipped + span.end - span.start for span in encoding.spans if span.embedding
    }
    vectors = [f"<{name}>:{number}" for name, count in lengths.items() for number in range(1, count + 1)]
    own = {word.casefold(): word for word in reversed(words) if any(map(str.isalnum, word))}
    order = [word for word in words if own.get(word.casefold()) == word]
    return [*dict.fromkeys(order), *vectors, END, PADDING, *([] if encoding.pooled is None else [POOLED])]


def rows_of(encoding: Encoding, part: str, context: int) -> list[int]:
    """The rows of a part as `parts_of` names it, or of words and embeddings as `find_rows` takes them.

    Args:
        context: Rows of a chunk.
    """
    vector = _VECTOR.fullmatch(part)
    if vector:
        name, number = vector[1], int(vector[2]) - 1
        uses = [span for span in encoding.spans if span.embedding == name]
        rows = [span.start + number - span.skipped for span in uses]
        return [row for row, span in zip(rows, uses, strict=True) if span.start <= row < span.end]
    if part not in (END, PADDING):
        return find_rows(encoding, part)
    words = {row for span in encoding.spans for row in range(span.start, span.end)}
    found: list[int] = []
    for first in range(0, len(encoding.embeds), context):
        end = max((row for row in range(first, first + context) if row in words), default=first) + 1
        found += [end] if part == END else range(end + 1, first + context)
    return found


def rows_with_ends(encoding: Encoding, context: int) -> list[int]:
    """The rows of an encoding's words and of the end token behind the last of each chunk; none of a text without words.

    Args:
        context: Rows of a chunk.
    """
    words = find_rows(encoding, None)
    ends = [row for row in rows_of(encoding, END, context) if row - 1 in words and row % context]
    return sorted({*words, *ends})


def joined_negated(texts: Sequence[Encoding], context: int) -> Encoding:
    """Texts that are to be avoided as one: the rows of their words and of the end tokens behind them, with negative
    weights.

    Args:
        texts: At least one.
        context: Rows of a chunk.
    """
    import torch

    embeds, spans, count = [], list[TokenSpan](), 0
    for text in texts:
        rows = rows_with_ends(text, context)
        places = {row: count + place for place, row in enumerate(rows)}
        for span in text.spans:
            start = places[span.start]
            spans.append(replace(span, start=start, end=start + span.end - span.start, weight=-span.weight))
        embeds.append(text.embeds[rows])
        count += len(rows)
    return Encoding(texts[0].text, torch.cat(embeds), spans=tuple(spans))


def without_part(whole: Conditioning, part: str, empty: "Tensor", pooled: "Tensor | None") -> Conditioning:
    """A prompt with clean padding for a part of it, wherever and whenever its texts have it.

    Args:
        empty: (context, d), the empty text's states; a row takes the one at its own place in the chunk.
        pooled: (p,), the empty text's pooled vector, or None.

    Raises:
        InputError: none of its texts has it, with the nearest parts.
    """

    def change(entry: Encoding) -> Encoding:
        if part == POOLED and entry.pooled is not None:
            return replace(entry, pooled=pooled)
        rows = [] if part == POOLED else rows_of(entry, part, len(empty))
        if not rows:
            return entry
        embeds = entry.embeds.clone()
        embeds[rows] = empty.to(embeds)[[row % len(empty) for row in rows]]
        return replace(entry, embeds=embeds)

    rest = whole.map(change)
    if all(one is other for one, other in zip(rest.entries, whole.entries, strict=True)):
        nearest = did_you_mean(part, parts_of(whole.first))
        raise InputError(f"knock_out: '{part}' is not in the prompt '{shortened(whole.prompt)}'{nearest}")
    return rest
