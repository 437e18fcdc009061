"""What is to be made: one job an image, and which jobs can share a batch."""

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace

from torch import Tensor

from lab.condition.conditioning import Conditioning
from lab.sample.settings import Settings


@dataclass(frozen=True)
class Job:
    """One image to make.

    Attributes:
        index: The image's place among the results.
        negative: What guidance leads away from; unused where nothing is guided.
        init_latents: (1, c, h, w) float32 for image-to-image, or None.
    """

    index: int
    positive: Conditioning
    negative: Conditioning
    seed: int
    settings: Settings
    init_latents: Tensor | None = None

    @property
    def guided(self) -> bool:
        """Whether the negative side takes part: as in diffusers above scale 1, and in every composition."""
        parts = self.positive.parts
        return self.settings.guidance > 1 or len(parts) > 1 or parts[0].weight != 1

    @property
    def batch_key(self) -> Hashable:
        """Jobs with equal keys can share a batch; only seeds, texts and guidance scales differ within one.

        Prompts of unequal length are not padded to each other, since padding would change the image.
        """
        sides = (self.positive, self.negative) if self.guided else (self.positive,)
        return (
            replace(self.settings, guidance=0.0),
            self.guided,
            self.init_latents is None,
            tuple((len(side.parts), len(side.embeds)) for side in sides),
        )


def batches(jobs: Iterable[Job], size: int) -> list[list[Job]]:
    """Groups jobs into batches of at most `size`, each in the order given."""
    groups: dict[Hashable, list[Job]] = defaultdict(list)
    for job in jobs:
        groups[job.batch_key].append(job)
    return [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]
