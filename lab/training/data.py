"""Everything a run learns from, read and checked before its first step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import ImageColor

from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.training.buckets import make_buckets, multiple_of
from lab.training.captions import placeholder
from lab.training.config import TrainConfig
from lab.training.examples import Examples
from lab.training.latents import Latents
from lab.training.pictures import Picture, View, make_views, read_pictures
from lab.training.text import check_placeholders


@dataclass(frozen=True)
class Data:
    """Images, their views, and which of them make up each step.

    Attributes:
        skipped: A line for each image that was left out.
        captions: Every final caption of the run, with the name of an image that it comes with.
    """

    pictures: Sequence[Picture]
    views: Sequence[View]
    examples: Examples
    latents: Latents
    skipped: Sequence[str]
    captions: Mapping[str, str]

    def fingerprint(self) -> dict[str, str]:
        """What makes each image what it is, by file name: image, mask and captions."""
        return {
            picture.path.name: " ".join([picture.sha256[:32], picture.mask_sha256[:32], *picture.captions])
            for picture in self.pictures
        }


def read_data(bundle: Bundle, config: TrainConfig, templates: str) -> Data:
    """Reads images and captions, and checks each final caption for its placeholders. Nothing is encoded yet.

    Args:
        templates: The set of caption templates for when the config names none.

    Raises:
        InputError: see `read_pictures` and `check_placeholders`; a name that is taken, or a colour that is none.
    """
    subjects = config.subjects()
    names = [subject.name for subject in subjects]
    _check_names(bundle, names, config.overwrite_token)
    _check_colour(config.background)
    buckets = make_buckets(config.resolution or bundle.defaults.width, multiple_of(bundle), config.buckets)
    pictures, skipped = read_pictures(config, config.templates or [templates], names, buckets)
    views = make_views(pictures, config)
    marks = [placeholder(name) for name in names]
    examples = Examples(
        pictures, views, config, marks, bundle.scheduler_config.get("num_train_timesteps", 1000)
    )
    captions = {
        caption: pictures[index].path.name for caption, index in examples.captions(config.steps).items()
    }
    check_placeholders(bundle, captions.items(), {subject.name: subject.vectors for subject in subjects})
    return Data(pictures, views, examples, Latents(bundle, pictures, views, config), skipped, captions)


def _check_names(bundle: Bundle, names: Sequence[str], overwrite: bool) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"name: '{name}' is given to two embeddings")
        tokenizer = bundle.towers[0].tokenizer
        ids = tokenizer(name, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and not overwrite:
            raise InputError(
                f"name: '{name}' is a word that {bundle.source} knows; take another name, or --overwrite-token"
            )


def _check_colour(text: str) -> None:
    try:
        ImageColor.getrgb(text)
    except ValueError:
        raise InputError(
            f"background: '{text}' is no colour; write a name such as white, or #rrggbb"
        ) from None
