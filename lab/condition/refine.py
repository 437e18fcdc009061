"""Vectors for another model's text encoders, drawn to where they do there what they did in their own.

Hidden states of two models have nothing in common but the words that lead to them. Words said in the same contexts
give pairs of states, and these a linear map from the one model's to the other's: what the other's should be with
vectors that only the one knows, as far as that one can tell.
"""

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from lab.condition.effect import Said, Spoken
from lab.embeddings.maps import STRENGTHS, Anchors, lost, ridge
from lab.listening import Listener

CHECKED = 8
"""One word in so many chooses the strength of the map of states instead of teaching it."""

STEPS, RATE, EVERY = 40, 0.1, 5
"""How many steps, how far each goes in root mean squares of a vector's numbers, and how often is asked what is lost."""

AT_ONCE = 16
"""Vectors that are said together, for memory's sake."""


@torch.no_grad()
def aims(source: Said, target: Said, words: Spoken, answers: Spoken, given: Spoken) -> Tensor:
    """(n, contexts, rows, d): what the target's hidden states should be with vectors that only the source knows.

    Args:
        source, target: The same contexts in both models.
        words, answers: Vectors of the same words in both.
        given: n vectors of the source.
    """
    known, wanted, asked = _states(source, words), _states(target, answers), _states(source, given)
    centre, middle = known.mean(dim=0), wanted.mean(dim=0)

    def flat(states: Tensor) -> Tensor:
        return states.flatten(0, 2)

    checked = torch.arange(0, len(known), CHECKED)
    tried = Anchors(flat((known - centre)[checked]), flat((wanted - middle)[checked]))
    taught = Anchors(known - centre, wanted - middle).without(checked)
    taught, everywhere = Anchors(*map(flat, taught)), torch.arange(len(tried.source))
    losses = {strength: lost(ridge(taught, strength), tried, everywhere) for strength in STRENGTHS}
    learned = ridge(taught, min(losses, key=losses.__getitem__))
    return middle + learned(flat(asked - centre)).view(*asked.shape[:3], -1)


def refine(
    target: Said,
    goal: Tensor,
    begun: Spoken,
    fixed: Collection[str],
    loss_of: Callable[[Spoken], float],
    listener: Listener = Listener(),
) -> tuple[Spoken, int]:
    """Vectors with which the target's states come nearer to what they should be, and the steps to there.

    Args:
        goal: (n, contexts, rows, d) as `aims` gives it.
        begun: The n vectors to begin at.
        fixed: Text encoders whose vectors stay.
        loss_of: What is lost with vectors; those after which it was least are returned.
        listener: Hears of the steps.
    """
    scale = (goal - goal.mean(dim=0)).square().sum(dim=(1, 2, 3)) + 1e-12
    sizes = {
        key: rows.square().mean(dim=1, keepdim=True).sqrt() for key, rows in begun.items() if key not in fixed
    }
    moves = {key: torch.zeros_like(begun[key], requires_grad=True) for key in sizes}
    optimizer = torch.optim.Adam(moves.values(), lr=RATE)

    def moved() -> dict[str, Tensor]:
        return {key: rows + sizes[key] * moves[key] if key in moves else rows for key, rows in begun.items()}

    best, least, found = begun, loss_of(begun), 0
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        for start in range(0, len(goal), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            states = target.states({key: rows[part] for key, rows in moved().items()}).cpu()
            missing = (states - goal[part]).square().sum(dim=(1, 2, 3)) / scale[part]
            missing.sum().backward()
        optimizer.step()
        listener.progress(step, STEPS, "steps")
        if step % EVERY == 0:
            now = {key: rows.detach() for key, rows in moved().items()}
            if (loss := loss_of(now)) < least:
                best, least, found = now, loss, step
    return best, found


def _states(said: Said, vectors: Spoken) -> Tensor:
    count = len(next(iter(vectors.values())))
    parts = [
        said.states({key: rows[start : start + AT_ONCE] for key, rows in vectors.items()}).cpu()
        for start in range(0, count, AT_ONCE)
    ]
    return torch.cat(parts)
