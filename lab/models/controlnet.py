"""ControlNets (2302.05543): from where they are, what their files hold, and to a model beside a U-Net.

A folder or repository in diffusers' layout has a config; of a single file its tensors' shapes tell one, whether they
have the names of lllyasviel's code or of diffusers'.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import InputError
from lab.files import is_file, is_there
from lab.hub.repository import HUB
from lab.listening import Listener
from lab.models.detection import contents_of
from lab.models.facts import ModelFacts, vae_scale
from lab.models.file_kinds import CONTROLNET, file_kind
from lab.models.part_configs import read_part_config
from lab.models.source import locate_part, part_weights
from lab.models.weights import TensorInfo, check_floating, read_header
from lab.runs.run import digest_of_files, file_digest

if TYPE_CHECKING:
    import torch
    from diffusers import ControlNetModel

_FETCHED: dict[str, Path] = {}
"""Where the ControlNets of a hub lie. A process asks for each once: what is checked is what makes the images, and what
their records tell of."""


@dataclass(frozen=True)
class ControlNetFiles:
    """A ControlNet on disk.

    Attributes:
        root: A folder in diffusers' layout, or a single file.
        weights: What holds its tensors.
    """

    root: Path
    weights: tuple[Path, ...]

    @property
    def digest(self) -> str:
        """The SHA-256 of a single file, or of the list of a folder's config and weights (see `file_digest`)."""
        if self.root in self.weights:
            return file_digest(self.root)
        return digest_of_files([self.root / "config.json", *self.weights])


def find_controlnet(source: str, listener: Listener = Listener()) -> ControlNetFiles:
    """The files of a ControlNet; one on a hub is fetched.

    Args:
        source: A diffusers folder, `file:x.safetensors`, `hub:org/name`, or in a repository a file or a folder.

    Raises:
        InputError: nothing there, pickles alone, or a hub out of reach.
    """
    fetched = _FETCHED.get(source)
    root = fetched if fetched and is_there(fetched) else locate_part(source, "controlnet", listener)
    if source.startswith(HUB):
        _FETCHED[source] = root
    if is_file(root):
        return ControlNetFiles(root, (root,))
    names = [path.name for path in root.iterdir()]
    _, weights = part_weights(names, "controlnet")
    if "config.json" not in names or not weights:
        raise InputError(
            f"{source}: no ControlNet; its folder has config.json and diffusion_pytorch_model.safetensors"
            f"{contents_of(root)}"
        )
    return ControlNetFiles(root, tuple(root / name for name in weights))


def controlnet_config(files: ControlNetFiles, facts: ModelFacts) -> dict[str, Any]:
    """The config of a ControlNet that fits a model.

    Args:
        facts: The model's. What the tensors of a single file do not tell, such as the number of attention heads, is as
            in its U-Net.

    Raises:
        InputError: another kind of file (it says which), or a ControlNet for another U-Net (it says what differs).
    """
    header: dict[str, TensorInfo] = {}
    for path in files.weights:
        header |= read_header(path)
        check_floating(header, path)
    kind = file_kind(header)
    if kind != CONTROLNET:
        what = kind.instead_of("a plain ControlNet") if kind else "not a ControlNet; give one by --controlnet"
        raise InputError(f"{files.root}: {what}")
    if files.root in files.weights:
        config = _config_by_shapes(by_diffusers_names(header, facts.unet), facts.unet)
    else:
        config = read_part_config(files.root / "config.json", "controlnet")
        if config.get("_class_name", "ControlNetModel") != "ControlNetModel":
            raise InputError(f"{files.root}: a {config['_class_name']}, not a plain ControlNet")
    _check_fits(files.root, config, facts)
    return config


