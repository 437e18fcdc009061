"""Embeddings from the Hugging Face hub."""

from contextlib import suppress
from pathlib import Path

from lab.errors import InputError

PREFIX = "hub:"
_FIRST = ("learned_embeds.safetensors", "learned_embeds.bin")
_SECOND = "learned_embeds_2.safetensors"


def download(source: str) -> Path:
    """Fetches `hub:org/name/file`, or `hub:org/name` for its `learned_embeds`, into the hub's cache.

    Of diffusers' files safetensors is preferred to pickle, and SDXL's second half comes along.

    Raises:
        InputError: no such repository or file, or no connection.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    organisation, _, rest = source.removeprefix(PREFIX).partition("/")
    name, _, file = rest.partition("/")
    if not organisation or not name:
        raise InputError(f"{source}: expected hub:org/name or hub:org/name/file")
    repository = f"{organisation}/{name}"
    problem = ""
    try:
        for wanted in (file,) if file else _FIRST:
            try:
                first = Path(hf_hub_download(repository, wanted))
            except LocalEntryNotFoundError:
                problem = (
                    "not in the local cache, and the hub cannot be reached; connect, or download the file"
                )
            except EntryNotFoundError:
                problem = f"no {wanted} there; give the file as hub:{repository}/FILE"
            else:
                if wanted == _FIRST[0]:
                    with suppress(EntryNotFoundError):
                        hf_hub_download(repository, _SECOND)
                return first
    except HFValidationError:
        problem = f"'{repository}' is not the name of a repository"
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "nothing")
        problem = f"the hub answers {status}; check the name, or log in with 'hf auth login' if it is private"
    except OSError as error:
        problem = f"cannot download it: {error.strerror or type(error).__name__}"
    raise InputError(f"{source}: {problem}")
