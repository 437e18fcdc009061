"""A model while vectors are learned: nothing of it takes gradients, and everything is as before afterwards."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

from lab.models.bundle import Bundle


@contextmanager
def frozen(bundle: Bundle, gradient_checkpointing: bool = False) -> Iterator[None]:
    """Inside the block no weight of the bundle takes a gradient, and the U-Net may trade time for memory.

    Activations before the first cross-attention then need no memory for the way back either.
    """
    modules = [bundle.unet, bundle.vae, *(tower.encoder for tower in bundle.towers)]
    wanted = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
    modes = [module.training for module in modules]
    was_checkpointing = bundle.unet.is_gradient_checkpointing
    for weight in wanted:
        weight.requires_grad_(False)
    for module in modules:
        module.eval()
    if gradient_checkpointing:
        bundle.unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        for weight in wanted:
            weight.requires_grad_(True)
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)
        if gradient_checkpointing and not was_checkpointing:
            bundle.unet.disable_gradient_checkpointing()


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether Ctrl-C or a termination signal came; a second one interrupts at once.

    So a step is finished and saved before the run ends. Outside the main thread signals keep their meaning.
    """
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    if current_thread() is not main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
