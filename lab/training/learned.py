"""The learned vectors: the only parameters of a run."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from lab.embeddings.embedding import Embedding, Kind
from lab.models.bundle import Bundle

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
