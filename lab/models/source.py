"""Typed model sources: what a name, `file:`, `hub:` or a folder stands for; what is on a hub is fetched.

Of a hub come safetensors, configs and tokenizers, nothing else.
"""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from lab.config import at_home
from lab.errors import InputError, did_you_mean
from lab.files import is_file, is_folder
from lab.hub.repository import HUB, Repository, open_repository, split_source
from lab.listening import Listener
from lab.models.detection import check_file_names, folder_family
from lab.models.weights import HOW_TO_CONVERT, PICKLES, known_variants, pick_weights, refuse_pickle

ASSETS = Path(__file__).parents[1] / "assets"
"""The files that come with the lab: the bundled model, its samples, a font."""


def bundled() -> dict[str, Path]:
    """The models that come with the lab, by name."""
    return {path.parent.name: path.parent for path in sorted(ASSETS.glob("*/model_index.json"))}


def locate(
    source: str,
    revision: str | None = None,
    variant: str | None = None,
    listener: Listener = Listener(),
    what: str = "model",
) -> Path:
    """The folder or the single file that a source stands for; a hub model is fetched.

    Args:
        what: The source is called in errors.

    Raises:
        InputError: nothing of that name, a file where `file:` is missing, a pickle, or a hub out of reach.
    """
    if source.startswith(HUB):
        return _download(source, revision, variant, listener)
    if source.startswith("file:"):
        return _single_file(at_home(Path(source.removeprefix("file:"))))
    if source in bundled():
        return bundled()[source]
    path = at_home(Path(source))
    if is_folder(path):
        return path
    refuse_pickle(path)
    if is_file(path):
        raise InputError(f"{source}: this is a file; write file:{source}")
    on_hub = _ON_HUB.fullmatch(source)
    hint = (
        f"; for a model on the hub write hub:{on_hub[1]}{on_hub[2] or ''}"
        if on_hub
        else did_you_mean(source, bundled())
    )
    raise InputError(f"unknown {what} '{source}': neither bundled nor a folder{hint}")


_ON_HUB = re.compile(
    r"(?:https?://(?:huggingface\.co|hf\.co)/)?([\w-][\w.-]*/[\w.-]+)"
    r"(?:/?|/tree/[^?]*|/(?:blob|resolve)/[^/]+(/[^?]+))(?:\?.*)?"
)
"""What may be a repository's name, the address of its page, or that of a file in it; no path with a drive, such as
C:/models."""


def locate_part(source: str, part: str, listener: Listener = Listener()) -> Path:
    """The folder or the single file with a `vae` or a `controlnet` that a source stands for; of a repository on a hub
    that alone is fetched.

    Raises:
        InputError: as `locate`.
    """
    if source.startswith(HUB):
        return _download_part(source, part, listener)
    return locate(source, what=PART_NAMES[part])


def part_weights(names: Iterable[str], part: str) -> tuple[str | None, list[str]]:
    """The safetensors files among the names in a part's own folder, and of which variant they are: the plain ones
    (None), else those of the first variant there is; no files if there are none."""
    inside = [f"{part}/{name}" for name in names]
    for variant in (None, *known_variants(inside)):
        found = pick_weights(inside, part, variant)
        if found:
            return variant, [name.removeprefix(f"{part}/") for name in found]
    return None, []


def _single_file(path: Path) -> Path:
    refuse_pickle(path)
    if is_folder(path):
        raise InputError(f"{path}: this is a folder; leave out 'file:'")
    if not is_file(path):
        raise InputError(f"{path}: no such file")
    return path


PART_NAMES = {"vae": "VAE", "controlnet": "ControlNet"}
"""What people call the parts that may be given apart from a model."""

_SMALL_FILES = (".json", ".txt")
LORA_FILE = "pytorch_lora_weights.safetensors"


def _download(source: str, revision: str | None, variant: str | None, listener: Listener) -> Path:
    """Fetches a model, or finds it in the local cache when the hub is out of reach.

    What can be told of a folder by its configs and file names is told before its weights are fetched.

    Args:
        source: `hub:org/name` for a diffusers folder, `hub:org/name/x.safetensors` for a single file.

    Returns:
        The folder or file in the hub's cache.

    Raises:
        InputError: no such repository, revision or file, no access, no model, only pickles, a family that the lab does
            not load, or neither hub nor cache has it.
    """
    name, file = split_source(source)
    if PurePosixPath(file).suffix.lower() in PICKLES:
        raise InputError(f"{source}: {HOW_TO_CONVERT}")
    repository = open_repository(name, revision, listener)
    if file:
        return repository.fetch([file], listener) / file
    if not repository.is_model:
        raise InputError(f"{repository}: no model as a diffusers folder; {_instead(repository)}")
    small = [name for name in repository.files if name.endswith(_SMALL_FILES) and name.count("/") <= 1]
    folder = repository.fetch(small, listener, preliminary=True)
    try:
        weights = check_file_names(list(repository.files), folder, folder_family(folder), variant)
    except InputError as error:
        said = str(error).replace(str(folder), str(repository), 1)
        partly = (
            f"; {repository.trouble}, and the local cache may hold only a part" if repository.trouble else ""
        )
        raise InputError(f"{said}{partly}") from None
    return repository.fetch([*small, *(name for names in weights.values() for name in names)], listener)


def _download_part(source: str, part: str, listener: Listener) -> Path:
    """Fetches a part alone: `hub:org/name/x.safetensors`, a repository or a folder in one that holds it, or that of a
    whole model.

    Raises:
        InputError: as `_download`.
    """
    name, inside = split_source(source)
    if PurePosixPath(inside).suffix.lower() in PICKLES:
        raise InputError(f"{source}: {HOW_TO_CONVERT}")
    repository = open_repository(name, None, listener)
    folder = next((each for each in (inside, part) if f"{each}/config.json" in repository.files), "")
    if inside and not folder:
        return repository.fetch([inside], listener) / inside
    prefix = f"{folder}/" if folder else ""
    names = [name.removeprefix(prefix) for name in repository.files if name.startswith(prefix)]
    _, weights = part_weights(names, part)
    if not weights or "config.json" not in names:
        raise InputError(f"{repository}: no {PART_NAMES[part]} in safetensors there; {_instead(repository)}")
    return repository.fetch([prefix + name for name in ("config.json", *weights)], listener) / folder


def _instead(repository: Repository) -> str:
    """What a repository is, if it is no model as a diffusers folder, and how that is used."""
    if repository.is_embedding:
        return f"this looks like an embedding: give it by --embedding {HUB}{repository.name}"
    if LORA_FILE in repository.files:
        return "this is a LoRA: fetch its file, and give it by --lora beside a model"
    root = [name for name in sorted(repository.files) if "/" not in name]
    files = [f"{HUB}{repository.name}/{name}" for name in root if name.endswith(".safetensors")]
    if files:
        return f"for a single-file model write {' or '.join(files[:3])}"
    if any(PurePosixPath(name).suffix in PICKLES for name in repository.files):
        return HOW_TO_CONVERT
    return "the lab loads diffusers folders and single files of SD 1.x, 2.x and SDXL"
