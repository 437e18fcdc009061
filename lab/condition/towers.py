"""Chunks of tokens and learned vectors through the text encoders, and the weights of their words."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lab.condition.chunks import Chunk
from lab.condition.learned_places import with_output_rows
from lab.condition.weighting import WEIGHTINGS, EncodedText
from lab.embeddings.embedding import Embedding
from lab.embeddings.facts import check_fits
from lab.errors import InputError
from lab.models.bundle import Bundle, TextTower
from lab.models.device import to_device
from lab.models.facts import layers_back
from lab.models.family import FAMILIES, Family
from lab.models.patches import Placement, learned_rows

Vectors = Mapping[str, Mapping[str, Tensor]]
"""Learned vectors by name and by the key of the text encoder that reads them: (n, width) each."""

_BATCH = 64
"""Chunks encoded together."""


class ChunkEncoder:
    """Chunks through the text encoders of one bundle: each distinct chunk once, however often it comes."""

    def __init__(self, bundle: Bundle, embeddings: Mapping[str, Embedding], clip_skip: int):
        """Takes what words may stand for, and how many of the last layers are left out."""
        self._bundle = bundle
        self._embeddings = embeddings
        self._clip_skip = clip_skip
        self._vectors: dict[str, dict[str, Tensor]] = {}
        self._encoded: dict[tuple, tuple[Tensor, Tensor | None]] = {}

    def count_vectors(self, name: str) -> int:
        """The number of vectors of an embedding, which are then at hand.

        Raises:
            InputError: it was made for text encoders of other widths.
        """
        if name not in self._vectors:
            self._vectors[name] = vectors_for(self._bundle, self._embeddings[name], elsewhere=True)
        return self._embeddings[name].count

    def encode(self, chunks: Iterable[Chunk]) -> None:
        """Encodes the chunks that are new, many together, ahead of `states` and `weighted`.

        Raises:
            InputError: the clip skip leaves no layer.
        """
        new = {chunk.seen: chunk for chunk in chunks if chunk.seen not in self._encoded}
        keys = list(new)
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            with self._bundle.autocast():
                encoded = encode_chunks(
                    self._bundle, [new[key] for key in batch], self._vectors, self._clip_skip
                )
            states = encoded.states.float().cpu()
            pooled = [None] * len(batch) if encoded.pooled is None else encoded.pooled.float().cpu()
            self._encoded.update(zip(batch, zip(states, pooled, strict=True), strict=True))

    def states(self, chunk: Chunk) -> tuple[Tensor, Tensor | None]:
        """A chunk's hidden states (context, d), and SDXL's pooled text (p,) or None: float32 on the CPU, unweighted."""
        self.encode([chunk])
        return self._encoded[chunk.seen]

    def weighted(self, chunks: Sequence[Chunk], weighting: str) -> Tensor:
        """(chunks * context, d) float32 on the CPU: the hidden states of a text under the weights of its words.

        Args:
            weighting: A name in `WEIGHTINGS`.
        """
        states = torch.stack([self.states(chunk)[0] for chunk in chunks])
        if any(word.weight != 1 for chunk in chunks for word in chunk):
            empty, _ = self.states(Chunk())
            states = weigh_chunks(
                self._bundle, chunks, states, empty, self._vectors, weighting, self._clip_skip
            )
        return with_output_rows(self._bundle, chunks, states, self._embeddings).flatten(0, 1)


def vectors_for(bundle: Bundle, embedding: Embedding, elsewhere: bool = False) -> dict[str, Tensor]:
    """An embedding's vectors, (n, width) float32 on the CPU, by the key of each of the bundle's text encoders.

    Args:
        elsewhere: Whether the caller puts in what it has behind the text encoders or in layers of the U-Net.

    Raises:
        InputError: it was made for text encoders of other widths, or for elsewhere.
    """
    if (embedding.outputs or embedding.layers) and not elsewhere:
        raise InputError(f"{embedding.name}: not in front of the text encoder; prompts alone may name it")
    check_fits(embedding, bundle.facts)
    by_width = {vectors.shape[-1]: vectors for vectors in embedding.vectors.values()}
    return {tower.key: embedding.vectors.get(tower.key, by_width[tower.width]) for tower in bundle.towers}


class EncodedChunks(NamedTuple):
    """Chunks that went through all text encoders.

    Attributes:
        states: (chunks, context, d) the encoders' hidden states side by side, in the U-Net's order.
        pooled: (chunks, p) from SDXL's second encoder, or None.
    """

    states: Tensor
    pooled: Tensor | None


def encode_chunks(
    bundle: Bundle,
    chunks: Sequence[Chunk],
    vectors: Vectors | None = None,
    clip_skip: int = 0,
    padded: bool = True,
) -> EncodedChunks:
    """Encodes chunks, each for itself, without the weights of their words.

    Differentiable with respect to `vectors`; call it under `torch.no_grad()` where gradients are not needed.

    Args:
        vectors: What the words with an `embedding` name stand for.
        clip_skip: Leaves out this many of the last layers (0 for none); the A1111 web UI counts one more.
        padded: Whether all rows of a context are wanted, or those up to the longest chunk's end token. The encoders
            are causal, so that the padding after it changes none of them.

    Raises:
        InputError: `clip_skip` leaves no layer.
    """
    states, pooled = [], None
    for index, tower in enumerate(bundle.towers):
        ids, learned = _token_ids(chunks, tower, index, vectors or {})
        if not padded:
            ids = ids[:, : max(chunk.length for chunk in chunks) + 2]
        back = layers_back(bundle.family, tower.layers, clip_skip)
        with bundle.turn():
            state, output = run_tower(bundle.family, tower, ids, back, learned=learned)
        states.append(state)
        pooled = getattr(output, "text_embeds", pooled)
    return EncodedChunks(torch.cat(states, dim=-1), pooled)


def run_tower(
    family: Family,
    tower: TextTower,
    ids: Tensor,
    back: int,
    mask: Tensor | None = None,
    learned: Sequence[Tensor] = (),
) -> tuple[Tensor, Any]:
    """`hidden_states[-back]`, on SD 1.x and 2.x through the final LayerNorm, on SDXL without it; and the output.

    Args:
        ids: (b, context) token ids, on any device.
        back: As `layers_back` gives it.
        mask: (b, context) of ones, and zeros where a token is hidden from the others.
        learned: (n, width) vectors of embeddings; their rows have the ids past the vocabulary's end, in order.
    """
    placement = None
    if learned:
        rows, vocabulary = torch.cat(list(learned)), tower.encoder.config.vocab_size
        entries, positions = (ids >= vocabulary).nonzero(as_tuple=True)
        placement = Placement(
            entries, positions, rows[to_device(ids[entries, positions] - vocabulary, rows.device)]
        )
        ids = ids.masked_fill(ids >= vocabulary, 0)
    ids, traits = to_device(ids, tower.encoder.device), FAMILIES[family]
    with learned_rows(tower.encoder, placement):
        if traits.final_norm and back == 1:  # what the encoder gives anyway
            output = tower.encoder(ids, attention_mask=mask)
            return output.last_hidden_state, output
        output = tower.encoder(ids, attention_mask=mask, output_hidden_states=True)
    state = output.hidden_states[-back]
    # transformers before 5.6 keeps the norm in `text_model`, later ones in CLIPTextModel itself
    inner: Any = getattr(tower.encoder, "text_model", tower.encoder)
    return (inner.final_layer_norm(state) if traits.final_norm else state), output


def _token_ids(
    chunks: Sequence[Chunk], tower: TextTower, index: int, vectors: Vectors
) -> tuple[Tensor, list[Tensor]]:
    """(chunks, context) token ids on the CPU: start token, the words' tokens, end token, the encoder's own padding; and
    the learned vectors, which have the ids past the vocabulary's end."""
    ids, learned = [], list[Tensor]()
    start, end, free = (
        tower.tokenizer.bos_token_id,
        tower.tokenizer.eos_token_id,
        tower.encoder.config.vocab_size,
    )
    for chunk in chunks:
        entry = [start]
        for word in chunk:
            count = len(word.ids[index])
            if word.embedding is None:
                entry += word.ids[index]
                continue
            learned.append(vectors[word.embedding][tower.key][word.skipped : word.skipped + count])
            entry += range(free, free + count)
            free += count
        entry.append(end)
        ids.append(entry + [tower.pad_token_id] * (tower.context_length - len(entry)))
    return torch.tensor(ids), learned


