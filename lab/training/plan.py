"""What a run would do, in lines for people: what `lab train --dry-run` prints."""

from collections import Counter
from collections.abc import Iterator

from lab.models.bundle import Bundle
from lab.training.captions import placeholder
from lab.training.estimate import gigabytes, peak_memory, seconds_per_step
from lab.training.run import Prepared

CAPTIONS_SHOWN = 20


def describe_plan(bundle: Bundle, prepared: Prepared) -> Iterator[str]:
    """Yields captions, buckets, initial tokens, and estimates of memory and time."""
    config, data = prepared.config, prepared.data
    yield f"{len(data.pictures)} images of {config.images}, {len(data.views)} views of them"
    yield from data.skipped
    yield "buckets:"
    for bucket, count in Counter(picture.bucket for picture in data.pictures).items():
        yield f"  {bucket.width} x {bucket.height} px: {count} images"
    yield f"captions ({len(data.captions)} in all; each names what is learned):"
    for caption in list(data.captions)[:CAPTIONS_SHOWN]:
        yield f"  {caption}"
    if len(data.captions) > CAPTIONS_SHOWN:
        yield f"  ... and {len(data.captions) - CAPTIONS_SHOWN} more"
    for name, initial in prepared.initial.items():
        yield from describe_initial(name, initial.origins)
    seconds = seconds_per_step(bundle, config)
    yield f"learning rate: {prepared.rate:.3g}"
    yield f"memory: about {gigabytes(peak_memory(bundle, config))} at the peak on {bundle.device}"
    yield f"time: about {seconds:.2g} s a step, so at most {_minutes(seconds * config.steps)} for {config.steps} steps"


def describe_initial(name: str, origins: tuple[str, ...]) -> Iterator[str]:
    """Yields which tokens the vectors of an embedding begin at."""
    yield f"{placeholder(name)} begins at:"
    for position, origin in enumerate(origins, start=1):
        yield f"  vector {position}: {origin}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
