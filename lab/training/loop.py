"""The one training loop: whatever the objective, the learned vectors are stepped, measured and handed on from here."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf, isfinite
from statistics import pvariance
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from lab.listening import Listener
from lab.training.config import TrainConfig
from lab.training.learned import Learned, Snapshot
from lab.training.objectives.objective import Objective, split_evenly
from lab.training.optimizers import Shampoo, Sphere


@dataclass(frozen=True)
class Stopping:
    """DVAR (2302.04841, section 4): stop when var(last evaluations) / var(all evaluations) falls below a ratio.

    The loss of each step depends on its timesteps and noise more than on what was learned. The loss on the same images,
    noise, timesteps and captions every time shows convergence.

    Attributes:
        window: How many evaluations are the last ones.
        ratio: Between 0 and 1.
    """

    window: int
    ratio: float

    def converged(self, evaluations: Sequence[float]) -> bool:
        """Whether the loss has settled, given its values at all evaluations so far in order."""
        if len(evaluations) < 2 * self.window:
            return False
        return pvariance(evaluations[-self.window :]) < self.ratio * pvariance(evaluations)


def learning_rate(step: int, steps: int, peak: float, warmup: int, schedule: str) -> float:
    """The learning rate of a step: a linear rise over `warmup` steps, then `peak`, or a cosine from there to 0.

    Args:
        step: Counted from 0, of `steps`.
        schedule: `constant` or `cosine`.
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if schedule == "constant":
        return peak
    share = (step - warmup) / max(steps - warmup, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * share))


GRADIENT_SCALE = 2.0**12
"""Keeps small gradients above float16's smallest number on their way back; a power of two changes no digit."""

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": partial(torch.optim.AdamW, weight_decay=0.0),
    "shampoo": Shampoo,
    "sphere": Sphere,
}
"""By the name of `--optimizer`: each takes `Learned.parameter_groups`."""


@dataclass
class State:
    """Where a run stands: with the vectors and the optimizer, all that a resumed run needs.

    Attributes:
        step: Steps done.
        evaluations: (step, means over the fixed examples: `loss` and what the objective watches) in order.
        best: The vectors at the lowest loss after the first step that met no objection; `best_step`, `best_loss`.
    """

    step: int = 0
    evaluations: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    best: Snapshot = field(default_factory=dict)
    best_step: int = 0
    best_loss: float = inf


@dataclass(frozen=True)
class TrainingStep:
    """What a listener hears after each step.

    Attributes:
        step: Steps done.
        loss: Mean over the step's examples.
        rate: The learning rate of the first embedding.
        gradient_norm: Over all vectors, before it is cut to `clip_gradient`.
        evaluation: The means over the fixed examples, where this step was evaluated.
    """

    step: int
    loss: float
    rate: float
    gradient_norm: float
    evaluation: Mapping[str, float] | None


@dataclass(frozen=True)
class Ending:
    """Why a run stopped.

    Attributes:
        reason: For people.
        failed: The loss was no number; the vectors are the last good ones.
        interrupted: A person or the system asked it to stop; it can go on.
    """

    reason: str
    failed: bool = False
    interrupted: bool = False


