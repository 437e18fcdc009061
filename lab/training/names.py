"""What learned embeddings may be called."""

from collections.abc import Sequence

from lab.errors import InputError
from lab.models.bundle import Bundle


def check_names(bundle: Bundle, names: Sequence[str], overwrite: bool) -> None:
    """Checks the names of the embeddings of a run.

    Args:
        overwrite: Allows words of the model's vocabulary.

    Raises:
        InputError: a name given twice, or one that is a word already.
    """
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"name: '{name}' is given to two embeddings")
        tokenizer = bundle.towers[0].tokenizer
        ids = tokenizer(name, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and not overwrite:
            raise InputError(
                f"name: '{name}' is a word that {bundle.source} knows; take another name, or --overwrite-token"
            )
