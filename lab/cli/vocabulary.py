"""The vocabularies of a model, without loading more of it than needed."""

from transformers import CLIPTokenizer, PreTrainedModel

from lab.embeddings.inspection import Vocabulary
from lab.models.family import tower_keys
from lab.models.folder import check_folder, folder_family, read_encoders
from lab.models.load import load
from lab.models.sources import locate


def vocabularies(model: str, variant: str | None) -> dict[str, Vocabulary]:
    """The vocabulary of each text encoder, by the name under which embeddings address it.

    Of a folder only text encoders and tokenizers are loaded; a single file has to be loaded whole.

    Raises:
        InputError: no such model, or a damaged one.
    """
    root = locate(model, variant=variant)
    if not root.is_dir():
        towers = load(model, device="cpu").towers
        return {tower.key: _vocabulary(tower.tokenizer, tower.encoder) for tower in towers}
    family = folder_family(root)
    check_folder(root, family, variant)
    found = [_vocabulary(*tower) for tower in read_encoders(root, family, variant)]
    keys = tower_keys(family, [vocabulary.table.shape[1] for vocabulary in found])
    return dict(zip(keys, found, strict=True))


def _vocabulary(tokenizer: CLIPTokenizer, encoder: PreTrainedModel) -> Vocabulary:
    table = encoder.get_input_embeddings().weight.detach().float()
    names = tokenizer.convert_ids_to_tokens(range(min(len(tokenizer), len(table))))
    return Vocabulary(table[: len(names)], names)
