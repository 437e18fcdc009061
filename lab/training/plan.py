"""What a run would do, in lines for people: what `lab train --dry-run` prints."""

from collections.abc import Iterator

from lab.models.bundle import Bundle
from lab.training.captions import placeholder
from lab.training.config import TrainConfig
from lab.training.estimate import gigabytes, peak_memory, seconds_per_step
from lab.training.objectives import find_objective
from lab.training.prepare import prepare
from lab.training.worst import describe_worst


def describe_plan(bundle: Bundle, config: TrainConfig) -> Iterator[str]:
    """Yields what a settled config learns from, its initial tokens, and estimates of memory and time.

    Raises:
        InputError: what would stop the run.
    """
    if config.worst_of is not None:  # nothing can be said of images before they are made
        yield from describe_worst(bundle, config)
    else:
        prepared = prepare(bundle, config)
        yield from prepared.data.describe()
        for name, initial in prepared.initial.items():
            yield from describe_initial(name, initial.origins)
            yield f"learning rate: {prepared.rates[name]:.3g}"
    work = find_objective(config.objective).work
    seconds = seconds_per_step(bundle, config, work)
    yield f"memory: about {gigabytes(peak_memory(bundle, config, work))} at the peak on {bundle.device}"
    yield f"time: about {seconds:.2g} s a step, so at most {_minutes(seconds * config.steps)} for {config.steps} steps"


def describe_initial(name: str, origins: tuple[str, ...]) -> Iterator[str]:
    """Yields which tokens the vectors of an embedding begin at."""
    yield f"{placeholder(name)} begins at:"
    for position, origin in enumerate(origins, start=1):
        yield f"  vector {position}: {origin}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
