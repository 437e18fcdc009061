"""How what an image shall avoid acts: one table of methods. Imports no torch.

A method works on the predictions that guidance combines, or within cross-attention, where it needs no guidance:

    u, n          predictions for the empty prompt and the negative prompt, (b, c, h, w)
    c_i, w_i      predictions for the parts of the prompt that `AND` joins, and their weights; c and 1 without `AND`
    s             the guidance scale
    k             the method's strength
    Z+, Z-        what image states find when they attend to the prompt, and to the negative prompt
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from lab.errors import InputError
from lab.prompt.syntax import Timeline, is_negated
from lab.text import shortened

if TYPE_CHECKING:
    from torch import Tensor

    from lab.models.attention import Keys


@dataclass(frozen=True)
class NegativeMethod:
    """One way to avoid, an entry of `NEGATIVE_METHODS`.

    Attributes:
        label: What it does, for help texts and pages.
        strength: k where nobody says, or None if it has none.
        guide: From u, n, the c_i, w (parts, b), s (b,) and k to the guided prediction; None for plain guidance away
            from the negative prompt.
        attend: From queries (b, heads, pixels, c), the prompt's keys and values, those of what is avoided, and k to
            what cross-attention gives, like the queries; None if cross-attention stays as it is. Above guidance 1 the
            negative prompt is what guidance leads away from as well, as in the authors' pipelines.
        avoids: Which rows of the negative prompt cross-attention avoids: all of them, or those of its words and of the
            end tokens behind them. The start token, to which most attention goes whatever the text, is none of these.
        negates: Whether words of negative weight act, on both sides: they are taken out of their text and avoided
            there. The negative prompt itself is then avoided where nothing is guided alone.
        a1111: What stands for it in A1111's parameters, as (key, value).
    """

    label: str
    strength: float | None = None
    guide: "Callable[[Tensor, Tensor, Sequence[Tensor], Tensor, Tensor, float], Tensor] | None" = None
    attend: "Callable[[Tensor, Keys, Keys, float], Tensor] | None" = None
    avoids: Literal["all", "words"] = "all"
    negates: bool = False
    a1111: tuple[str, str] | None = None


def perp_neg(
    empty: "Tensor",
    negative: "Tensor",
    conditionals: "Sequence[Tensor]",
    weights: "Tensor",
    scale: "Tensor",
    strength: float,
) -> "Tensor":
    """u + s (w_1 d_1 + sum_i>1 w_i P(d_i) - k P(d_n)), with d = prediction - u and P(d) the part of d that is
    perpendicular to d_1, image by image: what the negative prompt has in common with the prompt is not taken away.

    Perp-Neg (Armandpour et al. 2304.04968), as its authors' `weighted_prependicualr_aggricator` and ComfyUI's
    comfy_extras/nodes_perpneg.py compute it.
    """
    axes = tuple(range(1, empty.ndim))
    main = conditionals[0] - empty
    square = main.square().sum(axes, keepdim=True).clamp_min(1e-12)

    def perpendicular(difference: "Tensor") -> "Tensor":
        return difference - (difference * main).sum(axes, keepdim=True) / square * main

    def per_image(values: "Tensor") -> "Tensor":
        return values.view(-1, *(1 for _ in axes))

    direction = per_image(weights[0]) * main - strength * perpendicular(negative - empty)
    for conditional, weight in zip(conditionals[1:], weights[1:], strict=True):
        direction = direction + per_image(weight) * perpendicular(conditional - empty)
    return empty + per_image(scale) * direction


NAG_TAU, NAG_ALPHA = 2.5, 0.5
"""As the authors' pipeline for SDXL has them: how much longer states may grow, and how much of them is taken."""


