"""Cross-attention of a U-Net while a block is open: who is told of it, and what it computes instead.

Each is a context manager that puts back what it found; threads that use the model meanwhile see none of it.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from lab.errors import InputError
from lab.models.threads import Forward, forwards_replaced


@contextmanager
def text_keys_kept(unet: UNet2DConditionModel) -> Iterator[None]:
    """Inside the block, cross-attention projects a text again only when it is another tensor than before.

    No denoising step changes keys and values of the texts. Of the bundled model, whose latents are small, computing
    them is a tenth of all arithmetic; of SD 1.5 at 512 x 512 less than a hundredth. Keeping them takes layers x rows
    x tokens x channels x 2 numbers in each thread. The layers are put back when the block ends, however it ends.
    """
    attentions = [module for module in unet.modules() if _attends_to_text(module)]
    layers = [layer for attention in attentions for layer in (attention.to_k, attention.to_v)]
    with forwards_replaced(layers, lambda _layer, compute: _KeptProjection(compute)):
        yield


class _KeptProjection:
    """A projection that remembers its last input and what it made of it."""

    def __init__(self, compute: Callable[[Tensor], Tensor]):
        self._compute = compute
        self._text: Tensor | None = None
        self._projected = torch.empty(0)

    def __call__(self, text: Tensor) -> Tensor:
        if text is not self._text:
            self._text, self._projected = text, self._compute(text)
        return self._projected


def _attends_to_text(module: nn.Module) -> bool:
    return isinstance(module, Attention) and module.is_cross_attention


class Keys(NamedTuple):
    """What is attended to, by heads.

    Attributes:
        keys, values: (b, heads, n, c).
        bias: (b, 1, 1, n), added to the scores: minus infinity hides a key; or None.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor | None = None


def attend_to(queries: Tensor, text: Keys) -> Tensor:
    """(b, heads, pixels, c): plain attention of queries of that shape."""
    return F.scaled_dot_product_attention(queries, text.keys, text.values, attn_mask=text.bias)


Avoiding = Callable[[Tensor, Keys, Keys], Tensor]
"""From queries (b, heads, pixels, c), the texts that they attend to and what these avoid, to an output like them."""


@dataclass(frozen=True)
class Avoidance:
    """What cross-attention avoids, whose rows stand behind those of each text.

    Attributes:
        texts: Rows of the texts; those that follow are avoided.
        first: The first entry of the U-Net's batch that avoids anything; those before attend to their texts alone.
        bias: (b - first, 1, 1, rows) of what is avoided: 0, and minus infinity for rows that only fill up.
        avoiding: What the layers compute.
    """

    texts: int
    first: int
    bias: Tensor
    avoiding: Avoiding

    def __call__(self, layer: Attention, image: Tensor, text: Tensor) -> Tensor:
        """One layer's output for image states (b, pixels, c) and text states (b, texts + rows, d)."""
        queries, keys, values = (
            project(states).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
            for project, states in ((layer.to_q, image), (layer.to_k, text), (layer.to_v, text))
        )
        (keys, avoided_keys), (values, avoided_values) = (
            each.tensor_split([self.texts], dim=2) for each in (keys, values)
        )
        plain, some = slice(self.first), slice(self.first, None)
        avoided = Keys(avoided_keys[some], avoided_values[some], self.bias.to(queries.dtype))
        output = self.avoiding(queries[some], Keys(keys[some], values[some]), avoided)
        if self.first:
            output = torch.cat([attend_to(queries[plain], Keys(keys[plain], values[plain])), output])
        return layer.to_out[1](layer.to_out[0](output.transpose(1, 2).flatten(2)))


Listener = Callable[[Attention, Tensor, Tensor], None]
"""Hears of a layer, its image states (b, pixels, c) and the text states (b, keys, d) that they attend to."""


