"""Temporary changes of a model's modules, each a context manager that puts back what it found.

Permanent changes are made once, in `lab.models.load`.
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

    A forward hook on the input-embedding module replaces rows of its output: table and tokenizer are never
    resized, and gradients flow into the rows. The hook is gone when the block ends, however it ends.
    """
    if placement is None:
        yield
        return

    def replace_rows(_module: nn.Module, _arguments: tuple, output: Tensor) -> Tensor:
        index = placement.entries.to(output.device), placement.positions.to(output.device)
        return output.index_put(index, placement.rows.to(output))

    table: nn.Module = encoder.get_input_embeddings()  # type: ignore[operator]
    handle = table.register_forward_hook(replace_rows)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def text_keys_kept(unet: UNet2DConditionModel) -> Iterator[None]:
    """Inside the block, cross-attention projects a text again only when it is another tensor than before.

    No denoising step changes keys and values of the texts. Of the bundled model, whose latents are small, computing
    them is a tenth of all arithmetic; of SD 1.5 at 512 x 512 less than a hundredth. Keeping them takes layers x rows
    x tokens x channels x 2 numbers. The layers are put back when the block ends, however it ends.
    """
    attentions = [module for module in unet.modules() if _attends_to_text(module)]
    layers = [layer for attention in attentions for layer in (attention.to_k, attention.to_v)]
    for layer in layers:
        layer.forward = _KeptProjection(layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # which uncovers the class' own


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

    Activations before the first cross-attention then need no memory for the way back either.
    """
    modules = [bundle.unet, bundle.vae, *(tower.encoder for tower in bundle.towers)]
    learning = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
    modes = [module.training for module in modules]
    was_checkpointing = bundle.unet.is_gradient_checkpointing
    for weight in learning:
        weight.requires_grad_(False)
    for module in modules:
        module.eval()
    if gradient_checkpointing:
        bundle.unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        for weight in learning:
            weight.requires_grad_(True)
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)
        if gradient_checkpointing and not was_checkpointing:
            bundle.unet.disable_gradient_checkpointing()


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
        heads = [head for head in range(layer.heads) if not self._heads or head in self._heads]
        if not heads:
            return
        queries = _split_heads(layer.to_q(image), layer.heads)[:, heads]
        keys = _split_heads(layer.to_k(text), layer.heads)[:, heads]
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
    recorder = AttentionRecorder(heads)
    chosen = cross_attention_layers(unet, layers)
    recording = {name: _RecordingProcessor(before[name], recorder) for name in chosen}
    unet.set_attn_processor(before | recording)
    try:
        yield recorder
    finally:
        unet.set_attn_processor(dict(before))  # the setter empties the dictionary that it is given


class _RecordingProcessor:
    """An attention processor that tells the recorder and leaves the work to the one it stands for."""

    def __init__(self, processor: Any, recorder: AttentionRecorder):
        self._processor = processor
        self._recorder = recorder

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        self._recorder.add_layer(attn, hidden_states, encoder_hidden_states)
        return self._processor(attn, hidden_states, encoder_hidden_states, *args, **kwargs)


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
