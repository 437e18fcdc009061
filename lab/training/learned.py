"""The learned vectors, the only parameters of a run: where they begin, and how they are copied and scaled."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.embeddings.embedding import XTI_LAYERS, Embedding, Kind, Provenance
from lab.embeddings.read import read_one
from lab.errors import InputError
from lab.models.bundle import Bundle, TextTower
from lab.models.vocabulary import norm_mean, norm_range, token_text, whole_words
from lab.score.clip import Clip, Shown, image_features
from lab.text import counted
from lab.training.places import embedding_of

TEXTS_AT_ONCE = 1024
"""Words whose CLIP text features are computed together."""


class Initial(NamedTuple):
    """First vectors.

    Attributes:
        vectors: (n, width) float32 for each text encoder.
        origins: For each vector, in words, where it comes from.
        text: The initial text, or what stands for it, for the saved file.
    """

    vectors: dict[str, Tensor]
    origins: tuple[str, ...]
    text: str


WordFinder = Callable[[int], Sequence[str]]
"""Returns that many words of the vocabulary that say best what the images show."""


def initial_vectors(
    bundle: Bundle, init: str, count: int, generator: torch.Generator, words: WordFinder | str
) -> Initial:
    """Makes `count` vectors for each text encoder.

    Args:
        init: `text:WORDS`, `file:EMBEDDING`, `random`, `auto`, or `cross` for what the encoders make of `auto`'s words.
        generator: For `random`.
        words: For `auto` and `cross`: what finds the words, or a text if there is no CLIP to find them with.

    Raises:
        InputError: no text, or an embedding of another number of vectors, for another model, or that does not act in
            front of the text encoder.
    """
    kind, _, value = init.partition(":")
    if kind == "random":
        return _from_chance(bundle, count, generator)
    if kind == "file":
        return _from_embedding(bundle, value, count)
    if kind in ("auto", "cross"):
        value = words if isinstance(words, str) else " ".join(words(count))
    return initial_from_text(bundle, value, count, crossed=kind == "cross")


def initial_from_text(bundle: Bundle, text: str, count: int, crossed: bool = False) -> Initial:
    """Spreads the tokens of a text over `count` vectors.

    Vector i of n takes token floor(i k / n) of k, as the A1111 web UI stretches them; with fewer vectors than
    tokens, it takes the mean of tokens floor(i k / n) up to floor((i + 1) k / n).

    Args:
        crossed: Takes the text encoders' outputs for the tokens in the place of their inputs, as Cross Initialization
            does (2312.15905): learned vectors end nearer to these, and are as long. As in its authors' code, nothing
            shortens them, since their length is half of what brings them nearer: 15 on the bundled model, whose words
            have 0.25 to 0.86.

    Raises:
        InputError: a text without tokens.
    """
    vectors: dict[str, Tensor] = {}
    origins: tuple[str, ...] = ()
    for tower in bundle.towers:
        ids = tower.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise InputError(f"init: '{text}' holds no token to begin with; write text:WORDS")
        rows = _outputs(tower, ids) if crossed else tower.encoder.get_input_embeddings().weight[ids]
        rows, ids = rows.detach().float().cpu(), ids[: len(rows)]
        groups = [
            slice(i * len(ids) // count, max((i + 1) * len(ids) // count, i * len(ids) // count + 1))
            for i in range(count)
        ]
        vectors[tower.key] = torch.stack([rows[group].mean(dim=0) for group in groups])
        origins = origins or tuple(_spelled(tower, ids[group]) for group in groups)
    return Initial(vectors, origins, text)


@torch.no_grad()
def _outputs(tower: TextTower, ids: list[int]) -> Tensor:
    """(k, width): what a text encoder makes of k tokens, each in its place behind the start token."""
    tokenizer = tower.tokenizer
    whole = [tokenizer.bos_token_id, *ids[: tower.context_length - 2], tokenizer.eos_token_id]
    states = tower.encoder(torch.tensor([whole], device=tower.encoder.device)).last_hidden_state
    return states[0, 1:-1]


def nearest_words(bundle: Bundle, clip: Clip, images: Sequence[Shown], skip: int = 0) -> WordFinder:
    """A function that gives the n words of the vocabulary whose CLIP text features are nearest the mean of the images'
    CLIP image features, behind those that are skipped. The first images count, see `image_features`."""

    def find(count: int) -> list[str]:
        words = whole_words(bundle.towers[0].tokenizer)
        mean = F.normalize(image_features(clip, images).mean(dim=0), dim=0)
        batches = [words[start : start + TEXTS_AT_ONCE] for start in range(0, len(words), TEXTS_AT_ONCE)]
        cosines = torch.cat([clip.texts(batch) @ mean for batch in batches])
        nearest = cosines.topk(min(skip + count, len(words))).indices.tolist()
        return [words[place] for place in nearest[skip:]]

    return find


def _spelled(tower: TextTower, ids: list[int]) -> str:
    return " + ".join(token_text(token) or token for token in tower.tokenizer.convert_ids_to_tokens(ids))


def _from_chance(bundle: Bundle, count: int, generator: torch.Generator) -> Initial:
    """Normal vectors, each scaled to the median norm of the vocabulary."""
    vectors = {}
    for tower in bundle.towers:
        rows = torch.randn(count, tower.width, generator=generator)
        vectors[tower.key] = rows / rows.norm(dim=1, keepdim=True) * norm_range(tower.encoder)[1]
    return Initial(vectors, ("random",) * count, "")


def _from_embedding(bundle: Bundle, path: str, count: int) -> Initial:
    found = read_one(path)  # of a pair the half that is named
    widths = {tower.key: tower.width for tower in bundle.towers}
    if found.widths != widths:
        raise InputError(
            f"init: {path} has vectors of widths {found.widths}, but {bundle.source} needs {widths}"
        )
    if found.place != "input":
        raise InputError(f"init: {path} does not act in front of the text encoder, where vectors begin")
    if found.count != count:
        raise InputError(f"init: {path} has {counted(found.count, 'vector')}; give --vectors {found.count}")
    origins = tuple(f"{found.name}[{row}]" for row in range(count))
    return Initial(dict(found.vectors), origins, f"file:{found.name}")


Snapshot = dict[str, Tensor]
"""Copies of all vectors by `NAME/KEY`, the key being the text encoder's, or that of another place (`places.py`);
(n, width) float32 on the CPU."""


@dataclass(frozen=True)
class Beginning:
    """An embedding before its first step.

    Attributes:
        kind: What it is to become.
        initial: Its first vectors, brought to their place.
        rate: Its learning rate.
        partner: The name of the other half of a pair.
    """

    name: str
    kind: Kind
    initial: Initial
    rate: float
    partner: str | None = None

    def embedding(self) -> Embedding:
        """The first vectors as an embedding that prompts can name."""
        return embedding_of(self.name, self.initial.vectors, self.kind)

    def describe(self) -> Iterator[str]:
        """Yields lines for people: which tokens the vectors begin at."""
        yield f"<{self.name}> begins at:"
        for position, origin in enumerate(self.initial.origins, start=1):
            yield f"  vector {position}: {origin}"


_BEING_LEARNED = Provenance(sha256="being learned")
"""Of embeddings whose bytes are not to be looked at, as that would wait for the device."""


class Learned:
    """Vectors by embedding name and key (see `Snapshot`): (n, width) float32 parameters on the model's device."""

    def __init__(self, bundle: Bundle, beginnings: Sequence[Beginning]):
        self.beginnings = {beginning.name: beginning for beginning in beginnings}
        self.rows = {
            beginning.name: {
                key: nn.Parameter(rows.detach().clone().float().to(bundle.device))
                for key, rows in beginning.initial.vectors.items()
            }
            for beginning in beginnings
        }
        ranges = {tower.key: norm_range(tower.encoder) for tower in bundle.towers}
        self._norms = ranges | dict.fromkeys(XTI_LAYERS, next(iter(ranges.values())))
        means = {tower.key: norm_mean(tower.encoder) for tower in bundle.towers}
        self._means = means | dict.fromkeys(XTI_LAYERS, next(iter(means.values())))

    @property
    def placed(self) -> dict[str, Embedding]:
        """The embeddings that are learned, by name, whose tensors are the parameters: texts encoded with them are
        differentiable, and change as they do."""
        return {
            name: embedding_of(name, encoders, self.beginnings[name].kind, _BEING_LEARNED)
            for name, encoders in self.rows.items()
        }

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter under `NAME/KEY`, always in the same order."""
        for name, encoders in self.rows.items():
            for key, rows in encoders.items():
                yield f"{name}/{key}", rows

    def parameters(self) -> list[nn.Parameter]:
        """The parameters in the order of `named`."""
        return [rows for _, rows in self.named()]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for an optimizer of torch, one an embedding; `peak` keeps the learning rate before any schedule."""
        rates = {name: beginning.rate for name, beginning in self.beginnings.items()}
        return [
            {"params": list(encoders.values()), "lr": rates[name], "peak": rates[name]}
            for name, encoders in self.rows.items()
        ]

    def snapshot(self) -> Snapshot:
        """Copies of the vectors as they are."""
        return {name: rows.detach().cpu().clone() for name, rows in self.named()}

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Sets the vectors to those of a snapshot."""
        for name, rows in self.named():
            rows.copy_(snapshot[name])

    def moved(self, snapshot: Snapshot) -> bool:
        """Whether any vector of a snapshot differs from where it began."""
        return any(
            not torch.equal(snapshot[f"{name}/{key}"], rows.float())
            for name, beginning in self.beginnings.items()
            for key, rows in beginning.initial.vectors.items()
        )

    def embeddings(self, snapshot: Snapshot | None = None) -> list[Embedding]:
        """The vectors, as they are or as a snapshot has them, as embeddings that prompts can name."""
        snapshot = snapshot or self.snapshot()
        return [
            embedding_of(
                name, {key: snapshot[f"{name}/{key}"] for key in encoders}, self.beginnings[name].kind
            )
            for name, encoders in self.rows.items()
        ]

    def norms(self) -> dict[str, list[float]]:
        """The norm of each vector by `NAME/KEY`."""
        return {name: rows.detach().norm(dim=1).tolist() for name, rows in self.named()}

    def outside_vocabulary(self) -> dict[str, str]:
        """Which vectors in front of a text encoder have left the range of the vocabulary's norms, with a line for
        people; by `NAME/ENCODER`, and one for all layers."""
        lines = {}
        for name, norms in self.norms().items():
            whose, key = name.rsplit("/", 1)
            low, _, high = self._norms.get(key, (0, 0, math.inf))
            told = f"{whose}/layers" if key in XTI_LAYERS else name
            # clamped norms may be off by a digit
            if told not in lines and not low * 0.999 <= min(norms) <= max(norms) <= high * 1.001:
                lines[told] = (
                    f"{name}: vector norms {min(norms):.3g} to {max(norms):.3g} lie outside the vocabulary's "
                    f"{low:.3g} to {high:.3g}; --norm clamp would keep them inside"
                )
        return lines

    @torch.no_grad()
    def adjust_norms(self, how: Literal["free", "clamp", "rescale", "mean"]) -> None:
        """Scales vectors: `clamp` into the vocabulary's range of norms, `rescale` to its median (as OneTrainer's
        `preserve_embedding_norm`), `mean` to its mean (as 2512.13672); `free` leaves them alone."""
        if how == "free":
            return
        for name, rows in self.named():
            key = name.rsplit("/", 1)[1]
            low, median, high = self._norms[key]
            norms = rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
            wanted = (
                norms.clamp(low, high) if how == "clamp" else median if how == "rescale" else self._means[key]
            )
            rows.mul_(wanted / norms)