class Loop:
    """Steps learned vectors down an objective, in one process or several.

    Every process computes its share of a step's examples; gradients are summed, so the vectors stay equal.

    Attributes:
        config: The run's settings.
        state: Where it stands.
        learned: The vectors.
        optimizer: What moves them.
    """

    def __init__(
        self, objective: Objective[Any], learned: Learned, config: TrainConfig, accelerator: Accelerator
    ):
        self.state = State()
        self.learned = learned
        self.optimizer = OPTIMIZERS[config.optimizer](learned.parameter_groups())
        self._objective = objective
        self.config = config
        self._accelerator = accelerator
        self._parameters = learned.parameters()
        self._good: tuple[int, Sequence[Tensor]] | None = None

    def run(self, listener: Listener = Listener(), interrupted: Callable[[], bool] = lambda: False) -> Ending:
        """Steps until all steps are done, the loss on the fixed examples has settled, the objective objects, or
        something goes wrong.

        Args:
            listener: Hears of each step as a `TrainingStep`.
            interrupted: Asked before each step; if it says yes, that step is the last one.
        """
        state, last = self.state, self.last_step
        if not state.evaluations:
            state.evaluations.append((0, self.evaluate(listener)))
        while state.step < last:
            loss, norm, told_to_stop = self._gradients(interrupted())
            if not (isfinite(loss) and isfinite(norm)):
                ending = Ending(f"the loss was no number at step {state.step + 1}", failed=True)
                self._put_back()
                return ending
            rate = self._update(norm)
            evaluation = self._evaluate_if_due(last)
            listener.step(TrainingStep(state.step, loss, rate, norm, evaluation), last)
            if told_to_stop:
                return Ending("interrupted", interrupted=True)
            reason = self._reason_to_stop() if evaluation else None
            if reason:
                return Ending(reason)
        return Ending("all steps are done" if last == self.config.steps else "stopped there, as asked")

    def optimizer_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of what the optimizer remembers after a step, by `KEY/NAME/ENCODER`; nothing of it is touched."""
        groups = self.learned.parameter_groups()
        for group in groups:
            group["params"] = [rows.detach().clone().requires_grad_() for rows in group["params"]]
        copies = [rows for group in groups for rows in group["params"]]
        for rows in copies:
            rows.grad = torch.zeros_like(rows)
        trial = OPTIMIZERS[self.config.optimizer](groups)
        trial.step()
        names = [name for name, _ in self.learned.named()]
        return {
            f"{key}/{name}": tuple(value.shape)
            for name, rows in zip(names, copies, strict=True)
            for key, value in trial.state[rows].items()
        }

    @property
    def last_step(self) -> int:
        """The step at which the run ends at the latest."""
        stop = self.config.stop
        return min(self.config.steps, int(stop)) if stop.isdigit() else self.config.steps

    @torch.no_grad()
    def evaluate(self, listener: Listener = Listener()) -> dict[str, float]:
        """The means over the fixed examples of all processes: `loss`, and what the objective watches.

        Args:
            listener: Is told how many of them are done: with a large model on a CPU they take a minute.
        """
        names = ("loss", *self._objective.watched)
        total = torch.zeros(len(names) + 1, dtype=torch.float64, device="cpu")
        with self._accelerator.split_between_processes(list(self._objective.fixed())) as groups:
            watched: list[Tensor] = []
            for group in groups:  # all begun before the first is looked at
                watched.append(self._objective.watch(group))
                listener.progress(sum(map(len, watched)), sum(map(len, groups)), "fixed examples")
            for found in watched:
                sums = found.cpu().double().sum(dim=0)
                total += torch.cat([sums, torch.tensor([len(found)])])
        total = self._accelerator.reduce(total.float().to(self._accelerator.device), reduction="sum")
        return dict(zip(names, (total[:-1] / total[-1]).tolist(), strict=True))

    def _gradients(self, stop: bool) -> tuple[float, float, bool]:
        """Fills the parameters' gradients; returns the step's loss, their norm, and whether any process is to stop."""
        examples = self._objective.batch(self.state.step)
        self.optimizer.zero_grad(set_to_none=False)
        loss = torch.zeros((), device=self._parameters[0].device)
        with self._accelerator.split_between_processes(list(examples)) as share:
            for some in split_evenly(share, self.config.accumulation):
                part = self._objective.losses(some).sum() / len(examples)
                (part * GRADIENT_SCALE).backward()
                loss += part.detach()
        flat = torch.cat([self._gradient(rows).flatten() for rows in self._parameters] + [loss[None]])
        if self._accelerator.num_processes > 1:
            flat = torch.cat([flat, torch.tensor([float(stop)], device=flat.device)])
            flat = self._accelerator.reduce(flat, reduction="sum")
            flat, stop = flat[:-1], bool(flat[-1] > 0)
        sizes = [rows.numel() for rows in self._parameters]
        for rows, gradient in zip(self._parameters, flat[:-1].split(sizes), strict=True):
            rows.grad = (gradient / GRADIENT_SCALE).view_as(rows)
        value, norm = torch.stack([flat[-1], flat[:-1].norm() / GRADIENT_SCALE]).tolist()
        return value, norm, stop

    @staticmethod
    def _gradient(parameter: Tensor) -> Tensor:
        """Zeros where this process had no example."""
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

    def _update(self, norm: float) -> float:
        """Makes one step of the optimizer and returns its learning rate."""
        config, state = self.config, self.state
        self._good = state.step, [rows.detach().clone() for rows in self._parameters]
        if norm > config.clip_gradient:
            for rows in self._parameters:
                assert rows.grad is not None
                rows.grad.mul_(config.clip_gradient / norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                state.step, config.steps, group["peak"], config.warmup, config.schedule
            )
        self.optimizer.step()
        self.learned.adjust_norms(config.norm)
        state.step += 1
        return self.optimizer.param_groups[0]["lr"]

    def _evaluate_if_due(self, last: int) -> dict[str, float] | None:
        """Evaluates where it is time to, and keeps the best vectors."""
        state = self.state
        if state.step % self.config.evaluate_every and state.step != last:
            return None
        found = self.evaluate()
        state.evaluations.append((state.step, found))
        if found["loss"] < state.best_loss and not self._objective.objection(state.evaluations[0][1], found):
            state.best, state.best_step, state.best_loss = (
                self.learned.snapshot(),
                state.step,
                found["loss"],
            )
        return found

    def _reason_to_stop(self) -> str | None:
        """What the last evaluation says against going on."""
        evaluations = [found for _, found in self.state.evaluations]
        objection = self._objective.objection(evaluations[0], evaluations[-1])
        if objection is None and self.config.stop == "auto":
            stopping = Stopping(self.config.stop_window, self.config.stop_ratio)
            if stopping.converged([found["loss"] for found in evaluations]):
                return "the loss on fixed examples has settled"
        return objection

    @torch.no_grad()
    def _put_back(self) -> None:
        """Goes back to the last vectors whose loss was a number, if there was a step since."""
        if self._good:
            self.state.step, vectors = self._good
            for rows, good in zip(self._parameters, vectors, strict=True):
                rows.copy_(good)
