"""CLIP as a measure: a CLIPModel is loaded, and turns images and texts into features of unit length."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from lab.errors import InputError
from lab.files import read_json
from lab.images import read_pixels
from lab.models.bundle import Bundle
from lab.models.detection import has_vocabulary
from lab.models.folder import one_line_errors, read_module, read_tokenizer
from lab.models.part_configs import read_part_config
from lab.models.weights import read_header
from lab.text import check_text

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of OpenAI's CLIP, which a folder without its own `preprocessor_config.json` is taken to follow."""

RESAMPLING = {0: "nearest", 1: "bicubic", 2: "bilinear", 3: "bicubic", 4: "area", 5: "bilinear"}
"""Pillow's numbers of its filters, and the nearest of `torch.nn.functional.interpolate` (bicubic is Pillow's own)."""


@dataclass(frozen=True)
class Preparation:
    """How pixels are made ready for a network. Transformers' image processors would need torchvision for it.

    Attributes:
        side: Pixels of the square that the network takes.
        mean, std: Of the red, green and blue values, in 0..1.
        mode: The `interpolate` mode: `bicubic`, `bilinear`, `area` or `nearest`.
    """

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str = "bicubic"

    def __call__(self, pixels: Tensor) -> Tensor:
        """(n, 3, H, W) in 0..1 -> (n, 3, side, side), normalised: shorter side fitted, centre cut out."""
        height, width = pixels.shape[-2:]
        if (height, width) != (self.side, self.side):
            scale = self.side / min(height, width)
            size = max(round(height * scale), self.side), max(round(width * scale), self.side)
            smooth = self.mode in ("bilinear", "bicubic")
            pixels = F.interpolate(pixels, size, mode=self.mode, antialias=smooth).clamp(0, 1)
            top, left = (size[0] - self.side) // 2, (size[1] - self.side) // 2
            pixels = pixels[..., top : top + self.side, left : left + self.side]
        mean, std = (torch.tensor(channels).view(-1, 1, 1).to(pixels) for channels in (self.mean, self.std))
        return (pixels - mean) / std


class Clip:
    """A CLIPModel that measures.

    Attributes:
        model: Frozen, in float32 and evaluation mode.
        tokenizer: Of its text encoder.
        prepare: Makes pixels ready for its vision half.
    """

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer, prepare: Preparation):
        self.model = model
        self.tokenizer = tokenizer
        self.prepare = prepare
        self._texts: dict[str, Tensor] = {}

    @property
    def scale(self) -> Tensor:
        """The learned factor (exp of the logit scale) that cosines are multiplied with in training."""
        return self.model.logit_scale.exp()

    @property
    def width(self) -> int:
        """Length of a feature vector."""
        return self.model.config.projection_dim

    def images(self, pixels: Tensor) -> Tensor:
        """Features (n, p) float32 of unit length, of pixels (n, 3, H, W) in 0..1; differentiable."""
        prepared = self.prepare(pixels.to(self.model.device, torch.float32))
        return _unit(self.model.get_image_features(pixel_values=prepared))

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Features (n, p) float32 of unit length; each distinct text is encoded once and cut at the context's end.

        Raises:
            InputError: a text with half a character.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        for text in new:
            check_text(text)
        if new:
            length = min(
                self.model.config.text_config.max_position_embeddings, self.tokenizer.model_max_length
            )
            tokens = self.tokenizer(
                new, padding=True, truncation=True, max_length=length, return_tensors="pt"
            ).to(self.model.device)
            features = _unit(
                self.model.get_text_features(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
                )
            )
            self._texts.update(zip(new, features, strict=True))
        return torch.stack([self._texts[text] for text in texts])


def _unit(output: Any) -> Tensor:
    """(n, p) float32 features of unit length, of what a CLIPModel gives."""
    rows = getattr(output, "pooler_output", output)  # transformers 5 gives an output object
    return F.normalize(rows.float(), dim=-1)


def load_clip(source: Bundle | Path, device: torch.device | str | None = None) -> Clip:
    """Loads a CLIPModel.

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
        folder, model = source.clip_folder, _completed(source, source.clip_folder)
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
    return Clip(model, tokenizer, read_preparation(folder, model.config.vision_config.image_size))


def open_clip(bundle: Bundle, folder: Path | None = None) -> Clip | None:
    """The CLIP in a folder, or else the bundle's own, or None if it has none.

    Raises:
        InputError: no CLIPModel in the folder.
    """
    if folder is None and bundle.clip_folder is None:
        return None
    return load_clip(folder or bundle, bundle.device)


def _completed(bundle: Bundle, folder: Path) -> CLIPModel:
    """The bundle's text encoder, with the vision half and both projections from the folder."""
    encoder = bundle.towers[0].encoder
    read_header(folder / "model.safetensors")
    tensors = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("text_model.")}
    with one_line_errors(f"{folder}: does not fit its config"):
        with init_empty_weights(include_buffers=False):
            model = CLIPModel(CLIPConfig.from_dict(read_json(folder / "config.json")))
        # transformers up to 5.5 wraps the encoder once more
        model.text_model = getattr(encoder, "text_model", encoder)
        absent, unknown = model.load_state_dict(tensors, strict=False, assign=True)
    wrong = [name for name in absent if not name.startswith("text_model.")] + unknown
    if wrong:
        raise InputError(
            f"{folder}: does not complete the text encoder to a CLIPModel: {wrong[0]} is lacking or unknown"
        )
    return model


def read_preparation(
    folder: Path, side: int, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> Preparation:
    """What a folder's `preprocessor_config.json` says, and for what it does not the mean and deviation given.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / "preprocessor_config.json"
    settings = read_part_config(path, "preprocessor") if path.is_file() else {}
    mean, std = (
        tuple(settings.get(key) or usual) for key, usual in (("image_mean", mean), ("image_std", std))
    )
    resample = settings.get("resample")
    return Preparation(side, mean, std, RESAMPLING.get(3 if resample is None else int(resample), "bicubic"))


MAX_IMAGES = 64
"""Images that are looked at to learn what a folder shows; more change little."""


Shown = Path | Callable[[], Tensor]
"""An image file, or what reads pixels (3, H, W) in 0..1, such as of a part of one."""


class Seeing(Protocol):
    """What turns images into features."""

    def images(self, pixels: Tensor) -> Tensor:
        """Features (n, p) float32 of unit length, of pixels (n, 3, H, W) in 0..1."""


@torch.no_grad()
def image_features(
    clip: Seeing, shown: Sequence[Path] | Sequence[Shown], most: int | None = MAX_IMAGES
) -> Tensor:
    """(n, p) float32 features of unit length of the first `most` (None: all) images, read one at a time.

    Raises:
        InputError: a file that is no image.
    """
    seen = (read_pixels(one) if isinstance(one, Path) else one() for one in shown[:most])
    return torch.cat([clip.images(pixels[None]) for pixels in seen])
