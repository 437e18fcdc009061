"""What a file is that is no Stable Diffusion model, told by the names of its tensors.

Files are often given where another kind of file belongs: the message then says what it is and where it goes.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

OTHER_FAMILY = "the lab reads what is made for SD 1.x, SD 2.x and SDXL"


class FileKind(NamedTuple):
    """A kind of file, such as `a LoRA`, and what to do with it."""

    label: str
    use: str

    def instead_of(self, wanted: str) -> str:
        """What whoever gave it is told where something else is wanted, such as `a LoRA`."""
        apart = "" if self.use == OTHER_FAMILY else f", not {wanted}"
        return f"{self.label}{apart}; {self.use}"


EMBEDDING = FileKind("a textual-inversion embedding", "give it by --embedding")

MODEL = FileKind("a model or a part of one", "models are given by --model")

LORA = FileKind("a LoRA", "give it by --lora beside a model")

CONTROLNET = FileKind("a ControlNet", "give it by --controlnet beside a model")

_PLAIN_CONTROLNET = "the lab reads plain ControlNets, each for one kind of image"

BUNDLED_EMBEDDING = "bundle_emb."
"""With this the names of an embedding's tensors begin that OneTrainer put into a LoRA's file."""

_KINDS: Mapping[FileKind, str] = {
    EMBEDDING: r"emb_params$|emp_params(_out)?$|string_to_(param|token)|bundle_emb\.|text_encoders_\d$"
    r"|clip_[lgh](_out)?$|<[^<>]+>$",
    FileKind("a Control-LoRA", _PLAIN_CONTROLNET): r"lora_controlnet$",
    FileKind("a ControlNet-LLLite", _PLAIN_CONTROLNET): r"lllite_",
    FileKind("a union ControlNet (union, promax)", _PLAIN_CONTROLNET): r"task_embedding$"
    r"|control_add_embedding\.",
    FileKind("a ControlNet that holds the difference from a model alone", _PLAIN_CONTROLNET): r"difference$",
    FileKind("a T2I-Adapter", _PLAIN_CONTROLNET): r"(adapter\.)?body\.\d+\.(in_conv|block[12]|resnets)\."
    r"|style_embedding$",
    FileKind("an IP-Adapter", "images as prompts are not supported"): r"(image_proj|ip_adapter)\.",
    FileKind(
        "a motion module or a SparseCtrl of AnimateDiff", "the lab makes single images"
    ): r"(module\.)?(down|mid|up)_blocks?\.(\d+\.)?motion_modules\.",
    FileKind(
        "a ControlNet for a transformer such as Flux or SD3", OTHER_FAMILY
    ): r"controlnet_(single_)?blocks\."
    r"|controlnet_x_embedder\.",
    FileKind("a LyCORIS file (LoHa, LoKr and the like)", "LyCORIS is not supported, take a LoRA"): r".*("
    r"\.hada_[wt]\d|\.lokr_[wt]\d|\.oft_(blocks|diag)|\.on_input$|\.glora_)|lycoris_",
    FileKind("a LoRA for a transformer such as Flux or SD3", OTHER_FAMILY): r"(?=.*lora[._])("
    r"(lora_unet_|(model\.)?diffusion_model\.)?(double|single|joint)_blocks|(lora_)?transformer[._])",
    LORA: r"(.*[._])?lora[._]",
    FileKind("a hypernetwork of the A1111 web UI", "hypernetworks are not supported"): r"layer_structure$"
    r"|activation_func$|(320|640|768|1024|1280)(\.|$)",
    FileKind(
        "the state of an optimizer", "it is for going on with a training; take the file of the vectors"
    ): r"optimizer(_state_dict)?$|param_groups$|(.*\.)?exp_avg(_sq)?$",
    CONTROLNET: r"(control_model|controlnet_cond_embedding|controlnet_down_blocks|zero_convs|input_hint_block)\.",
    FileKind("a Flux model", OTHER_FAMILY): r"(model\.diffusion_model\.)?(double|single)_blocks\.",
    FileKind("an SD3 model", OTHER_FAMILY): r"(model\.diffusion_model\.)?joint_blocks\.",
    FileKind(
        "a Stable Cascade model", OTHER_FAMILY
    ): r"(model\.diffusion_model\.)?(clip_txt|effnet)_\w*mapper\.",
    FileKind(
        "a diffusion transformer (Flux, SD3, PixArt, Lumina, Wan and the like)", OTHER_FAMILY
    ): r"(model\.diffusion_model\.)?((single_)?transformer_blocks|blocks|layers|double_layers|cap_embedder)\.",
    FileKind("a T5 text encoder", OTHER_FAMILY): r"encoder\.block\.\d",
    FileKind("a text encoder alone", "take the model's whole file, or its diffusers folder"): r"text_model\.",
}
"""By the pattern with which a name of one of its tensors begins; the first that fits counts."""


def file_kind(names: Iterable[str]) -> FileKind | None:
    """The kind of a file with tensors of these names, or None for a model or what nobody knows."""
    known = list(names)
    for kind, pattern in _KINDS.items():
        if any(re.match(pattern, name) for name in known):
            return kind
    return None
