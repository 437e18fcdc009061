"""The learned vectors, the only parameters of a run, and where they begin."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lab.embeddings.embedding import Embedding, Kind
from lab.embeddings.read import read_one
from lab.errors import InputError
from lab.models.bundle import Bundle, TextTower

Snapshot = dict[str, Tensor]
"""Copies of all vectors by `NAME/ENCODER`, (n, width) float32 on the CPU."""


class Learned:
    """Vectors by embedding name and text encoder: (n, width) float32 parameters on the model's device."""

    def __init__(
        self, bundle: Bundle, vectors: Mapping[str, Mapping[str, Tensor]], kinds: Mapping[str, Kind]
    ):
        self.rows = {
            name: {
                key: nn.Parameter(rows.detach().clone().float().to(bundle.device))
                for key, rows in of_name.items()
            }
            for name, of_name in vectors.items()
        }
        self._kinds = kinds
        self._norms = {tower.key: vocabulary_norms(tower.encoder) for tower in bundle.towers}

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter under `NAME/ENCODER`, always in the same order."""
        for name, of_name in self.rows.items():
            for key, rows in of_name.items():
                yield f"{name}/{key}", rows

    def parameters(self) -> list[nn.Parameter]:
        """The parameters in the order of `named`."""
        return [rows for _, rows in self.named()]

    def snapshot(self) -> Snapshot:
        """Copies of the vectors as they are."""
        return {name: rows.detach().cpu().clone() for name, rows in self.named()}

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Puts copies back."""
        for name, rows in self.named():
            rows.copy_(snapshot[name])

    def embeddings(self, snapshot: Snapshot | None = None) -> list[Embedding]:
        """The vectors (or those of a snapshot) as ordinary embeddings."""
        snapshot = snapshot or self.snapshot()
        return [
            Embedding(name, {key: snapshot[f"{name}/{key}"] for key in of_name}, kind=self._kinds[name])
            for name, of_name in self.rows.items()
        ]

    def norms(self) -> dict[str, list[float]]:
        """The norm of each vector by `NAME/ENCODER`."""
        return {name: rows.detach().norm(dim=1).tolist() for name, rows in self.named()}

    def outside(self) -> dict[str, str]:
        """Which vectors have left the range of the vocabulary's norms, by `NAME/ENCODER`, with a line for people."""
        lines = {}
        for name, norms in self.norms().items():
            low, _, high = self._norms[name.rsplit("/", 1)[1]]
            if (
                not low * 0.999 <= min(norms) <= max(norms) <= high * 1.001
            ):  # clamped norms may be off by a digit
                lines[name] = (
                    f"{name}: vector norms {min(norms):.3g} to {max(norms):.3g} lie outside the vocabulary's "
                    f"{low:.3g} to {high:.3g}; --norm clamp would keep them inside"
                )
        return lines

    @torch.no_grad()
    def hold(self, how: str) -> None:
        """Brings norms back: `clamp` into the vocabulary's range, `rescale` to its median (as OneTrainer's
        `preserve_embedding_norm`); `free` leaves them alone."""
        if how == "free":
            return
        for name, rows in self.named():
            low, median, high = self._norms[name.rsplit("/", 1)[1]]
            norms = rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
            rows.mul_((norms.clamp(low, high) if how == "clamp" else median) / norms)


def vocabulary_norms(encoder: nn.Module) -> tuple[float, float, float]:
    """Smallest, median and largest norm of the text encoder's token embeddings."""
    norms = encoder.get_input_embeddings().weight.detach().float().norm(dim=1)  # type: ignore[operator]
    return float(norms.min()), float(norms.median()), float(norms.max())


def vocabulary_scale(encoder: nn.Module) -> float:
    """Root mean square of the values in the token embeddings: what a value of a vector is measured in."""
    return float(encoder.get_input_embeddings().weight.detach().float().square().mean().sqrt())  # type: ignore[operator]


@dataclass(frozen=True)
class Initial:
    """First vectors.

    Attributes:
        vectors: (n, width) for each text encoder.
        origins: For each vector, in words, where it comes from.
        text: The initial text, or what stands for it, for the saved file.
    """

    vectors: dict[str, Tensor]
    origins: tuple[str, ...]
    text: str


Nearest = Callable[[int], Sequence[str]]
"""Returns that many words of the vocabulary that say best what the images show."""


def initial_vectors(
    bundle: Bundle, init: str, count: int, generator: torch.Generator, nearest: Nearest | None, word: str
) -> Initial:
    """Makes `count` vectors for each text encoder.

    Args:
        init: `text:WORDS`, `file:EMBEDDING`, `random` or `auto`.
        nearest: Finds the words for `auto`; None if there is no CLIP to find them with.
        word: What `auto` falls back to then.

    Raises:
        InputError: no text, or an embedding of another number of vectors or for another model.
    """
    kind, _, value = init.partition(":")
    if kind == "random":
        return _random(bundle, count, generator)
    if kind == "file":
        return _from_embedding(bundle, value, count)
    if kind == "text":
        return from_text(bundle, value, count)
    return from_text(bundle, " ".join(nearest(count)) if nearest else word, count)


def from_text(bundle: Bundle, text: str, count: int) -> Initial:
    """Spreads the tokens of a text over the vectors.

    Vector i of n takes token floor(i k / n) of k, as the A1111 web UI stretches them; with fewer vectors than
    tokens, it takes the mean of tokens floor(i k / n) up to floor((i + 1) k / n).

    Raises:
        InputError: a text without tokens.
    """
    vectors: dict[str, Tensor] = {}
    origins: tuple[str, ...] = ()
    for tower in bundle.towers:
        ids = tower.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise InputError(f"init: '{text}' holds no token to begin with; write text:WORDS")
        table = tower.encoder.get_input_embeddings().weight.detach().float().cpu()
        groups = [
            ids[i * len(ids) // count : max((i + 1) * len(ids) // count, i * len(ids) // count + 1)]
            for i in range(count)
        ]
        vectors[tower.key] = torch.stack([table[group].mean(dim=0) for group in groups])
        origins = origins or tuple(_spelled(tower, group) for group in groups)
    return Initial(vectors, origins, text)


def _spelled(tower: TextTower, ids: list[int]) -> str:
    return " + ".join(
        token.replace("</w>", " ").strip() or token for token in tower.tokenizer.convert_ids_to_tokens(ids)
    )


def _random(bundle: Bundle, count: int, generator: torch.Generator) -> Initial:
    """Normal vectors, each scaled to the median norm of the vocabulary."""
    vectors = {}
    for tower in bundle.towers:
        rows = torch.randn(count, tower.width, generator=generator)
        vectors[tower.key] = rows / rows.norm(dim=1, keepdim=True) * vocabulary_norms(tower.encoder)[1]
    return Initial(vectors, ("random",) * count, "")


def _from_embedding(bundle: Bundle, path: str, count: int) -> Initial:
    found = read_one(path)  # of a pair the half that is named
    widths = {tower.key: tower.width for tower in bundle.towers}
    if found.widths != widths:
        raise InputError(
            f"init: {path} has vectors of widths {found.widths}, but {bundle.source} needs {widths}"
        )
    if found.count != count:
        raise InputError(f"init: {path} has {found.count} vectors; give --vectors {found.count}")
    origins = tuple(f"{found.name}[{row}]" for row in range(count))
    return Initial(dict(found.vectors), origins, f"file:{found.name}")