def by_diffusers_names(tensors: Mapping[str, Any], unet: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a ControlNet's tensors, by the names that diffusers gives them."""
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    converted = convert_controlnet_checkpoint(
        dict(tensors), {"layers_per_block": unet.get("layers_per_block", 2)}
    )
    for place, layer in (("0.0", "linear_1"), ("0.2", "linear_2")):  # of SDXL's, which diffusers leaves out
        for kind in ("weight", "bias"):
            for prefix in ("", "control_model."):
                found = tensors.get(f"{prefix}label_emb.{place}.{kind}")
                if found is not None:
                    converted[f"add_embedding.{layer}.{kind}"] = found
    return {name: value for name, value in converted.items() if value is not None}


def _config_by_shapes(header: Mapping[str, TensorInfo], unet: Mapping[str, Any]) -> dict[str, Any]:
    """A ControlNet's config: what its shapes tell, over what it has in common with the U-Net.

    Args:
        header: Its tensors by diffusers' names.
    """

    def shape(name: str) -> tuple[int, ...]:
        return header[name].shape if name in header else (0, 0)

    def block(level: int) -> list[str]:
        return [name for name in header if name.startswith(f"down_blocks.{level}.")]

    levels = [level for level in range(16) if block(level)]
    attend = [any(".attentions." in name for name in block(level)) for level in levels]
    reads = next((info.shape[1] for name, info in header.items() if name.endswith("attn2.to_k.weight")), None)
    embedding = "controlnet_cond_embedding"
    hints = [shape(f"{embedding}.conv_in.weight")[0]]
    hints += [shape(f"{embedding}.blocks.{at}.weight")[0] for at in range(1, 32, 2)]
    alike = {name: value for name, value in unet.items() if name not in _NOT_ALIKE and name[0] != "_"}
    told = {
        "in_channels": shape("conv_in.weight")[1],
        "conditioning_channels": shape(f"{embedding}.conv_in.weight")[1],
        "conditioning_embedding_out_channels": [channels for channels in hints if channels],
        "block_out_channels": [shape(f"down_blocks.{level}.resnets.0.conv1.weight")[0] for level in levels],
        "down_block_types": ["CrossAttnDownBlock2D" if each else "DownBlock2D" for each in attend],
        "mid_block_type": "UNetMidBlock2DCrossAttn"
        if any(name.startswith("mid_block.attentions.") for name in header)
        else "UNetMidBlock2D",
        "transformer_layers_per_block": [
            len({name.split(".")[5] for name in block(level) if ".attentions.0.transformer_blocks." in name})
            or 1
            for level in levels
        ],
        "cross_attention_dim": reads or unet.get("cross_attention_dim"),
        "addition_embed_type": "text_time" if "add_embedding.linear_1.weight" in header else None,
    }
    return alike | told


_NOT_ALIKE = frozenset(("out_channels", "sample_size", "up_block_types", "time_cond_proj_dim"))
"""The settings of a U-Net that a ControlNet has not."""


def _check_fits(root: Path, config: Mapping[str, Any], facts: ModelFacts) -> None:
    """Refuses a ControlNet whose layers are not those of the model's U-Net.

    Raises:
        InputError: tells which of its settings differ.
    """
    alike = ("in_channels", "block_out_channels", "cross_attention_dim", "addition_embed_type")
    differing = [name for name in alike if config.get(name) != facts.unet.get(name)]
    if differing:
        said = ", ".join(f"{name} {config.get(name)} for {facts.unet.get(name)}" for name in differing)
        raise InputError(
            f"{root}: a ControlNet for another U-Net than {facts.source}'s ({said}); use one made for "
            f"{facts.traits.short_label}"
        )
    blocks = config.get("conditioning_embedding_out_channels") or (16, 32, 96, 256)
    if 2 ** (len(blocks) - 1) != vae_scale(facts.vae):
        raise InputError(
            f"{root}: reads control images at 1/{2 ** (len(blocks) - 1)} of their size, and {facts.source}'s "
            f"latents have 1/{vae_scale(facts.vae)}; use one made for this model"
        )


def read_controlnet(
    source: str, facts: ModelFacts, dtype: "torch.dtype", device: "torch.device"
) -> "ControlNetModel":
    """Loads a ControlNet for a model; one that was just used is not read again.

    Raises:
        InputError: see `find_controlnet` and `controlnet_config`; damaged files, or weights that do not fit the config.
    """
    files = find_controlnet(source)
    config = controlnet_config(files, facts)
    return _read(files, files.digest, json.dumps(config, sort_keys=True), dtype, device)


@lru_cache(maxsize=2)
def _read(
    files: ControlNetFiles, digest: str, config: str, dtype: "torch.dtype", device: "torch.device"
) -> "ControlNetModel":
    """Reads one anew where its files' digest or its config, as JSON, are other ones."""
    from accelerate import init_empty_weights
    from diffusers import ControlNetModel
    from safetensors.torch import load_file

    from lab.models.folder import one_line_errors

    settings = json.loads(config)
    with one_line_errors(f"{files.root}: cannot load it"):
        with init_empty_weights():
            net = ControlNetModel.from_config(settings)
        tensors = {name: value for path in files.weights for name, value in load_file(path).items()}
        tensors = {name: value.to(dtype) for name, value in by_diffusers_names(tensors, settings).items()}
        unknown = net.load_state_dict(tensors, strict=False, assign=True).unexpected_keys
    absent = [name for name, tensor in net.named_parameters() if tensor.is_meta]
    if absent or unknown:
        count, what = (len(absent), "lack") if absent else (len(unknown), "have beside those of a ControlNet")
        raise InputError(
            f"{files.root}: its weights {what} {count} tensors, among them {(absent or unknown)[0]}"
        )
    return net.to(device).requires_grad_(False).eval()