def nag(queries: "Tensor", text: "Keys", avoided: "Keys", strength: float) -> "Tensor":
    """Z = k Z+ - (k - 1) Z-, where it is longer than tau |Z+| cut to that, mixed with Z+: alpha Z + (1 - alpha) Z+.

    Normalized Attention Guidance (Chen et al. 2505.21179, eq. 7 to 10, whose scale is k - 1), as the authors'
    `NAGAttnProcessor2_0`. Lengths are L1 norms of a pixel's state over all heads.
    """
    from lab.models.attention import attend_to

    positive = attend_to(queries, text)
    extended = strength * positive - (strength - 1) * attend_to(queries, avoided)
    tiny = 1e-6
    lengths = [each.abs().sum((1, 3), keepdim=True).clamp_min(tiny) for each in (extended, positive)]
    ratio = lengths[0] / lengths[1]
    return NAG_ALPHA * extended * (ratio.clamp_max(NAG_TAU) / ratio) + (1 - NAG_ALPHA) * positive


def flip_values(queries: "Tensor", text: "Keys", avoided: "Keys", strength: float, bias: float) -> "Tensor":
    """softmax(q [K, K-] + [0, bias]) [V, -k V-]: one attention to both texts, in which what is avoided counts against
    itself, the more the more it is looked at.

    With bias 0 and k = 1 NegPiP (hako-mikan/sd-webui-negpip, `main_forward`), with others Value Sign Flip (Guo & Du,
    2508.10931, weathon/VSF, as its processor for cross-attention in Wan).
    """
    import torch

    from lab.models.attention import Keys, attend_to

    assert avoided.bias is not None, "see Avoidance"
    rows = avoided.bias + bias
    both = Keys(
        torch.cat([text.keys, avoided.keys], dim=2),
        torch.cat([text.values, -strength * avoided.values], dim=2),
        torch.cat([rows.new_zeros(*rows.shape[:3], text.keys.shape[2]), rows], dim=3),
    )
    return attend_to(queries, both)


VSF_BIAS = -0.2
"""As the authors' example for Wan, the model of theirs with cross-attention, has it."""

NEGATIVE_METHODS: dict[str, NegativeMethod] = {
    "cfg": NegativeMethod("guidance leads away from the negative prompt"),
    "perp-neg": NegativeMethod(
        "of the negative prompt only what is perpendicular to the prompt",
        strength=1.0,
        guide=perp_neg,
        a1111=("Negative method", "Perp-Neg"),
    ),
    "nag": NegativeMethod(
        "cross-attention leads away from the negative prompt, also without guidance",
        strength=3.0,
        attend=nag,
        a1111=("Negative method", "NAG"),
    ),
    "negpip": NegativeMethod(
        "words of negative weight such as (red:-1) count against themselves in cross-attention, and without guidance "
        "the negative prompt does",
        strength=1.0,
        attend=partial(flip_values, bias=0.0),
        avoids="words",
        negates=True,
        a1111=("NegPiP Active", "True"),
    ),
    "vsf": NegativeMethod(
        "the negative prompt counts against itself in cross-attention, also without guidance",
        strength=1.7,
        attend=partial(flip_values, bias=VSF_BIAS),
        avoids="words",
        a1111=("Negative method", "VSF"),
    ),
}


def check_weights(said: Iterable[tuple[str, float]], method: NegativeMethod) -> None:
    """Refuses words of negative weight where the method does not take them away.

    To multiply by such a weight, which is what the tools do by themselves, turns a word's keys as well as its values,
    and what comes of it is not the word's absence. `lab.encode` does what the dialect's tool does.

    Args:
        said: Words or runs of them, each with its weight.

    Raises:
        InputError: there is one; says which.
    """
    for text, weight in said:
        if is_negated(text, weight) and not method.negates:
            raise InputError(
                f"'{shortened(text)}' has the weight {weight:g}, which alone takes nothing away; give "
                "--negative-method negpip, or write it into --negative-prompt"
            )


def weights_in(timelines: Iterable[Timeline]) -> Iterator[tuple[str, float]]:
    """Each run of words of a prompt, at any step, with its weight."""
    for timeline in timelines:
        for variant in timeline.variants:
            yield from ((segment.text, segment.weight) for segment in variant.segments)
