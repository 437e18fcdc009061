"""The vocabularies of a model, without loading more of it than needed."""

import torch
from transformers import CLIPTokenizer, PreTrainedModel

from lab.embeddings.inspection import Vocabulary
from lab.models.family import FAMILIES, tower_keys
from lab.models.folder import folder_family, read_module, read_tokenizer
from lab.models.load import load
from lab.models.parts import encoder_class
from lab.models.sources import locate


def vocabularies(model: str) -> dict[str, Vocabulary]:
    """The vocabulary of each text encoder, by the name under which embeddings address it.

    Of a folder only text encoders and tokenizers are loaded; a single file has to be loaded whole.

    Raises:
        InputError: no such model, or a damaged one.
    """
    root = locate(model)
    if not root.is_dir():
        towers = load(model, device="cpu").towers
        return {tower.key: _vocabulary(tower.encoder, tower.tokenizer) for tower in towers}
    family = folder_family(root)
    found = [
        _vocabulary(
            read_module(encoder_class(suffix), root / f"text_encoder{suffix}", None, torch.float32),
            read_tokenizer(root / f"tokenizer{suffix}"),
        )
        for suffix in FAMILIES[family].suffixes
    ]
    keys = tower_keys(family, [vocabulary.table.shape[1] for vocabulary in found])
    return dict(zip(keys, found, strict=True))


def _vocabulary(encoder: PreTrainedModel, tokenizer: CLIPTokenizer) -> Vocabulary:
    table = encoder.get_input_embeddings().weight.detach().float()
    names = tokenizer.convert_ids_to_tokens(range(min(len(tokenizer), len(table))))
    return Vocabulary(table[: len(names)], names)
