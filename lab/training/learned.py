"""The learned vectors: the only parameters of a run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lab.embeddings.embedding import Embedding, Kind
from lab.models.bundle import Bundle
from lab.models.vocabulary import norm_range
from lab.training.initial import Initial

Snapshot = dict[str, Tensor]
"""Copies of all vectors by `NAME/ENCODER`, (n, width) float32 on the CPU."""


@dataclass(frozen=True)
class Beginning:
    """An embedding before its first step.

    Attributes:
        kind: What it is to become.
        initial: Its first vectors.
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
        return Embedding(self.name, self.initial.vectors, kind=self.kind)

    def describe(self) -> Iterator[str]:
        """Yields lines for people: which tokens the vectors begin at."""
        yield f"<{self.name}> begins at:"
        for position, origin in enumerate(self.initial.origins, start=1):
            yield f"  vector {position}: {origin}"


class Learned:
    """Vectors by embedding name and text encoder: (n, width) float32 parameters on the model's device."""

    def __init__(self, bundle: Bundle, beginnings: Sequence[Beginning]):
        self.beginnings = {beginning.name: beginning for beginning in beginnings}
        self.rows = {
            beginning.name: {
                key: nn.Parameter(rows.detach().clone().float().to(bundle.device))
                for key, rows in beginning.initial.vectors.items()
            }
            for beginning in beginnings
        }
        self._norms = {tower.key: norm_range(tower.encoder) for tower in bundle.towers}

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter under `NAME/ENCODER`, always in the same order."""
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
            Embedding(
                name, {key: snapshot[f"{name}/{key}"] for key in encoders}, kind=self.beginnings[name].kind
            )
            for name, encoders in self.rows.items()
        ]

    def norms(self) -> dict[str, list[float]]:
        """The norm of each vector by `NAME/ENCODER`."""
        return {name: rows.detach().norm(dim=1).tolist() for name, rows in self.named()}

    def outside_vocabulary(self) -> dict[str, str]:
        """Which vectors have left the range of the vocabulary's norms, by `NAME/ENCODER`, with a line for people."""
        lines = {}
        for name, norms in self.norms().items():
            low, _, high = self._norms[name.rsplit("/", 1)[1]]
            # clamped norms may be off by a digit
            if not low * 0.999 <= min(norms) <= max(norms) <= high * 1.001:
                lines[name] = (
                    f"{name}: vector norms {min(norms):.3g} to {max(norms):.3g} lie outside the vocabulary's "
                    f"{low:.3g} to {high:.3g}; --norm clamp would keep them inside"
                )
        return lines

    @torch.no_grad()
    def adjust_norms(self, how: Literal["free", "clamp", "rescale"]) -> None:
        """Scales vectors: `clamp` into the vocabulary's range of norms, `rescale` to its median (as OneTrainer's
        `preserve_embedding_norm`); `free` leaves them alone."""
        if how == "free":
            return
        for name, rows in self.named():
            low, median, high = self._norms[name.rsplit("/", 1)[1]]
            norms = rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
            rows.mul_((norms.clamp(low, high) if how == "clamp" else median) / norms)
