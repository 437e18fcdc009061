"""Walks: from one prompt to the next in prompt embeddings, on the same noise, in steps that look alike.

Even steps in the number between two prompts are uneven in the image: for long nothing happens, then all at once. So as
many images are made at even numbers first, and frames are put where the images change by equal amounts.
"""

import hashlib
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lab.condition.conditioning import Conditioning, Encoding, Part
from lab.condition.embeds_file import write_embeds
from lab.condition.prompt_encoder import PromptEncoder
from lab.embeddings.library import Sources
from lab.errors import InputError
from lab.files import atomic
from lab.images import open_image, to_tensor
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.prompt.syntax import is_negated
from lab.sample.config import GenerateConfig, Request, parse_seeds
from lab.sample.engine import run_jobs
from lab.sample.plan import Job, plan
from lab.sample.settings import offered_embeddings, resolve_settings
from lab.text import shortened

FRAME_SECONDS = 0.125
"""How long a frame of the animation is shown."""


def linear(a: Tensor, b: Tensor, share: float) -> Tensor:
    """(..., d): the straight way from a to b, at a share of 0 to 1."""
    return a + share * (b - a)


def spherical(a: Tensor, b: Tensor, share: float) -> Tensor:
    """(..., d): the way from a to b along an arc, each row for itself (Shoemake 1985); straight between parallel rows.

    sin((1 - s) t) / sin(t) a + sin(s t) / sin(t) b, t the angle between the rows.
    """
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1).clamp(-1, 1)[..., None]
    angle = cosine.acos()
    sine = angle.sin()
    arc = (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / sine.clamp(min=1e-4)
    return torch.where(sine < 1e-4, linear(a, b, share), arc)


WAYS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {"linear": linear, "spherical": spherical}
"""By the name of `--way`."""


class Walk:
    """What lies between prompts; places count from 0 for the first prompt to n - 1 for the last."""

    def __init__(self, bundle: Bundle, config: GenerateConfig, embeddings: Sources = ()):
        """Encodes the prompts.

        Raises:
            InputError: one that cannot be read, changes over the steps, is composed, or has words of negative weight.
        """
        self._prompts, self._way = config.walk, WAYS[config.way]
        library = offered_embeddings(config, embeddings)
        steps = resolve_settings(bundle.facts, config).prompt_steps
        made = PromptEncoder(bundle, library, config, steps).encode(config.walk)
        for prompt in config.walk:
            parts = made[prompt].parts
            if len(parts) > 1 or parts[0].weight != 1 or len(set(made[prompt].entries)) > 1:
                raise InputError(
                    f"walk: '{shortened(prompt)}' changes over the steps, or has parts or a number for guidance; "
                    "give plain prompts"
                )
            first = made[prompt].first
            if first.layers or any(is_negated(span.text, span.weight) for span in first.spans):
                raise InputError(
                    f"walk: '{shortened(prompt)}' has words of negative weight or vectors for each layer, "
                    "between which there is no way; leave them out"
                )
        self._stops = [made[prompt].first for prompt in config.walk]

    def at(self, place: float) -> Conditioning:
        """What the U-Net sees at a place. Between prompts of unequal length both are repeated to their least common
        multiple, with which attention gives what it gives with them once."""
        first = min(int(place), len(self._stops) - 2)
        share = place - first
        a, b = self._stops[first], self._stops[first + 1]
        rows = math.lcm(len(a.embeds), len(b.embeds))
        whole = [each.embeds.repeat(rows // len(each.embeds), 1) for each in (a, b)]
        embeds = self._way(whole[0], whole[1], share)
        pooled = None if a.pooled is None or b.pooled is None else self._way(a.pooled, b.pooled, share)
        text = f"{self._prompts[first]} to {self._prompts[first + 1]}, {share:.3f}"
        applied = tuple(dict.fromkeys(a.applied + b.applied))
        return Conditioning(text, (Part(1.0, ((1, Encoding(text, embeds, pooled, applied=applied)),)),))

    @property
    def last(self) -> int:
        """The place of the last prompt."""
        return len(self._stops) - 1


def plan_walk(
    bundle: Bundle,
    config: GenerateConfig,
    walk: Walk,
    folder: Path,
    embeddings: Sources = (),
    listener: Listener = Listener(),
) -> list[Job]:
    """The jobs of a walk's frames, frame-major, with even changes from frame to frame of the first seed.

    Each frame's prompt embeddings go into a file under `folder`, named by what it holds, so that the frame's record
    says all that makes it again.

    Args:
        listener: Hears how images are made that find the places, and how even the frames would have been without.

    Raises:
        InputError: settings that cannot serve, or a folder that cannot be written.
    """
    places = [walk.last * frame / (config.frames - 1) for frame in range(config.frames)]
    if config.frames > 2:
        changes = measure_changes(bundle, config, [walk.at(place) for place in places], embeddings, listener)
        mean = sum(changes) / len(changes)
        if mean:
            listener.note(
                f"The largest of even steps changes the image by {max(changes) / mean:.1f} times the mean."
            )
            places = even_places(places, changes)
    requests = []
    for place in places:
        found = walk.at(place)
        path = _write(folder, found)
        options = _without_walk(config, embeds=path)
        requests += [(options, seed) for seed in parse_seeds(config.seeds)]
    return plan(
        bundle,
        [
            Request(index, "", config.negative_prompt, seed, options)
            for index, (options, seed) in enumerate(requests)
        ],
        embeddings,
    )


def even_places(places: Sequence[float], changes: Sequence[float]) -> list[float]:
    """As many places with the same ends, between which changes are equal, as far as straight lines tell.

    Args:
        places: Ascending, n of them.
        changes: From each to the next, n - 1, not all 0.
    """
    ways = [0.0, *accumulate(changes)]
    found = [places[0]]
    for frame in range(1, len(places) - 1):
        wanted = ways[-1] * frame / (len(places) - 1)
        left = min(bisect_right(ways, wanted), len(ways) - 1) - 1
        share = (wanted - ways[left]) / (ways[left + 1] - ways[left]) if ways[left + 1] > ways[left] else 1.0
        found.append(places[left] + share * (places[left + 1] - places[left]))
    return [*found, places[-1]]


def write_animations(folder: Path, seeds: Sequence[int], frames: Sequence[Path]) -> list[Path]:
    """Writes for each seed an animated WebP that goes there and back again without end.

    Args:
        frames: As `plan_walk` orders them.

    Returns:
        The files, in the order of the seeds.

    Raises:
        InputError: a frame that cannot be read, or a folder that cannot be written.
    """
    files = [folder / f"walk-seed{seed}.webp" for seed in seeds]
    for number, file in enumerate(files):
        own = frames[number :: len(seeds)]
        _write_animation(file, (*own, *own[-2:0:-1]))
    return files


def _write_animation(path: Path, frames: Sequence[Path]) -> None:
    images = [open_image(frame) for frame in frames]
    with atomic(path) as temporary:
        images[0].save(
            temporary,
            format="WEBP",
            save_all=True,
            append_images=images[1:],
            duration=round(1000 * FRAME_SECONDS),
            loop=0,
            quality=90,
        )


def measure_changes(
    bundle: Bundle,
    config: GenerateConfig,
    seen: Sequence[Conditioning],
    embeddings: Sources = (),
    listener: Listener = Listener(),
) -> list[float]:
    """By how much the image of the first seed changes from each conditioning to the next.

    Args:
        embeddings: What the negative prompt may name beside what the config offers.

    Returns:
        The root of the mean square over pixels in 0..1, one fewer than conditionings.
    """
    options, seed = _without_walk(config), parse_seeds(config.seeds)[0]
    requests = [
        Request(index, conditioning, config.negative_prompt, seed, options)
        for index, conditioning in enumerate(seen)
    ]
    made: dict[int, Image.Image] = {
        sample.job.index: sample.image
        for sample in run_jobs(bundle, plan(bundle, requests, embeddings), config.batch_size, listener)
    }
    pixels = to_tensor([made[index] for index in range(len(seen))])
    return [float((after - before).square().mean().sqrt()) for before, after in pairwise(pixels)]


def _without_walk(config: GenerateConfig, **settings: object) -> GenerateConfig:
    """The options of one frame, whose prompt embeddings are without what is knocked out of them."""
    own = ("walk", "frames", "way", "knock_out")
    return GenerateConfig.build(
        {name: value for name, value in config.given().items() if name not in own} | settings
    )


def _write(folder: Path, found: Conditioning) -> Path:
    digest = hashlib.sha256(found.embeds.numpy().tobytes()).hexdigest()[:16]
    path = folder / "embeds" / f"{digest}.safetensors"
    if not path.is_file():
        write_embeds(path, found, {"walk": found.prompt})
    return path
