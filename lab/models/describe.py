"""A model on disk: what its configs and file headers say of it; no weights are loaded."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.listening import Listener
from lab.models.config import ModelOptions
from lab.models.detection import UNET, VAE, by_published_names, check_folder, file_marks
from lab.models.facts import ModelFacts, read_facts
from lab.models.family import encoder_keys
from lab.models.weights import TensorInfo, hash_files, read_header, read_metadata

TOLD = {
    "prediction_type": "predicts",
    "rescale_betas_zero_snr": "zero terminal SNR",
    "_class_name": "distilled with guidance",
}
"""What a mark of a single file tells, by the first setting that it brings."""


@dataclass(frozen=True)
class Description:
    """A model on disk.

    Attributes:
        facts: What its configs say.
        encoders: The text encoders' keys and widths as their tensors have them, in the U-Net's order.
        parameters: Numbers in each part, by the part's name: `unet`, `text_encoder`, `vae`.
        dtypes: The precisions that the weights are stored in, the most frequent first, as safetensors names them.
        hash: As `Bundle.hash` would be.
        told_by: By which tensors, metadata or configs a `family`, what it `predicts` and, where a file has a mark of
            it, `zero terminal SNR` or `distilled with guidance` were recognised.
    """

    facts: ModelFacts
    encoders: tuple[tuple[str, int], ...]
    parameters: Mapping[str, int]
    dtypes: tuple[str, ...]
    hash: str
    told_by: Mapping[str, str]


def describe(
    source: str, revision: str | None = None, variant: str | None = None, listener: Listener = Listener()
) -> Description:
    """Says what a model source (see `lab.load`) holds; a single file may lack its VAE.

    Raises:
        InputError: as `lab.load` would, short of weights that do not fit their configs.
    """
    options = ModelOptions(model=source, revision=revision, variant=variant)
    facts = read_facts(options, listener, without_vae=True)
    headers, paths = read_headers(facts, variant)
    widths = [_width(headers[f"text_encoder{suffix}"]) for suffix in facts.traits.suffixes]
    stored = Counter(info.dtype for header in headers.values() for info in header.values())
    return Description(
        facts=facts,
        encoders=tuple(zip(encoder_keys(facts.family, widths), widths, strict=True)),
        parameters=count_parameters(headers),
        dtypes=tuple(dtype for dtype, _ in stored.most_common()),
        hash=hash_files(paths),
        told_by=_told_by_configs(facts) if facts.root.is_dir() else _told_by_tensors(facts),
    )


def _told_by_configs(facts: ModelFacts) -> dict[str, str]:
    configs = {"family": "unet/config.json and text_encoder/config.json"}
    return configs | {"predicts": "scheduler/scheduler_config.json"}


def _told_by_tensors(facts: ModelFacts) -> dict[str, str]:
    """A tensor of each text encoder, and every mark that the file bears; without one the family's usual counts."""
    header = by_published_names(read_header(facts.root))
    prefixes = facts.traits.checkpoint_prefixes
    encoders = [min(name for name in header if name.startswith(prefix)) for prefix in prefixes]
    told = {
        "family": " and ".join(encoders),
        "predicts": f"no mark in the file: what {facts.traits.short_label} does",
    }
    for mark in file_marks(facts.root, header, facts.family, read_metadata(facts.root)):
        told[TOLD[next(iter(mark.settings))]] = mark.told_by
    return told


def _width(header: Mapping[str, TensorInfo]) -> int:
    """A text encoder's width: the length of its token embeddings."""
    return next(
        (info.shape[1] for name, info in header.items() if name.endswith("token_embedding.weight")), 0
    )


def read_headers(
    facts: ModelFacts, variant: str | None
) -> tuple[dict[str, dict[str, TensorInfo]], list[Path]]:
    """What the files of a model say of the tensors of each part, `unet`, `text_encoder` and so on, and the files.

    Raises:
        InputError: a part without weights, or a damaged file.
    """
    if facts.root.is_dir():
        names = check_folder(facts.root, facts.family, variant)
        files = {part: [facts.root / name for name in of_part] for part, of_part in names.items()}
        headers = {
            part: {name: info for path in paths for name, info in read_header(path).items()}
            for part, paths in files.items()
        }
        return headers, [path for of_part in files.values() for path in of_part]
    encoders = zip(facts.traits.suffixes, facts.traits.checkpoint_prefixes, strict=True)
    prefixes = {"unet": UNET, "vae": VAE} | {f"text_encoder{suffix}": prefix for suffix, prefix in encoders}
    header = by_published_names(read_header(facts.root))
    by_part = {
        part: {name: info for name, info in header.items() if name.startswith(prefix)}
        for part, prefix in prefixes.items()
    }
    return by_part, [facts.root]


def count_parameters(headers: Mapping[str, Mapping[str, TensorInfo]]) -> dict[str, int]:
    """Numbers in each part of a model, by what its files say of it."""
    return {part: sum(math.prod(info.shape) for info in header.values()) for part, header in headers.items()}
