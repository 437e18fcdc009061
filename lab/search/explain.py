"""What learned vectors mean, in words: those whose effect in prompts comes nearest to the vectors'.

Words are found one after the other with the text encoders in the loop. The gradient at the words so far says which
words of the vocabulary should bring the effect nearer (Wen et al. 2302.03668 follow it with continuous steps; here as
in Zou et al. 2307.15043), the best of these are tried, and the best of them is taken.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lab.condition.effect import Contexts, Expected, laid_out
from lab.condition.tokens import Word
from lab.condition.towers import encode_chunks, vectors_for
from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.vocabulary import cosines, whole_words

SEARCHED_IN = ("{}", "a photo of a dog, {}")
"""Contexts in which words are tried."""

KEPT_APART = ("{}, a house by the sea", "a cat next to {}", "a painting of mountains, {}", "{} in winter")
"""Contexts that say how much the words found do, as far as they have room beside the vectors: see `measured_in`."""

TRIED = 32
"""Words that are tried at a time."""

ROUNDS = 4
"""Times at most that a better word is looked for in the place of one found, after one was added."""

LEAST_GAIN = 0.005
"""The share of the effect that words must add in the contexts searched in to be worth telling."""

PATIENCE = 2
"""Words that may bring nothing one after the other before the search ends."""

_STANDS_IN = "words"


class Explanation(NamedTuple):
    """Words, and what they do of what the vectors do where they were not searched: 1 for all, 0 or less for nothing."""

    words: tuple[str, ...]
    share: float


@torch.no_grad()
def explain(
    bundle: Bundle, embedding: Embedding, most: int = 8, listener: Listener = Listener()
) -> Iterator[Explanation]:
    """Yields the nearest words to an embedding's effect: one, two, and so on as long as each adds something.

    Args:
        most: Words to find at most.
        listener: Hears how many are found.

    Raises:
        InputError: the embedding was made for other text encoders, or has more vectors than a chunk has room for.
    """
    words, measured = _Words(bundle), measured_in(bundle, embedding)
    searched, apart = (
        _Effect(bundle, embedding, contexts, words.ids) for contexts in (SEARCHED_IN, measured)
    )
    found: tuple[int, ...] = ()
    best, idle = -float("inf"), 0
    for count in range(1, most + 1):
        added = [place for token in searched.promising(found) for place in ((*found, token), (token, *found))]
        begun = (_best(searched, added), _best(searched, [searched.nearest(count)]))
        tried, share = max((_refined(searched, *each) for each in begun), key=lambda each: each[1])
        idle = 0 if share >= best + LEAST_GAIN else idle + 1
        if idle == PATIENCE:
            return
        found = tried
        listener.progress(count, most, "words")
        if not idle:
            best = share
            yield Explanation(words.spelled(found), float(apart.shares([found])[0]))


@torch.no_grad()
def nearest_words(bundle: Bundle, embedding: Embedding) -> Explanation:
    """The word of highest cosine to each vector, and what these do together: what lists of nearest tokens suggest."""
    words = _Words(bundle)
    apart = _Effect(bundle, embedding, measured_in(bundle, embedding), words.ids)
    near = apart.nearest(embedding.count)
    return Explanation(words.spelled(near), float(apart.shares([near])[0]))


def measured_in(bundle: Bundle, embedding: Embedding) -> list[str]:
    """The contexts that say what words do of what an embedding does: those kept apart; or, where none of these has room
    beside so many vectors, those searched in.

    Raises:
        InputError: there are more vectors than a chunk has room for.
    """
    fitting = (Contexts(bundle, texts, embedding.count).texts for texts in (KEPT_APART, SEARCHED_IN))
    found = next(filter(None, fitting), None)
    if not found:
        raise InputError(
            f"{embedding.name}: {embedding.count} vectors, and a chunk has room for {bundle.context_length - 2}; they "
            "cannot be explained"
        )
    return found


class _Words:
    """The words of a vocabulary that a prompt can say by one token, and their ids."""

    def __init__(self, bundle: Bundle):
        tokenizer = bundle.towers[0].tokenizer
        words = whole_words(tokenizer, shortest=1)
        read = tokenizer(words, add_special_tokens=False)["input_ids"]  # some tokens come out of no text
        self._by_id = {ids[0]: word for word, ids in zip(words, read, strict=True) if len(ids) == 1}
        self.ids = list(self._by_id)

    def spelled(self, ids: Sequence[int]) -> tuple[str, ...]:
        return tuple(self._by_id[token] for token in ids)


def _refined(effect: "_Effect", found: tuple[int, ...], share: float) -> tuple[tuple[int, ...], float]:
    """Words and their share after exchanges, one at a time, as long as they bring something."""
    for _ in range(ROUNDS):
        others, better = _best(effect, list(effect.exchanged(found)))
        if better <= share:
            break
        found, share = others, better
    return found, share


def _best(effect: "_Effect", candidates: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], float]:
    shares = effect.shares(candidates)
    place = int(shares.argmax())
    return candidates[place], float(shares[place])


class _Effect:
    """What an embedding does in contexts, and what words do in its place."""

    def __init__(self, bundle: Bundle, embedding: Embedding, contexts: Sequence[str], ids: Sequence[int]):
        self._bundle = bundle
        self._vectors = {
            embedding.name: {
                key: rows.to(bundle.device) for key, rows in vectors_for(bundle, embedding).items()
            }
        }
        self._first = self._vectors[embedding.name][bundle.towers[0].key].float()
        self._ids = ids
        # of each text encoder all token embeddings, and those of the words that may be found
        tables = [tower.encoder.get_input_embeddings().weight.float() for tower in bundle.towers]
        self._tables = [(table, table[torch.tensor(ids, device=table.device)]) for table in tables]
        self._count = embedding.count
        self._contexts = Contexts(bundle, contexts, embedding.count)
        own = Word(
            embedding.name, ((0,) * embedding.count,) * len(bundle.towers), (0, 0), embedding=embedding.name
        )
        self._with = encode_chunks(bundle, self._contexts.chunks([own]), self._vectors)
        self._without = encode_chunks(bundle, self._contexts.chunks([]))

    def shares(self, candidates: Sequence[Sequence[int]]) -> Tensor:
        """(candidates,) shares of the effect that sequences of tokens have, all of one length."""
        expected = self._expected(len(candidates[0]))
        chunks = [
            chunk
            for tokens in candidates
            for chunk in self._contexts.chunks(self._contexts.words([(token,) for token in tokens]))
        ]
        encoded = encode_chunks(self._bundle, chunks)
        places = torch.arange(len(self._with.states), device=self._bundle.device).repeat(len(candidates))
        missing = expected.missing(encoded.states, encoded.pooled, places)
        return 1 - missing.view(len(candidates), -1).mean(dim=1).cpu()

    def promising(self, found: Sequence[int]) -> list[int]:
        """Tokens to try beside those found: by the gradient where a mean token stands behind them, and nearest to each
        vector."""
        rows = [
            torch.cat([table[list(found)], words.mean(dim=0, keepdim=True)]) for table, words in self._tables
        ]
        steepest = self._gains(rows)[-1].topk(TRIED // 2).indices
        near = self._cosines(self._first).topk(max(TRIED // 4 // self._count, 1), dim=1).indices
        return [self._ids[place] for place in dict.fromkeys([*steepest.tolist(), *near.flatten().tolist()])]

    def exchanged(self, found: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """Those found with another token in one of the places, the most promising by the gradient."""
        gains = self._gains([table[list(found)] for table, _ in self._tables])
        for place in gains.flatten().topk(TRIED).indices.tolist():
            position, column = divmod(place, len(self._ids))
            yield (*found[:position], self._ids[column], *found[position + 1 :])

    def nearest(self, count: int) -> tuple[int, ...]:
        """As many tokens as asked for, each of highest cosine to its share of the vectors."""
        cuts = [place * self._count // count for place in range(count + 1)]
        means = [self._first[low : max(high, low + 1)].mean(dim=0) for low, high in pairwise(cuts)]
        return tuple(self._ids[place] for place in self._cosines(torch.stack(means)).argmax(dim=1).tolist())

    def _cosines(self, rows: Tensor) -> Tensor:
        return cosines(rows, self._tables[0][1])

    def _gains(self, rows: Sequence[Tensor]) -> Tensor:
        """(k, words): by how much the share should grow, to first order, with each word in the place of each row (k,
        width) of each text encoder."""
        with torch.enable_grad():
            learned = [each.detach().clone().requires_grad_() for each in rows]
            stand_in = {tower.key: each for tower, each in zip(self._bundle.towers, learned, strict=True)}
            count = len(rows[0])
            word = Word(_STANDS_IN, ((0,) * count,) * len(rows), (0, 0), embedding=_STANDS_IN)
            encoded = encode_chunks(self._bundle, self._contexts.chunks([word]), {_STANDS_IN: stand_in})
            places = torch.arange(len(self._with.states), device=self._bundle.device)
            missing = self._expected(count).missing(encoded.states, encoded.pooled, places).mean()
            gradients = torch.autograd.grad(missing, learned)
        gains = torch.zeros(count, len(self._ids), device=self._bundle.device)
        for gradient, row, (_, words) in zip(gradients, rows, self._tables, strict=True):
            gains -= gradient @ words.T - (gradient * row).sum(dim=1, keepdim=True)
        return gains

    def _expected(self, count: int) -> Expected:
        """What is to be met by `count` tokens in the embedding's place."""
        text, nothing = [], []
        for number, start in enumerate(self._contexts.starts()):
            rows = range(start, start + count)
            text.append(laid_out(self._with.states[number].float(), rows, self._count))
            nothing.append(laid_out(self._without.states[number].float(), rows, 0))
        return Expected.of(torch.stack(text), self._with.pooled, torch.stack(nothing), self._without.pooled)