@dataclass(frozen=True)
class _CrossAttention:
    """A cross-attention layer's `forward` in one thread: whom it tells, what it reads, and what that avoids."""

    layer: Attention
    plain: Forward
    told: tuple[Listener, ...] = ()
    avoidance: Avoidance | None = None
    text: Tensor | None = None

    def __call__(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        avoidance, text = self.avoidance, encoder_hidden_states if self.text is None else self.text
        for tell in self.told:
            tell(self.layer, hidden_states, text if avoidance is None else text[:, : avoidance.texts])
        if avoidance is None:
            return self.plain(hidden_states, text, *args, **kwargs)
        return avoidance(self.layer, hidden_states, text)


@contextmanager
def _cross_attention(
    unet: UNet2DConditionModel,
    layers: Sequence[str] = (),
    told: tuple[Listener, ...] = (),
    avoidance: Avoidance | None = None,
    texts: Sequence[Tensor] = (),
) -> Iterator[None]:
    """Inside the block, cross-attention layers tell and avoid more; blocks within each other add up.

    Args:
        layers: Parts of their names, or all (`cross_attention_layers`).
        texts: What each of them reads in place of the text that it is given, from the U-Net's input on.
    """
    names = cross_attention_layers(unet, layers)
    chosen = [unet.get_submodule(name.removesuffix(".processor")) for name in names]
    own = dict(zip(chosen, texts, strict=True)) if texts else {}

    def replace(layer: nn.Module, forward: Forward) -> Forward:
        assert isinstance(layer, Attention), "by its name"
        before = forward if isinstance(forward, _CrossAttention) else _CrossAttention(layer, forward)
        acts = avoidance or before.avoidance, own.get(layer, before.text)
        return _CrossAttention(layer, before.plain, before.told + told, *acts)

    with forwards_replaced(chosen, replace):
        yield


@contextmanager
def texts_by_layer(unet: UNet2DConditionModel, texts: Sequence[Tensor]) -> Iterator[None]:
    """Inside the block, each cross-attention layer of `unet` reads a text of its own.

    Args:
        texts: (b, n, d) for each layer, from the U-Net's input to its output.
    """
    with _cross_attention(unet, texts=texts):
        yield


@contextmanager
def attention_avoiding(unet: UNet2DConditionModel, avoidance: Avoidance) -> Iterator[None]:
    """Inside the block, the cross-attention of `unet` avoids what stands behind the texts it is given."""
    with _cross_attention(unet, avoidance=avoidance):
        yield


class AttentionRecorder:
    """Running sums of cross-attention probabilities, one for each resolution of the U-Net.

    Nothing is kept for a layer or a head: a call of the U-Net leaves keys x pixels numbers for each entry of its
    batch and each resolution, however many layers there are.
    """

    def __init__(self, heads: Collection[int] = ()):
        self._heads = heads
        self._sums: dict[int, Tensor] = {}
        self._layers = 0

    def pop_maps(self) -> dict[int, Tensor]:
        """The maps recorded since the last call of this method, averaged over heads and layers.

        Returns:
            (batch, keys, pixels) float32 by number of pixels. Each resolution holds its layers' share: brought to
            one size and added up, the maps sum to 1 over the keys at every pixel.

        Raises:
            InputError: no layer has any of the chosen heads.
        """
        if not self._layers:
            chosen = ", ".join(map(str, sorted(self._heads)))
            raise InputError(f"heads {chosen}: no cross-attention layer has these; they are counted from 0")
        maps = {pixels: total / self._layers for pixels, total in self._sums.items()}
        self._sums, self._layers = {}, 0
        return maps

    def add_layer(self, layer: Attention, image: Tensor, text: Tensor) -> None:
        """Adds one layer's probabilities for image states (b, pixels, c) over text states (b, keys, d)."""
        heads = [head for head in range(layer.heads) if head in self._heads]
        if self._heads and not heads:
            return
        queries = _split_heads(layer.to_q(image), layer.heads)
        keys = _split_heads(layer.to_k(text), layer.heads)
        if heads:  # stacked, as an index would have to be brought to the device
            queries, keys = (torch.stack([each[:, head] for head in heads], 1) for each in (queries, keys))
        pixels = image.shape[1]
        if pixels not in self._sums:
            self._sums[pixels] = queries.new_zeros((len(image), text.shape[1], pixels))
        for entry, (query, key) in enumerate(zip(queries, keys, strict=True)):  # one by one: heads are many
            scores = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5
            self._sums[pixels][entry] += scores.softmax(dim=-1).mean(dim=0).T
        self._layers += 1


@contextmanager
def attention_recorded(
    unet: UNet2DConditionModel, layers: Sequence[str] = (), heads: Collection[int] = ()
) -> Iterator[AttentionRecorder]:
    """Inside the block, every call of `unet` also records its cross-attention probabilities.

    Each layer still computes what it did, so that the U-Net's output is bit-identical. Calls of other threads are
    not recorded; the layers are put back when the block ends, however it ends.

    Args:
        layers: Parts of names, such as `up_blocks` or `down_blocks.2`; a layer counts if any is in its name. All
            cross-attention layers if empty.
        heads: Which heads count, from 0; all if empty.

    Raises:
        InputError: a part of a name that no cross-attention layer has.
    """
    recorder = AttentionRecorder(heads)
    with _cross_attention(unet, layers, told=(recorder.add_layer,)):
        yield recorder


Grid = tuple[int, int]
"""Height and width in pixels."""


def grid_of(pixels: int, height: int, width: int) -> Grid:
    """The resolution of a layer with so many pixels, in a U-Net that halves latents of height x width."""
    while height * width > pixels:
        height, width = height // 2, width // 2
    return height, width


def at_one_size(maps: Iterable[Tensor], size: Grid) -> Tensor:
    """(b, n, *size): maps (b, n, height, width) of several resolutions, brought to one and added up."""
    return torch.stack([F.interpolate(one, size, mode="bilinear") for one in maps]).sum(dim=0)


def cross_attention_layers(unet: UNet2DConditionModel, layers: Sequence[str] = ()) -> list[str]:
    """The names of a U-Net's cross-attention processors, from its input to its output: those that have any of these
    parts in them, or all.

    Raises:
        InputError: a part of a name that no cross-attention layer has.
    """
    found = [name for name in unet.attn_processors if ".attn2." in name]
    names = sorted(
        found, key=lambda name: ("down_blocks", "mid_block", "up_blocks").index(name.split(".")[0])
    )
    for part in layers:
        if not any(part in name for name in names):
            known = ", ".join(name.partition(".transformer_blocks")[0] for name in names)
            raise InputError(f"layers: no cross-attention layer has '{part}' in its name; there are {known}")
    return [name for name in names if not layers or any(part in name for part in layers)]


def _split_heads(states: Tensor, heads: int) -> Tensor:
    """(b, n, heads * c) -> (b, heads, n, c), in float32 so that the probabilities sum to 1 in any precision."""
    return states.unflatten(-1, (heads, -1)).transpose(1, 2).float()
