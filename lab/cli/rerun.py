"""`lab rerun`: an image again, from its own metadata."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lab.errors import InputError
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
    embeddings: list[Path] | None = None,
) -> None:
    """Make an image again from its own metadata, and say whether it came out the same.

    Parameters
    ----------
    image: A PNG that the lab wrote.
    out: Where to write it; by default beside the first, with -again in its name.
    embeddings: A file or folder where its embeddings are now, which are found by the hashes that the image carries,
        whatever they are called; repeatable.
    """
    from lab.images import likeness
    from lab.runs.png import read_record

    record = read_record(image)
    path = out or image.with_stem(f"{image.stem}-again")
    check_writable(path.parent)
    changed = {} if device is None else {"device": device}
    config = config_from_record(record | changed | (_found(image, embeddings) if embeddings else {}))
    with Bars() as bars:
        facts = read_facts(config, bars)
        from lab.models.load import load_options
        from lab.sample.generate import generate
        from lab.sample.record import save_result

        (result,) = generate(load_options(config, bars, facts), config, listener=bars)
    save_result(path, result.image, result.record)
    print(f"{path}: {likeness(image, result.image)}")
    for key, what in INGREDIENTS.items():
        if result.record.get(key) != record.get(key):
            print(f"{what} are not those that made {image}")


def _found(image: Path, places: Sequence[Path]) -> dict[str, list[str]]:
    """The options that offer an image's embeddings from where they are now.

    Raises:
        InputError: there is none with a hash that the image carries.
    """
    from lab.embeddings.read import read_all
    from lab.images import text_chunks
    from lab.runs.png import embedding_hashes, read_parameters

    wanted = embedding_hashes(read_parameters(text_chunks(image).get("parameters", "")))
    there = [one.provenance for place in (places if wanted else ()) for one in read_all(place)]
    sources = []
    for name, digest in wanted.items():
        file = next((each.path for each in there if each.sha256.startswith(digest)), None)
        if file is None:
            raise InputError(
                f"{name}: of what is in {', '.join(map(str, places))} none has the hash {digest}"
            )
        sources.append(f"{file}={name}")
    return {"embedding": sources, "embeddings": []}
