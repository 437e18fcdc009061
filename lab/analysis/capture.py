"""Cross-attention probabilities, read while the U-Net computes and without changing what it computes."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from lab.errors import InputError

CROSS_ATTENTION = ".attn2."
"""What the names of a U-Net's cross-attention layers have in common."""


class Recorder:
    """Running sums of cross-attention probabilities, one for each resolution of the U-Net.

    Nothing is kept for a layer or a head: a call of the U-Net leaves keys x pixels numbers for each entry of its
    batch and each resolution, however many layers there are.
    """

    def __init__(self, heads: Collection[int] = ()):
        self._heads = heads
        self._sums: dict[int, Tensor] = {}
        self._layers = 0

    def take(self) -> dict[int, Tensor]:
        """The maps since the last `take`, averaged over heads and layers.

        Returns:
            (batch, keys, pixels) float32 by number of pixels. Each resolution holds its layers' share: brought to
            one size and added up, the maps sum to 1 over the keys at every pixel.

        Raises:
            InputError: no layer has any of the chosen heads.
        """
        if not self._layers:
            chosen = ", ".join(map(str, sorted(self._heads)))
            raise InputError(f"heads {chosen}: no cross-attention layer has these; they are counted from 0")
        shares = {pixels: total / self._layers for pixels, total in self._sums.items()}
        self._sums, self._layers = {}, 0
        return shares

    def add(self, layer: Attention, image: Tensor, text: Tensor) -> None:
        """Adds one layer's probabilities for image states (b, pixels, c) over text states (b, keys, d)."""
        heads = [head for head in range(layer.heads) if not self._heads or head in self._heads]
        if not heads:
            return
        queries, keys = (
            _split(states, layer.heads)[:, heads] for states in (layer.to_q(image), layer.to_k(text))
        )
        pixels = image.shape[1]
        if pixels not in self._sums:
            self._sums[pixels] = queries.new_zeros((len(image), text.shape[1], pixels))
        for entry, (query, key) in enumerate(zip(queries, keys, strict=True)):  # one by one: heads are many
            scores = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5
            self._sums[pixels][entry] += scores.softmax(dim=-1).mean(dim=0).T
        self._layers += 1


@contextmanager
def capturing(
    unet: UNet2DConditionModel, layers: Sequence[str] = (), heads: Collection[int] = ()
) -> Iterator[Recorder]:
    """Inside the block, every call of `unet` also records its cross-attention probabilities.

    Each layer's own processor still computes what the U-Net goes on with, so that its output is bit-identical; the
    processors are put back when the block ends, however it ends.

    Args:
        layers: Parts of names, such as `up_blocks` or `down_blocks.2`; a layer counts if any is in its name. All
            cross-attention layers if empty.
        heads: Which heads count, from 0; all if empty.

    Raises:
        InputError: a part of a name that no cross-attention layer has.
    """
    before: dict[str, Any] = dict(unet.attn_processors)
    chosen = choose_layers(unet, layers)
    recorder = Recorder(heads)
    beside = {name: _Beside(processor, recorder) for name, processor in before.items() if name in chosen}
    unet.set_attn_processor(before | beside)
    try:
        yield recorder
    finally:
        unet.set_attn_processor(dict(before))  # the setter empties the dictionary that it is given


class _Beside:
    """An attention processor that tells the recorder and leaves the work to the one it stands for."""

    def __init__(self, processor: Any, recorder: Recorder):
        self._processor = processor
        self._recorder = recorder

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        self._recorder.add(attn, hidden_states, encoder_hidden_states)
        return self._processor(attn, hidden_states, encoder_hidden_states, *args, **kwargs)


def choose_layers(unet: UNet2DConditionModel, layers: Sequence[str]) -> set[str]:
    """The names of the cross-attention layers' processors, of those that have any of these parts in them, or of all.

    Raises:
        InputError: a part of a name that no cross-attention layer has.
    """
    names = [name for name in unet.attn_processors if CROSS_ATTENTION in name]
    for part in layers:
        if not any(part in name for name in names):
            known = ", ".join(name.partition(".transformer_blocks")[0] for name in names)
            raise InputError(f"layers: no cross-attention layer has '{part}' in its name; there are {known}")
    return {name for name in names if not layers or any(part in name for part in layers)}


def _split(states: Tensor, heads: int) -> Tensor:
    """(b, n, heads * c) -> (b, heads, n, c), in float32 so that the probabilities sum to 1 in any precision."""
    return states.unflatten(-1, (heads, -1)).transpose(1, 2).float()