def weigh_chunks(
    bundle: Bundle,
    chunks: Sequence[Chunk],
    states: Tensor,
    empty: Tensor,
    vectors: Vectors,
    weighting: str,
    clip_skip: int,
) -> Tensor:
    """(chunks, context, d) float32 on the CPU: hidden states under the weights of the chunks' words.

    Args:
        states: (chunks, context, d) float32 on the CPU, all text encoders side by side.
        empty: (context, d) of an empty chunk, likewise.
        weighting: A name in `WEIGHTINGS`.
    """
    context = states.shape[1]
    widths = [tower.width for tower in bundle.towers]
    weighted = []
    for index, tower in enumerate(bundle.towers):
        ids, learned = _token_ids(chunks, tower, index, vectors)
        back = layers_back(bundle.family, tower.layers, clip_skip)

        def encode(
            ids: Tensor,
            mask: Tensor,
            tower: TextTower = tower,
            back: int = back,
            learned: list[Tensor] = learned,
        ) -> Tensor:
            with bundle.turn():
                return run_tower(bundle.family, tower, ids, back, mask, learned)[0].float()

        text = EncodedText(
            z=states.split(widths, -1)[index],
            e=empty.split(widths, -1)[index],
            w=_row_weights(chunks, index, context),
            ids=ids.to(bundle.device),
            fragments=list(_fragments(chunks, ids.tolist(), index)),
            special_ids=(tower.tokenizer.bos_token_id, tower.tokenizer.eos_token_id, tower.pad_token_id),
            encode=encode,
        )
        weighted.append(WEIGHTINGS[weighting].apply(text).cpu())
    return torch.cat(weighted, dim=-1)


