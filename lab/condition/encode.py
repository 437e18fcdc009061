"""Prompts and learned embeddings in, `Conditioning` out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import overload

import torch

from lab.condition.chunks import Chunk
from lab.condition.conditioning import Conditioning, Encoding, Part
from lab.condition.config import Dialect, TextOptions, Weighting
from lab.condition.texts import TextEncoder, pad
from lab.condition.vectors import by_name
from lab.embeddings.embedding import Embedding
from lab.models.bundle import Bundle
from lab.prompt.parse import parse, resolve
from lab.prompt.references import find_references
from lab.prompt.syntax import Timeline, Variant

Embeddings = Sequence[Embedding] | Mapping[str, Embedding]


@overload
def encode(
    bundle: Bundle,
    prompt: str,
    embeddings: Embeddings = (),
    dialect: Dialect = "a1111",
    weighting: Weighting | None = None,
    clip_skip: int = 0,
    steps: int = 20,
    bare_names: bool = False,
    comma_backtrack: int = 20,
) -> Conditioning: ...
@overload
def encode(
    bundle: Bundle,
    prompt: list[str] | tuple[str, ...],
    embeddings: Embeddings = (),
    dialect: Dialect = "a1111",
    weighting: Weighting | None = None,
    clip_skip: int = 0,
    steps: int = 20,
    bare_names: bool = False,
    comma_backtrack: int = 20,
) -> list[Conditioning]: ...
def encode(
    bundle: Bundle,
    prompt: str | Sequence[str],
    embeddings: Embeddings = (),
    dialect: Dialect = "a1111",
    weighting: Weighting | None = None,
    clip_skip: int = 0,
    steps: int = 20,
    bare_names: bool = False,
    comma_backtrack: int = 20,
) -> Conditioning | list[Conditioning]:
    """Turns a prompt into prompt embeddings; a list of prompts into a list.

    Args:
        embeddings: What `<name>` and `embedding:name` in the prompts may refer to, by their names or a mapping
            from names, such as `collect` makes; what no prompt names is not read.
        dialect: The prompt syntax.
        weighting: The arithmetic for weighted words; by default the dialect's own.
        clip_skip: Layers left out at the end of the text encoder (0 for none; A1111 shows one more).
        steps: Denoising steps, over which schedules are resolved.
        bare_names: Also finds embeddings by their bare name in the text.
        comma_backtrack: A full chunk ends at a comma at most this many tokens back; 0 turns it off.

    Raises:
        InputError: a name that no embedding has, an embedding made for another family, a clip skip or a weight
            out of range.
    """
    settings = {
        "dialect": dialect,
        "weighting": weighting,
        "clip_skip": clip_skip,
        "bare_names": bare_names,
        "comma_backtrack": comma_backtrack,
    }
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    encoder = PromptEncoder(bundle, embeddings, TextOptions.build(settings), steps)
    made = encoder.encode(prompts)
    return made[prompt] if isinstance(prompt, str) else [made[text] for text in prompts]


def encode_pairs(
    bundle: Bundle,
    pairs: Sequence[tuple[str | Conditioning, str | Conditioning | None]],
    embeddings: Embeddings,
    options: TextOptions,
    steps: int,
) -> list[tuple[Conditioning, Conditioning]]:
    """Encodes prompts with their negative prompts, both sides of a pair padded to the same length.

    Each distinct text is encoded once. Padding is chunks of the encoded empty text, as in the A1111 web UI, and
    depends on the pair alone. A negative of None is SDXL's convention: zeros where the model says so
    (`force_zeros_for_empty_prompt`), else the encoded empty text; "" is always encoded. A side that is encoded
    already (`read_embeds`) is taken as it is.
    """
    encoder = PromptEncoder(bundle, embeddings, options, steps)
    texts = [text or "" for pair in pairs for text in pair if not isinstance(text, Conditioning)]
    made = encoder.encode(texts)
    result = []
    for positive, negative in pairs:
        sides = [
            side if isinstance(side, Conditioning) else made[side or ""] for side in (positive, negative)
        ]
        rows = max(len(entry.embeds) for side in sides for part in side.parts for _, entry in part.entries)
        first, second = (_mapped(side, encoder.padding(rows)) for side in sides)
        if negative is None and bundle.force_zeros_for_empty_prompt:
            second = _mapped(second, _zeroed)
        result.append((first, second))
    return result


class PromptEncoder:
    """Encodes prompts for one bundle with one set of embeddings and options, over one number of steps."""

    def __init__(self, bundle: Bundle, embeddings: Embeddings, options: TextOptions, steps: int):
        self._embeddings = by_name(embeddings)
        self._options = options
        self._steps = steps
        self._texts = TextEncoder(bundle, self._embeddings, options)

    def read(self, prompt: str) -> tuple[Timeline, ...]:
        """Parses a prompt and resolves its schedules."""
        references = find_references(prompt, self._embeddings)
        return resolve(parse(prompt, self._options.dialect, references), self._steps)

    def chunks(self, variant: Variant) -> list[list[Chunk]]:
        """The chunks of what a prompt says at a time: one list for each of its texts (compel blends several)."""
        return [member for term in self._texts.lay_out(variant).terms for member in term.members]

    def encode(self, prompts: Sequence[str]) -> Mapping[str, Conditioning]:
        """Encodes prompts, each distinct one once and without padding."""
        timelines = {prompt: self.read(prompt) for prompt in dict.fromkeys(prompts)}
        variants = [
            variant for parts in timelines.values() for timeline in parts for variant in timeline.variants
        ]
        encodings = iter(self._texts.encode(variants))
        return {
            prompt: Conditioning(
                prompt,
                tuple(
                    Part(
                        timeline.weight,
                        tuple((variant.until, next(encodings)) for variant in timeline.variants),
                    )
                    for timeline in parts
                ),
            )
            for prompt, parts in timelines.items()
        }

    def padding(self, rows: int) -> Callable[[Encoding], Encoding]:
        """Returns what pads an encoding to `rows` rows."""

        def padded(encoding: Encoding) -> Encoding:
            if len(encoding.embeds) == rows:
                return encoding
            return replace(encoding, embeds=pad(encoding.embeds, self._texts.empty().embeds, rows))

        return padded


def _mapped(conditioning: Conditioning, change: Callable[[Encoding], Encoding]) -> Conditioning:
    parts = (
        replace(part, entries=tuple((until, change(entry)) for until, entry in part.entries))
        for part in conditioning.parts
    )
    return replace(conditioning, parts=tuple(parts))


def _zeroed(encoding: Encoding) -> Encoding:
    pooled = None if encoding.pooled is None else torch.zeros_like(encoding.pooled)
    return replace(encoding, embeds=torch.zeros_like(encoding.embeds), pooled=pooled)
