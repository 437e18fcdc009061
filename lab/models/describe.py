"""What a model is, from its configs and file headers: no weights are loaded."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.models.bundle import Family, GenerationDefaults
from lab.models.defaults import generation_defaults
from lab.models.family import FAMILIES, tower_keys
from lab.models.folder import check_folder, folder_family, read_json
from lab.models.single_file import CONFIGS, TEXT_ENCODERS, UNET, VAE, file_family, file_marks
from lab.models.source import locate
from lab.models.weights import TensorInfo, read_header, sha256


@dataclass(frozen=True)
class Description:
    """A model on disk.

    Attributes:
        encoders: The text encoders' keys and widths, in the U-Net's order.
        parameters: Numbers in each part, by the part's name.
        dtypes: The precisions that the weights are stored in, the most frequent first, as safetensors names them.
        hash: As `Bundle.hash` would be.
    """

    source: str
    root: Path
    family: Family
    prediction_type: str
    encoders: tuple[tuple[str, int], ...]
    parameters: Mapping[str, int]
    dtypes: tuple[str, ...]
    hash: str
    defaults: GenerationDefaults


def describe(source: str, revision: str | None = None, variant: str | None = None) -> Description:
    """Says what a source holds.

    Raises:
        InputError: as `load` would, short of weights that do not fit their configs.
    """
    root = locate(source, revision, variant)
    return _describe_folder(source, root, variant) if root.is_dir() else _describe_file(source, root)


def _describe_folder(source: str, root: Path, variant: str | None) -> Description:
    family = folder_family(root)
    files = check_folder(root, family, variant)
    headers = {part: _merged(root / name for name in names) for part, names in files.items()}
    paths = [root / name for names in files.values() for name in names]
    return _description(source, root, root, family, headers, paths)


def _describe_file(source: str, path: Path) -> Description:
    header = read_header(path)
    family = file_family(header, path)
    prefixes = {"unet": UNET, "vae": VAE}
    for suffix, prefix in zip(FAMILIES[family].suffixes, TEXT_ENCODERS[family], strict=True):
        prefixes[f"text_encoder{suffix}"] = prefix
    headers = {
        part: {name: info for name, info in header.items() if name.startswith(prefix)}
        for part, prefix in prefixes.items()
    }
    return _description(source, path, CONFIGS / family, family, headers, [path], file_marks(header))


def _description(
    source: str,
    root: Path,
    configs: Path,
    family: Family,
    headers: Mapping[str, Mapping[str, TensorInfo]],
    paths: Sequence[Path],
    marks: Mapping[str, Any] | None = None,
) -> Description:
    unet, vae = (read_json(configs / part / "config.json") for part in ("unet", "vae"))
    scheduler = read_json(configs / "scheduler" / "scheduler_config.json") | dict(marks or {})
    widths = [_width(headers[f"text_encoder{suffix}"]) for suffix in FAMILIES[family].suffixes]
    stored = Counter(info.dtype for header in headers.values() for info in header.values())
    return Description(
        source=source,
        root=root,
        family=family,
        prediction_type=scheduler.get("prediction_type", "epsilon"),
        encoders=tuple(zip(tower_keys(family, widths), widths, strict=True)),
        parameters={
            part: sum(math.prod(i.shape) for i in header.values()) for part, header in headers.items()
        },
        dtypes=tuple(dtype for dtype, _ in stored.most_common()),
        hash=sha256(paths),
        defaults=generation_defaults(family, unet, vae, scheduler, root),
    )


def _merged(paths: Iterable[Path]) -> dict[str, TensorInfo]:
    return {name: info for path in paths for name, info in read_header(path).items()}


def _width(header: Mapping[str, TensorInfo]) -> int:
    """A text encoder's width: the length of its token embeddings."""
    return next(
        (info.shape[1] for name, info in header.items() if name.endswith("token_embedding.weight")), 0
    )
