"""Typed model sources: what a name, `file:`, `hub:` or a folder stands for; what is on a hub is fetched.

Of a hub come safetensors, configs and tokenizers, nothing else.
"""

from pathlib import Path, PurePosixPath

from lab.config import at_home
from lab.errors import InputError, did_you_mean
from lab.files import is_file, is_folder
from lab.hub.repository import HUB, Repository, open_repository, split_source
from lab.listening import Listener
from lab.models.detection import check_file_names, folder_family
from lab.models.weights import HOW_TO_CONVERT, PICKLES, pick_weights, refuse_pickle

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
) -> Path:
    """The folder or the single file that a source stands for; a hub model is fetched.

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
    hint = (
        f"; for a model on the hub write hub:{source}"
        if source.count("/") == 1
        else did_you_mean(source, bundled())
    )
    raise InputError(f"unknown model '{source}': neither bundled nor a folder{hint}")


def locate_vae(source: str, listener: Listener = Listener()) -> Path:
    """The folder or the single file with a VAE that a source stands for; of a hub model the VAE alone is fetched.

    Raises:
        InputError: as `locate`.
    """
    if source.startswith(HUB):
        return _download_vae(source, listener)
    return locate(source)


def _single_file(path: Path) -> Path:
    refuse_pickle(path)
    if is_folder(path):
        raise InputError(f"{path}: this is a folder; leave out 'file:'")
    if not is_file(path):
        raise InputError(f"{path}: no such file")
    return path


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


def _download_vae(source: str, listener: Listener) -> Path:
    """Fetches a VAE alone: `hub:org/name/x.safetensors`, a repository that holds one, or that of a model.

    Raises:
        InputError: as `_download`.
    """
    name, file = split_source(source)
    repository = open_repository(name, None, listener)
    if file:
        return repository.fetch([file], listener) / file
    inside = "vae/" if "vae/config.json" in repository.files else ""
    names = [f"vae/{name.removeprefix(inside)}" for name in repository.files if name.startswith(inside)]
    weights = [inside + name.removeprefix("vae/") for name in pick_weights(names, "vae", None)]
    if not weights or f"{inside}config.json" not in repository.files:
        raise InputError(f"{repository}: no VAE in safetensors there; {_instead(repository)}")
    return repository.fetch([f"{inside}config.json", *weights], listener)


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
