"""`lab rerun`: an image again, from its own metadata."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lab.files import check_writable
from lab.models.facts import read_facts
from lab.sample.config import config_from_record
from lab.terminal import Bars

INGREDIENTS = {
    "model_hash": "the model's weights",
    "applied": "the learned embeddings",
    "init_image_sha256": "the init image's contents",
    "embeds_sha256": "the prompt embeddings",
    "negative_embeds_sha256": "the negative prompt embeddings",
    "controlnet_sha256": "the ControlNet's files",
    "control_image_sha256": "the control image's contents",
}


def rerun(
    image: Path,
    *,
    out: Path | None = None,
    device: Annotated[str | None, Parameter(help="Another device than the one that made it.")] = None,
) -> None:
    """Make an image again from its own metadata, and say whether it came out the same.

    Parameters
    ----------
    image: A PNG that the lab wrote.
    out: Where to write it; by default beside the first, with -again in its name.
    """
    from lab.images import likeness
    from lab.runs.png import read_record

    record = read_record(image)
    path = out or image.with_stem(f"{image.stem}-again")
    check_writable(path.parent)
    config = config_from_record(record if device is None else record | {"device": device})
    with Bars() as bars:
        facts = read_facts(config, bars)
    from lab.models.load import load_options
    from lab.sample.generate import generate
    from lab.sample.record import save_result

    bundle = load_options(config, facts=facts)
    (result,) = generate(bundle, config)
    save_result(path, result.image, result.record)
    print(f"{path}: {likeness(image, result.image)}")
    for key, what in INGREDIENTS.items():
        if result.record.get(key) != record.get(key):
            print(f"{what} are not those that made {image}")