def weigh_schedule(
    bundle: Bundle, texts: Sequence[Sequence[Chunk]], states: Tensor, counts: Sequence[int], weighting: str
) -> Tensor:
    """(texts, chunks, context, d): hidden states of a schedule's texts, likewise, under the weights of all of them.

    Args:
        texts: The chunks of each distinct text, as many of each.
        counts: How often each comes in the schedule.
        weighting: A name in `WEIGHTINGS` that has `over_schedule`.
    """
    apply = WEIGHTINGS[weighting].over_schedule
    assert apply is not None, "the caller has looked"
    often = torch.tensor(counts)
    firsts = often.cumsum(0) - often
    weighted = []
    for index, z in enumerate(states.split([tower.width for tower in bundle.towers], -1)):
        context = z.shape[2]
        w = torch.stack([_row_weights(chunks, index, context) for chunks in texts])
        rows = z.repeat_interleave(often, 0).transpose(0, 1).flatten(1, 2)
        made = apply(rows, w.repeat_interleave(often, 0).transpose(0, 1).flatten(1, 2))
        weighted.append(made.unflatten(1, (-1, context)).transpose(0, 1)[firsts])
    return torch.cat(weighted, dim=-1)


def _row_weights(chunks: Sequence[Chunk], index: int, context: int) -> Tensor:
    """(chunks, context) weights of the rows; 1 for start, end and padding."""
    weights = torch.ones(len(chunks), context)
    for row, chunk in zip(weights, chunks, strict=True):
        for word, rows in chunk.rows(index):
            row[rows.start : rows.stop] = word.weight
    return weights


def _fragments(
    chunks: Sequence[Chunk], ids: Sequence[Sequence[int]], index: int
) -> Iterator[tuple[list[int], float]]:
    """Runs of words of one weight over all chunks: their token ids, and the weight."""
    words = (
        (word.weight, entry[rows.start : rows.stop])
        for chunk, entry in zip(chunks, ids, strict=True)
        for word, rows in chunk.rows(index)
    )
    for weight, run in groupby(words, key=lambda word: word[0]):
        yield [token for _, tokens in run for token in tokens], weight
