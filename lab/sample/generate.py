"""`lab.generate`: prompts x seeds to images with their records."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from lab.condition.conditioning import Conditioning
from lab.condition.encode import encode_pairs
from lab.condition.files import read_embeds
from lab.embeddings.library import Sources, collect
from lab.errors import InputError
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.config import ModelOptions
from lab.sample.config import GenerateConfig, parse_seeds, read_prompts
from lab.sample.engine import run_jobs
from lab.sample.pixels import encode_image, open_image
from lab.sample.plan import Job
from lab.sample.record import make_record
from lab.sample.settings import resolve


@dataclass(frozen=True)
class Result:
    """One image.

    Attributes:
        index: Its place: prompt-major, then seeds.
        record: Everything that made it, as plain JSON values.
        latents: (c, h, w) float32 on the CPU.
    """

    index: int
    image: Image.Image
    record: dict[str, Any]
    latents: Tensor


def generate(
    bundle: Bundle,
    *,
    embeddings: Sources = (),
    listener: Listener = Listener(),
    **settings: Any,
) -> list[Result]:
    """Makes every prompt with every seed.

    Args:
        embeddings: What the prompts may name: `Embedding` values, files, folders.
        listener: Hears of images made, and when memory runs out.
        settings: Fields of `lab.GenerateConfig`; `prompt` may be one or a list, `seeds` a list or text such as
            "1-4,9". Which model, where and in which precision is the bundle's to say.

    Returns:
        One result an image: prompt-major, then seeds.

    Raises:
        InputError: unknown or bad settings, or text that names an embedding which is not there.
    """
    for name in settings:
        if name in ModelOptions.model_fields or name == "out":
            raise InputError(
                f"options: '{name}' does not apply to a loaded bundle; give it to lab.load or lab generate"
            )
    config = GenerateConfig.build(settings)
    jobs = plan(bundle, config, embeddings)
    results = stream(bundle, config, jobs, listener=listener)
    return sorted(results, key=lambda result: result.index)


def plan(bundle: Bundle, config: GenerateConfig, embeddings: Sources = ()) -> list[Job]:
    """The jobs of a config: everything checked, every distinct text encoded once, an init image once.

    Raises:
        InputError: see `generate`.
    """
    settings = resolve(bundle, config)
    library = collect(config.embedding, config.embeddings, embeddings)
    prompts: list[str | Conditioning] = [*read_prompts(config)]
    if config.embeds is not None:
        prompts = [read_embeds(config.embeds, bundle, settings.steps)]
    negative: str | Conditioning | None = config.negative_prompt
    if config.negative_embeds is not None:
        if negative is not None:
            raise InputError("negative_embeds: take the place of a negative prompt; leave one of them out")
        negative = read_embeds(config.negative_embeds, bundle, settings.steps)
    texts = [(prompt, negative) for prompt in prompts]
    pairs = encode_pairs(bundle, texts, library, config, settings.steps)
    init = None
    if config.init_image is not None:
        init = encode_image(bundle, open_image(config.init_image, (settings.width, settings.height)))
    seeds = parse_seeds(config.seeds)
    return [
        Job(place * len(seeds) + turn, positive, negative, seed, settings, init)
        for place, (positive, negative) in enumerate(pairs)
        for turn, seed in enumerate(seeds)
    ]


def stream(
    bundle: Bundle,
    config: GenerateConfig,
    jobs: Sequence[Job],
    *,
    listener: Listener = Listener(),
) -> Iterator[Result]:
    """Yields the images of planned jobs as they are finished; `config` goes into their records."""
    for sample in run_jobs(bundle, jobs, config.batch_size, listener):
        record = make_record(bundle, config, sample.job)
        yield Result(sample.job.index, sample.image, record, sample.latents)
