"""Changes of a module that the thread that makes them alone sees: other threads use the same model meanwhile."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from threading import RLock, local
from typing import Any

from torch import nn

Forward = Callable[..., Any]

changing = RLock()
"""Held for the moment in which modules that threads share are changed or put back, never while they compute."""


@contextmanager
def forwards_replaced(
    modules: Iterable[nn.Module], replace: Callable[[nn.Module, Forward], Forward]
) -> Iterator[None]:
    """Inside the block, and in this thread alone, modules compute something else. Blocks may be nested.

    The last thread to leave puts the modules back as the first one found them, also after an error. Threads that the
    block starts, such as those in which gradients are computed on a GPU, see the modules unchanged.

    Args:
        replace: From a module and what it computed so far (its `forward`) to what it computes instead.
    """
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(_replaced(module, replace))
        yield


@contextmanager
def _replaced(module: nn.Module, replace: Callable[[nn.Module, Forward], Forward]) -> Iterator[None]:
    with changing:
        shared = module.__dict__.get("forward")
        if not isinstance(shared, _SharedForward):
            shared = _SharedForward(module.forward, found=shared)
            module.forward = shared
        shared.users += 1
    before = shared.current
    shared.current = replace(module, before)
    try:
        yield
    finally:
        shared.current = before
        with changing:
            shared.users -= 1
            if not shared.users and shared.found is None:
                del module.forward  # which uncovers the class' own
            elif not shared.users:
                module.forward = shared.found  # type: ignore[assignment]


class _SharedForward:
    """Stands in a module as its `forward`, and does what the thread that calls it has chosen."""

    def __init__(self, plain: Forward, found: Forward | None):
        self.found = found
        """The module's own attribute of this name, if it had one."""

        self.users = 0
        """Blocks that are open, in all threads; changed under `changing`."""

        self._plain = plain
        self._chosen = local()

    @property
    def current(self) -> Forward:
        """What this thread computes."""
        return getattr(self._chosen, "forward", self._plain)

    @current.setter
    def current(self, forward: Forward) -> None:
        self._chosen.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.current(*args, **kwargs)
