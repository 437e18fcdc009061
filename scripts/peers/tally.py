"""Checks: what a tool and the lab both make of prompts, counted."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

TOLERANCE = 1e-5
"""Of tensors, relative to their largest value: tools batch otherwise than the lab."""

RAISED = (ValueError, OverflowError, IndexError)
"""What the tools raise at weights such as 1.2.3 and an `embedding:` without a name."""

EXAMPLES = 3
"""Differences that are shown of a check, each side at most so long:"""
SHOWN = 700


@dataclass(frozen=True)
class Check:
    """Something that a tool and the lab both make of a prompt.

    Attributes:
        excuse: Of a prompt, theirs and ours, why a difference is none of the lab's, or None.
        every: Only every so manieth prompt is tried.
    """

    name: str
    theirs: Callable[[str], Any]
    ours: Callable[[str], Any]
    excuse: Callable[[str, Any, Any], str | None] = lambda prompt, theirs, ours: None
    every: int = 1


@dataclass
class Tally:
    """What came of a check.

    Attributes:
        excused: How often each excuse was taken.
        examples: (prompt, theirs, ours) of the first differences without one.
    """

    name: str
    tried: int = 0
    equal: int = 0
    excused: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[str, Any, Any]] = field(default_factory=list)

    @property
    def differ(self) -> int:
        """Differences without an excuse."""
        return self.tried - self.equal - self.excused.total()

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.name}: {self.tried} tried, {self.equal} equal, {self.differ} differ"
        for excuse, count in self.excused.items():
            yield f"  {count}: {excuse}"
        for prompt, *values in self.examples:
            where, theirs, ours = first_difference(*values)
            yield from (
                f"  {prompt!r}",
                f"    theirs{where} {_shown(theirs)}",
                f"    ours{where}   {_shown(ours)}",
            )


def compare(check: Check, prompts: Sequence[str]) -> Tally:
    """Tries a check on prompts."""
    tally = Tally(check.name)
    for prompt in prompts[:: check.every]:
        theirs, ours = made(check.theirs, prompt), made(check.ours, prompt)
        tally.tried += 1
        if alike(theirs, ours):
            tally.equal += 1
        elif isinstance(theirs, RAISED):
            tally.excused[f"the tool raises {type(theirs).__name__}"] += 1
        elif not isinstance(ours, Exception) and (excuse := check.excuse(prompt, theirs, ours)):
            tally.excused[excuse] += 1
        elif len(tally.examples) < EXAMPLES:
            tally.examples.append((prompt, theirs, ours))
    return tally


def made(make: Callable[[str], Any], prompt: str) -> Any:
    """What is made of a prompt, or the error that is raised."""
    try:
        return make(prompt)
    except Exception as error:
        return error


def alike(theirs: Any, ours: Any) -> bool:
    """Whether two values are the same, tensors up to `TOLERANCE`."""
    if isinstance(theirs, Tensor) and isinstance(ours, Tensor):
        if theirs.shape != ours.shape:
            return False
        return float((theirs - ours).abs().max()) <= TOLERANCE * float(theirs.abs().max())
    if isinstance(theirs, list | tuple) and isinstance(ours, list | tuple):
        return len(theirs) == len(ours) and all(map(alike, theirs, ours))
    return not isinstance(theirs, Exception) and theirs == ours


def first_difference(theirs: Any, ours: Any) -> tuple[str, Any, Any]:
    """Where two values first differ, as indices, and what is there."""
    where = ""
    while isinstance(theirs, list | tuple) and isinstance(ours, list | tuple) and len(theirs) == len(ours):
        place = next(place for place, pair in enumerate(zip(theirs, ours, strict=True)) if not alike(*pair))
        where, theirs, ours = f"{where}[{place}]", theirs[place], ours[place]
    if isinstance(theirs, Tensor) and isinstance(ours, Tensor) and theirs.shape == ours.shape:
        return (
            f"{where} largest of {tuple(theirs.shape)}",
            float(theirs.abs().max()),
            float((theirs - ours).abs().max()),
        )
    return where, theirs, ours


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} of mean {float(value.mean()):.6g}"
    text = f"{type(value).__name__}: {value}" if isinstance(value, Exception) else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
