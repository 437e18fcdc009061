"""What a file of named tensors is, told by the names. Imports no torch.

Files are often given where another kind of file belongs: the message then says what it is and where it goes.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class FileKind(NamedTuple):
    """A kind of file, such as `a LoRA`, and what to do with it."""

    label: str
    use: str


EMBEDDING = FileKind("a textual-inversion embedding", "give it by --embedding")

LORA = FileKind("a LoRA", "give it by --lora beside a model")

BUNDLED = "bundle_emb."
"""With this the names of embeddings begin that OneTrainer bundles with a LoRA."""

_OTHER_FAMILY = "the lab reads what is made for SD 1.x, SD 2.x and SDXL"

_KINDS: Mapping[FileKind, str] = {
    EMBEDDING: r"emb_params$|emp_params(_out)?$|string_to_(param|token)|bundle_emb\.|text_encoders_\d$"
    r"|clip_[lgh](_out)?$|<[^<>]+>$",
    FileKind("a LyCORIS file (LoHa, LoKr and the like)", "LyCORIS is not supported, take a LoRA"): r".*("
    r"\.hada_[wt]\d|\.lokr_[wt]\d|\.oft_(blocks|diag)|\.on_input$|\.glora_)|lycoris_",
    LORA: r"(.*[._])?lora[._]",
    FileKind("a hypernetwork of the A1111 web UI", "hypernetworks are not supported"): r"layer_structure$"
    r"|activation_func$|(320|640|768|1024|1280)(\.|$)",
    FileKind(
        "the state of an optimizer", "it is for going on with a training; take the file of the vectors"
    ): r"optimizer(_state_dict)?$|param_groups$|(.*\.)?exp_avg(_sq)?$",
    FileKind("a ControlNet", "it goes beside a model"): r"(control_model|controlnet_cond_embedding)\.",
    FileKind("a Flux model", _OTHER_FAMILY): r"(model\.diffusion_model\.)?(double|single)_blocks\.",
    FileKind("an SD3 model", _OTHER_FAMILY): r"(model\.diffusion_model\.)?joint_blocks\.",
    FileKind("a T5 text encoder", _OTHER_FAMILY): r"encoder\.block\.\d",
}
"""By the pattern with which a name of one of its tensors begins; the first that fits counts."""


def file_kind(names: Iterable[str]) -> FileKind | None:
    """The kind of a file with tensors of these names, or None for a model or what nobody knows."""
    known = list(names)
    for kind, pattern in _KINDS.items():
        if any(re.match(pattern, name) for name in known):
            return kind
    return None
