"""Fetches models from the Hugging Face hub: safetensors, configs and tokenizers, nothing else."""

from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lab.errors import InputError
from lab.models.weights import pick_weights

CLIP_REPOSITORY = "openai/clip-vit-large-patch14"
"""Whose tokenizer every Stable Diffusion model uses."""
SMALL_FILES = (".json", ".txt")
WEIGHT_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def fetch(repository: str, revision: str | None = None, variant: str | None = None) -> Path:
    """Fetches a diffusers model, or finds it in the local cache when the hub is out of reach.

    Returns:
        The snapshot's folder in the cache.

    Raises:
        InputError: no such repository or revision, one that needs a login, or neither hub nor cache has it.
    """
    where = f"hub:{repository}" + (f" at {revision}" if revision else "")
    try:
        names = HfApi().list_repo_files(repository, revision=revision)
        wanted = needed_files(names, variant)
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except GatedRepoError:
        raise InputError(f"{where}: needs its licence accepted on its page, and `hf auth login`") from None
    except RevisionNotFoundError:
        raise InputError(f"{where}: the repository has no such revision") from None
    except RepositoryNotFoundError:
        raise InputError(
            f"{where}: no such repository, or a private one; check the name, or `hf auth login`"
        ) from None
    except HFValidationError:
        raise InputError(f"{where}: not a repository's name; write hub:org/name") from None
    except (OSError, HfHubHTTPError):
        return _cached(repository, revision, where)


def needed_files(names: Iterable[str], variant: str | None) -> list[str]:
    """Of a repository's files those that loading reads: configs, tokenizers, and one set of safetensors a part."""
    names = list(names)
    small = [name for name in names if name.endswith(SMALL_FILES) and name.count("/") <= 1]
    return small + [name for part in WEIGHT_PARTS for name in pick_weights(names, part, variant)]


def clip_vocabulary() -> list[Path]:
    """CLIP's `vocab.json` and `merges.txt`, from the hub or its local cache.

    Raises:
        InputError: neither has them.
    """
    try:
        return [Path(hf_hub_download(CLIP_REPOSITORY, name)) for name in ("vocab.json", "merges.txt")]
    except (OSError, HfHubHTTPError):
        raise InputError(
            f"a single-file model holds no tokenizer, and the hub's {CLIP_REPOSITORY} is neither in reach nor in the "
            f"local cache; give --config-folder a folder with CLIP's vocab.json and merges.txt"
        ) from None


def _cached(repository: str, revision: str | None, where: str) -> Path:
    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        raise InputError(
            f"{where}: the hub is out of reach and the model is not in the local cache; "
            f"fetch it while online, or give a folder or file:x.safetensors"
        ) from None
