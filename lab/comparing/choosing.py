"""Which metrics an experiment can have: those that its tools, its seeds and the sizes of its images allow."""

from collections.abc import Mapping

from lab.comparing.experiment import Experiment
from lab.errors import InputError
from lab.score.metrics import METRICS, choose_metrics
from lab.score.tools import Tools

Size = tuple[int, int]


def choose(
    experiment: Experiment, tools: Tools, sizes: Mapping[int, Size]
) -> tuple[list[str], Mapping[str, str]]:
    """The metrics to compute, and for the others why they are not.

    Args:
        sizes: Width and height of the images, by the index of their variant.

    Raises:
        InputError: an unknown metric, or one that was asked for and cannot run here, with the reason.
    """
    metrics, reasons = choose_metrics(experiment.config.metrics, tools)
    reasons = dict(reasons)
    if len(experiment.seeds) < 2:
        why = "it compares the images of several seeds, and there is one seed; give more --seeds"
        reasons |= {name: why for name in metrics if METRICS[name].over == "prompt"}
    base = sizes[experiment.baseline.index]
    other = next((size for size in sizes.values() if size != base), None)
    if other and "ssim_baseline" in metrics:
        there, here = (f"{width}x{height}" for width, height in (other, base))
        reasons["ssim_baseline"] = (
            f"it compares pixels one by one, and there are images of {there} beside the baseline's of {here}"
        )
    for name in experiment.config.metrics:
        if name in reasons:
            raise InputError(f"metrics: '{name}' cannot run here: {reasons[name]}")
    return [name for name in metrics if name not in reasons], reasons
