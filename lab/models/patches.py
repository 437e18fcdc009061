"""Temporary changes of a model's modules, each a context manager that puts back what it found.

Threads may use one model at a time, each with changes of its own.

Permanent changes are made once, at load: `lab.models.device.arrange_modules`.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.models.device import to_device
from lab.models.threads import Forward, changing, forwards_replaced


class Placement(NamedTuple):
    """Where learned vectors go in a batch of token ids.

    Attributes:
        entries, positions: (k,) each: batch entry and position in it of every row.
        rows: (k, width) learned vectors.
    """

    entries: Tensor
    positions: Tensor
    rows: Tensor


@contextmanager
def learned_rows(encoder: nn.Module, placement: Placement | None) -> Iterator[None]:
    """Inside the block, a text encoder sees learned vectors in place of some of its own token embeddings.

    Rows of the input embedding's output are replaced: table and tokenizer are never resized, and gradients flow into
    the rows. Other threads that use the encoder meanwhile see their own vectors, or none.
    """
    if placement is None:
        yield
        return

    def replace(_table: nn.Module, look_up: Forward) -> Forward:
        def look_up_learned(ids: Tensor) -> Tensor:
            output: Tensor = look_up(ids)
            index = tuple(to_device(each, output.device) for each in placement[:2])
            return output.index_put(index, placement.rows.to(output))

        return look_up_learned

    with forwards_replaced([encoder.get_input_embeddings()], replace):  # type: ignore[operator]
        yield


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


@contextmanager
def frozen(bundle: Bundle, gradient_checkpointing: bool = False) -> Iterator[None]:
    """Inside the block no weight of the bundle takes a gradient, and the U-Net may trade time for memory.

    Activations before the first cross-attention then need no memory for the way back either. Blocks may overlap, in
    one thread or several: the last one to end puts the modules back as the first one found them.
    """
    with changing:
        state = _FROZEN.setdefault(id(bundle.unet), _Frozen(bundle))
        state.enter(gradient_checkpointing)
    try:
        yield
    finally:
        with changing:
            state.leave(gradient_checkpointing)
            if not state.blocks:
                del _FROZEN[id(bundle.unet)]


class _Frozen:
    """A bundle's modules while blocks of `frozen` are open, and how the first of these found them."""

    def __init__(self, bundle: Bundle):
        modules = [bundle.unet, bundle.vae, *(tower.encoder for tower in bundle.towers)]
        self.blocks = 0
        self._checkpointing_blocks = 0
        self._unet = bundle.unet
        self._learning = [each for module in modules for each in module.parameters() if each.requires_grad]
        self._modes = [(module, module.training) for module in modules]
        self._was_checkpointing = bundle.unet.is_gradient_checkpointing

    def enter(self, checkpointing: bool) -> None:
        if not self.blocks:
            for weight in self._learning:
                weight.requires_grad_(False)
            for module, _ in self._modes:
                module.eval()
        self.blocks += 1
        if checkpointing:
            self._checkpointing_blocks += 1
            self._unet.enable_gradient_checkpointing()

    def leave(self, checkpointing: bool) -> None:
        self.blocks -= 1
        self._checkpointing_blocks -= checkpointing
        if checkpointing and not self._checkpointing_blocks and not self._was_checkpointing:
            self._unet.disable_gradient_checkpointing()
        if not self.blocks:
            for weight in self._learning:
                weight.requires_grad_(True)
            for module, mode in self._modes:
                module.train(mode)


_FROZEN: dict[int, _Frozen] = {}
"""By the id of the U-Net; there is an entry while a block is open."""


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
    names = cross_attention_layers(unet, layers)
    chosen = [unet.get_submodule(name.removesuffix(".processor")) for name in names]

    def replace(layer: nn.Module, attend: Forward) -> Forward:
        def attend_and_tell(
            hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any
        ) -> Any:
            recorder.add_layer(layer, hidden_states, encoder_hidden_states)
            return attend(hidden_states, encoder_hidden_states, *args, **kwargs)

        return attend_and_tell

    with forwards_replaced(chosen, replace):
        yield recorder


def cross_attention_layers(unet: UNet2DConditionModel, layers: Sequence[str] = ()) -> list[str]:
    """The names of a U-Net's cross-attention processors: those that have any of these parts in them, or all.

    Raises:
        InputError: a part of a name that no cross-attention layer has.
    """
    names = [name for name in unet.attn_processors if ".attn2." in name]
    for part in layers:
        if not any(part in name for name in names):
            known = ", ".join(name.partition(".transformer_blocks")[0] for name in names)
            raise InputError(f"layers: no cross-attention layer has '{part}' in its name; there are {known}")
    return [name for name in names if not layers or any(part in name for part in layers)]


def _split_heads(states: Tensor, heads: int) -> Tensor:
    """(b, n, heads * c) -> (b, heads, n, c), in float32 so that the probabilities sum to 1 in any precision."""
    return states.unflatten(-1, (heads, -1)).transpose(1, 2).float()
