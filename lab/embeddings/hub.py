"""Embeddings from the Hugging Face hub."""

from contextlib import suppress
from pathlib import Path

from lab.errors import InputError

PREFIX = "hub:"
_SAFE, _PICKLE, _SECOND = "learned_embeds.safetensors", "learned_embeds.bin", "learned_embeds_2.safetensors"


def download(source: str) -> Path:
    """Fetches `hub:org/name/file`, or `hub:org/name` for its `learned_embeds`, into the hub's cache.

    Of diffusers' files safetensors is preferred to pickle, and SDXL's second half comes along.

    Raises:
        InputError: no such repository or file, or no connection.
    """
    from huggingface_hub import errors

    organisation, _, rest = source.removeprefix(PREFIX).partition("/")
    name, _, file = rest.partition("/")
    if not organisation or not name:
        raise InputError(f"{source}: expected hub:org/name or hub:org/name/file")
    repository = f"{organisation}/{name}"
    try:
        return _fetch(repository, file) if file else _fetch_learned_embeds(repository)
    except errors.HFValidationError:
        problem = f"'{repository}' is not the name of a repository"
    except errors.LocalEntryNotFoundError:
        problem = "not in the local cache, and the hub is out of reach; connect, or download the file"
    except errors.EntryNotFoundError:
        problem = f"no {file or _PICKLE} there; give the file as hub:{repository}/FILE"
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "nothing")
        problem = f"the hub answers {status}; check the name, or log in with 'hf auth login' if it is private"
    except OSError as error:
        problem = f"cannot download it: {error.strerror or type(error).__name__}"
    raise InputError(f"{source}: {problem}")


def _fetch(repository: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, file))


def _fetch_learned_embeds(repository: str) -> Path:
    from huggingface_hub.errors import EntryNotFoundError

    try:
        first = _fetch(repository, _SAFE)
    except EntryNotFoundError:
        return _fetch(repository, _PICKLE)
    with suppress(EntryNotFoundError):
        _fetch(repository, _SECOND)
    return first
