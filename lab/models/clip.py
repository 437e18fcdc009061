"""CLIP models, loaded for scoring: what computes, and how images are to be made ready for it."""

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from lab.errors import InputError
from lab.files import read_json
from lab.models.bundle import Bundle
from lab.models.detection import has_vocabulary
from lab.models.folder import one_line_errors, read_module, read_tokenizer
from lab.models.weights import read_header

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of OpenAI's CLIP, which a folder without its own `preprocessor_config.json` is taken to follow."""


@dataclass(frozen=True, eq=False)
class LoadedClip:
    """A CLIP model. Transformers' image processors need torchvision, so their settings stand here instead.

    Attributes:
        model: Frozen, in float32 and evaluation mode.
        image_size: Side of the square that it looks at, in pixels.
        mean, std: Of the red, green and blue values (0 to 1) that images are normalised by.
        resample: Pillow's number of the filter that images are resized by (3 is bicubic).
    """

    model: CLIPModel
    tokenizer: CLIPTokenizer
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int


def load_clip(source: Bundle | Path, device: torch.device | str | None = None) -> LoadedClip:
    """Loads a CLIP model.

    Args:
        source: A bundle whose folder has the vision half that completes its first text encoder, in `clip/`: the
            two share that encoder. Or a folder with any CLIPModel of transformers.
        device: By default the bundle's, or the CPU.

    Raises:
        InputError: the bundle has no vision half, or files are missing, damaged or do not fit.
    """
    if isinstance(source, Bundle):
        if source.clip_folder is None:
            raise InputError(f"{source.source}: comes without CLIP's vision half; give a CLIPModel's folder")
        folder, model = source.clip_folder, _complete(source, source.clip_folder)
        tokenizer, place = source.towers[0].tokenizer, device or source.device
    else:
        folder, place = Path(source), device or "cpu"
        names = [f"clip/{path.name}" for path in folder.iterdir()] if folder.is_dir() else []
        if "clip/config.json" not in names or not has_vocabulary(names, "clip"):
            raise InputError(
                f"{folder}: no CLIPModel's folder; it needs config.json, weights and a tokenizer"
            )
        if read_json(folder / "config.json").get("model_type") != "clip":
            raise InputError(f"{folder}: holds no CLIPModel")
        model, tokenizer = read_module(CLIPModel, folder, None, torch.float32), read_tokenizer(folder)
    model = model.requires_grad_(False).to(place).eval()
    return LoadedClip(model, tokenizer, model.config.vision_config.image_size, *_preparation(folder))


def _complete(bundle: Bundle, folder: Path) -> CLIPModel:
    """The bundle's text encoder, and the vision half and both projections from the folder."""
    encoder = bundle.towers[0].encoder
    read_header(folder / "model.safetensors")
    tensors = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("text_model.")}
    with one_line_errors(f"{folder}: does not fit its config"):
        with init_empty_weights(include_buffers=False):
            model = CLIPModel(CLIPConfig.from_dict(read_json(folder / "config.json")))
        model.text_model = getattr(
            encoder, "text_model", encoder
        )  # transformers up to 5.5 wraps it once more
        absent, unknown = model.load_state_dict(tensors, strict=False, assign=True)
    wrong = [name for name in absent if not name.startswith("text_model.")] + unknown
    if wrong:
        raise InputError(
            f"{folder}: does not complete the text encoder to a CLIPModel: {wrong[0]} is lacking or unknown"
        )
    return model


def _preparation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    path = folder / "preprocessor_config.json"
    settings = read_json(path) if path.is_file() else {}
    mean, std = (tuple(settings.get(key, usual)) for key, usual in (("image_mean", MEAN), ("image_std", STD)))
    if len(mean) != 3 or len(std) != 3:
        raise InputError(f"{path}: image_mean and image_std need three numbers each")
    return mean, std, int(settings.get("resample", 3))
