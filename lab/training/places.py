"""Where learned vectors stand: in front of the text encoder, behind it, or others in each of the U-Net's layers.

What is learned has the names of `Embedding.tensors`: the encoder's in front of it, that with `_out` behind it, and
those of `XTI_LAYERS`. Imports no torch.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lab.embeddings.embedding import XTI_LAYERS, Embedding, Kind, Place, Provenance
from lab.embeddings.parts import mean_of_layers
from lab.errors import InputError
from lab.models.facts import ModelFacts
from lab.training.config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

    from lab.models.bundle import Bundle

UNKNOWN = Provenance()

_OUT = "_out"
"""Ends the names of output embeddings."""


def check_place(config: TrainConfig, facts: ModelFacts) -> None:
    """Refuses a place that the model or the other settings have no room for; objectives say theirs.

    Raises:
        InputError: layers that files have no names for, or that cannot be reached, or what is measured in front of the
            encoder for what is behind it.
    """
    count = facts.cross_attention_layers
    if config.place == "layers" and (count != len(XTI_LAYERS) or len(facts.text_encoders) > 1):
        raise InputError(
            f"place: files name the {len(XTI_LAYERS)} layers that read the text in SD 1.x and 2.x, and "
            f"{facts.source} has {count}; take output or input"
        )
    if config.place == "layers" and config.compile:
        raise InputError("compile: closes the U-Net's layers; leave it out with --place layers")
    if config.place != "input" and config.keep_context:
        raise InputError(
            "keep_context: what stands in front of the text encoder moves the words there; leave it out with --place "
            f"{config.place}"
        )
    if config.place == "output" and config.norm != "free":
        raise InputError(
            "norm: the vocabulary's range is for what is in front of the text encoder; leave it out with --place output"
        )


def placed(
    bundle: "Bundle", vectors: "Mapping[str, Tensor]", place: Place, clip_skip: int
) -> "dict[str, Tensor]":
    """Where rows begin in a place: behind the encoder at what it makes of vectors alone, in layers at the vectors.

    Args:
        vectors: (n, width) for each text encoder, on the CPU.
    """
    if place == "input":
        return dict(vectors)
    if place == "layers":
        (rows,) = vectors.values()
        return {layer: rows.clone() for layer in XTI_LAYERS}
    from lab.condition.encode import encode

    alone = Embedding("learned", dict(vectors))
    found = encode(bundle, "<learned>", embeddings=alone, dialect="plain", clip_skip=clip_skip)
    rows = found.embeds[list(found.applied[0].positions)]
    widths = [tower.width for tower in bundle.towers]
    parts = zip(bundle.towers, rows.split(widths, dim=-1), strict=True)
    return {f"{tower.key}{_OUT}": part.clone() for tower, part in parts}


def embedding_of(
    name: str, tensors: "Mapping[str, Tensor]", kind: Kind, provenance: Provenance = UNKNOWN
) -> Embedding:
    """The embedding that has these tensors where it acts; in front of the text encoder of output embeddings are zeros,
    of vectors for layers their mean."""
    outputs = {key.removesuffix(_OUT): rows for key, rows in tensors.items() if key.endswith(_OUT)}
    layers = {key: rows for key, rows in tensors.items() if key in XTI_LAYERS}
    if layers:
        mean = mean_of_layers({layer: rows.detach() for layer, rows in layers.items()})
        return Embedding(name, mean, kind, provenance, layers=layers)
    if outputs:
        zeros = {key: rows.new_zeros(rows.shape) for key, rows in outputs.items()}
        return Embedding(name, zeros, kind, provenance, outputs)
    return Embedding(name, dict(tensors), kind, provenance)
