"""Training steps recorded as CUDA graphs: a small network's kernels take the host longer to start than the card to
compute, and a graph starts them all at once."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

PLAIN = 3
"""Calls of each choice before it is recorded, in which libraries choose their kernels and take their memory."""
AHEAD = 2
"""How many replays the host may be ahead of the card: what it reads from the clock is to mean something."""


class Recorded:
    """A function of a choice, called as it is at first, and then replayed: one graph for each choice.

    The function returns a scalar tensor and keeps in place what it changes besides. It draws from `generator` alone and
    never waits for the device. Graphs share their memory, since none runs beside another.
    """

    def __init__(self, compute: Callable[[Hashable], Tensor], generator: torch.Generator):
        self._compute, self._generator = compute, generator
        self._calls: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._aside, self._memory = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        self._pending: deque[torch.cuda.Event] = deque()

    def __call__(self, choice: Hashable) -> Tensor:
        """What the function returns; one call of it, whichever way."""
        self._calls[choice] += 1
        if self._calls[choice] <= PLAIN:
            return self._plain(choice)
        if choice not in self._graphs:
            self._record(choice)
        graph, result = self._graphs[choice]
        graph.replay()
        result = result.clone()
        self._pending.append(torch.cuda.Event())
        self._pending[-1].record()
        if len(self._pending) > AHEAD:
            self._pending.popleft().synchronize()
        return result

    def _plain(self, choice: Hashable) -> Tensor:
        """On a stream of its own, as what is to be recorded asks for."""
        self._aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._aside):
            result = self._compute(choice)
        torch.cuda.current_stream().wait_stream(self._aside)
        return result

    def _record(self, choice: Hashable) -> None:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        with torch.cuda.graph(graph, pool=self._memory):
            result = self._compute(choice)
        self._graphs[choice] = graph, result
