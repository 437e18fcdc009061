"""Typed model sources: what a name, `file:`, `hub:` or a folder stands for."""

from pathlib import Path

from lab.errors import InputError, did_you_mean
from lab.hub.repository import HUB
from lab.listening import Listener
from lab.models.weights import HOW_TO_CONVERT, PICKLES

ASSETS = Path(__file__).parents[1] / "assets"


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
        from lab.models.download import download  # says what a folder lacks, which takes more than names

        return download(source, revision, variant, listener)
    if source.startswith("file:"):
        return _single_file(Path(source.removeprefix("file:")).expanduser())
    if source in bundled():
        return bundled()[source]
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.suffix.lower() in PICKLES:
        raise InputError(f"{source}: {HOW_TO_CONVERT}")
    if path.is_file():
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
        from lab.models.download import download_vae

        return download_vae(source, listener)
    return locate(source)


def _single_file(path: Path) -> Path:
    if path.suffix.lower() in PICKLES:
        raise InputError(f"{path}: {HOW_TO_CONVERT}")
    if path.is_dir():
        raise InputError(f"{path}: this is a folder; leave out 'file:'")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return path
