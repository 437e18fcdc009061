"""The one training loop: budget in minutes, warm-up and cosine, EMA, bf16 autocast, checkpoints, progress.

A stage hands over its modules and an `Objective`, which draws a batch and returns its loss. The loop stops when the
budget is spent or the stretch (`--minutes`) is over, and goes on from its checkpoint when started again. The
schedule follows the share of the budget that is spent, not the steps, because compute comes in minutes.
"""

from __future__ import annotations

import copy
import json
import math
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from scripts.pretrain.common import write_atomically
from scripts.pretrain.recorded import Recorded

REPORT_EVERY = 0.25  # minutes


class Objective(ABC):
    """What a stage learns: the loss of a batch."""

    def choose(self, share: float, order: random.Random) -> Hashable:
        """In which way the next step differs from others by more than its numbers; `share` of the budget is spent.

        Steps of one choice run the same operations on tensors of the same shapes, so that one may be recorded.
        """
        return None

    @abstractmethod
    def __call__(self, generator: torch.Generator, choice: Hashable) -> Tensor:
        """The loss of one batch, a scalar; runs under autocast. Where steps are recorded, nothing in it may wait for
        the device."""


@dataclass(frozen=True)
class Budget:
    """How long and how fast to learn."""

    minutes: float  # of training in all, over every stretch
    learning_rate: float
    warmup: float = 0.02  # share of the budget
    hold: float = 0.0  # share of the budget until which the peak is kept
    final: float = 0.01  # last learning rate as a share of the peak
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    ema: float = 0.999  # decay a step, reached from 0 as (1 + step) / (10 + step)
    save_every: float = 3.0  # minutes
    seed: int = 0

    def rate(self, share: float) -> float:
        """Learning rate after `share` of the budget: linear warm-up, the peak, then cosine to `final`."""
        if share < self.warmup:
            return self.learning_rate * max(share / self.warmup, 0.02)
        start = max(self.warmup, self.hold)
        turn = max(share - start, 0.0) / (1 - start)
        return self.learning_rate * (
            self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(turn, 1.0)))
        )


@dataclass
class Run:
    """A stage's modules by name, their slow averages, and what must survive a restart."""

    modules: dict[str, nn.Module]
    folder: Path
    device: str
    budget: Budget
    recorded: bool = False  # whether steps are recorded as CUDA graphs
    step: int = 0
    spent: float = 0.0  # minutes
    averages: dict[str, nn.Module] = field(init=False)
    optimiser: torch.optim.AdamW = field(init=False)
    rate: Tensor = field(init=False)  # the learning rate, on the device, where a recorded step finds it
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        for module in self.modules.values():
            module.to(self.device)
        self.averages = {n: copy.deepcopy(m).eval().requires_grad_(False) for n, m in self.modules.items()}
        b = self.budget
        self.rate = torch.tensor(b.learning_rate, device=self.device)
        self.optimiser = torch.optim.AdamW(
            [p for parameters in self.by_module() for p in parameters],
            self.rate,
            betas=b.betas,
            weight_decay=b.weight_decay,
            fused=True,
            capturable=self.recorded,
        )
        self.generator = torch.Generator(self.device).manual_seed(b.seed)
        if self.checkpoint.exists():
            self.restore()

    @property
    def checkpoint(self) -> Path:
        """The one file that holds the whole run."""
        return self.folder / "checkpoint.pt"

    def by_module(self) -> list[list[nn.Parameter]]:
        """What is trained: every parameter that wants a gradient, module by module, which are clipped on their own."""
        return [[p for p in m.parameters() if p.requires_grad] for m in self.modules.values()]

    def restore(self) -> None:
        """Take up the run where its checkpoint stands."""
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        for name in self.modules:
            self.modules[name].load_state_dict(state["modules"][name])
            self.averages[name].load_state_dict(state["averages"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.optimiser.param_groups[0] |= {"lr": self.rate, "capturable": self.recorded}
        self.generator.set_state(state["generator"].cpu())
        self.step, self.spent = state["step"], state["spent"]
        print(f"going on at step {self.step}, {self.spent:.1f} minutes spent", flush=True)

    def save(self) -> None:
        """Write the checkpoint atomically."""
        state = {
            "modules": {n: m.state_dict() for n, m in self.modules.items()},
            "averages": {n: m.state_dict() for n, m in self.averages.items()},
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "spent": self.spent,
        }
        write_atomically(self.checkpoint, lambda path: torch.save(state, path))

    @torch.no_grad()
    def average(self) -> None:
        """Move the slow averages one step: a <- a + (1 - decay)(w - a)."""
        decay = min(self.budget.ema, (1 + self.step) / (10 + self.step))
        for name, module in self.modules.items():
            slow: list[Tensor] = list(self.averages[name].parameters())
            fast: list[Tensor] = list(module.parameters())
            torch._foreach_lerp_(slow, fast, 1 - decay)
            for a, b in zip(self.averages[name].buffers(), module.buffers(), strict=True):
                a.copy_(b)


def update(run: Run, objective: Objective, choice: Hashable) -> Tensor:
    """One step: gradients, those of each module clipped to a norm of 1, and the optimiser's move. Returns the loss."""
    run.optimiser.zero_grad(set_to_none=True)
    with torch.autocast(torch.device(run.device).type, torch.bfloat16):
        loss = objective(run.generator, choice)
    loss.backward()
    for parameters in run.by_module():
        nn.utils.clip_grad_norm_(parameters, 1.0)
    run.optimiser.step()
    return loss.detach()


def train(
    run: Run, objective: Objective, minutes: float | None, on_save: Callable[[Run], None] | None = None
) -> None:
    """Train until the budget (or this stretch of `minutes`) is over; `on_save` may look at every checkpoint."""
    budget, started, stretch = run.budget, run.spent, minutes or math.inf
    clock, saved, reported, losses, first = time.monotonic(), run.spent, run.spent, [], True
    advance: Callable[[Hashable], Tensor] = partial(update, run, objective)
    if run.recorded:
        advance = Recorded(advance, run.generator)
    while run.spent < budget.minutes and run.spent - started < stretch:
        share = run.spent / budget.minutes
        run.rate.fill_(budget.rate(share))
        choice = objective.choose(share, random.Random(f"{budget.seed} {run.step}"))
        losses.append(advance(choice))
        run.step += 1
        run.average()
        now = time.monotonic()
        if not first:
            run.spent += (now - clock) / 60
        first, clock = False, now  # the first step compiles and takes memory: it would shift the schedule
        if run.spent - reported >= REPORT_EVERY:
            reported = run.spent
            _report(run, losses, min(budget.minutes - run.spent, stretch - (run.spent - started)))
            losses.clear()
        if run.spent - saved >= budget.save_every:
            saved = run.spent
            run.save()
            if on_save:
                on_save(run)
            clock = time.monotonic()  # neither saving nor looking is training
    run.save()
    if on_save:
        on_save(run)


def _report(run: Run, losses: list[Tensor], left: float) -> None:
    """One line to the terminal and to progress.jsonl: step, mean loss, rate, minutes left in this stretch."""
    loss = torch.stack(losses).float().mean().item()
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss is no number after {run.step} steps; a lower rate may help")
    line = {
        "step": run.step,
        "loss": round(loss, 5),
        "rate": round(run.rate.item(), 7),
        "spent_min": round(run.spent, 2),
        "left_min": round(left, 2),
        "steps_per_s": round(run.step / (60 * run.spent), 3),
    }
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / "progress.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    print("  ".join(f"{k} {v}" for k, v in line.items()), flush=True)
