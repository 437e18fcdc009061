"""Temporary changes of a model's modules, each a context manager that puts back what it found.

Threads may use one model at a time, each with changes of its own.

Permanent changes are made once, at load: `lab.models.device.arrange_modules`. Those of cross-attention are in
`lab.models.attention`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn

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
