"""Small networks that judge images: the bundled quality classifier, and aesthetic heads on CLIP features."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lab.errors import InputError
from lab.files import read_json
from lab.score.clip import Clip, Preparation

LAION_WIDTHS = (1024, 128, 64, 16, 1)
"""The linear layers of LAION's improved aesthetic predictor, between which it has nothing but dropout."""


class Quality:
    """The classifier that comes with a model in its `quality` folder: clean, or degraded in one of several ways."""

    def __init__(self, folder: Path, device: torch.device):
        config = read_json(folder / "config.json")
        try:
            self._clean = config["labels"].index("clean")
            self._network = _classifier(config["widths"], len(config["labels"]))
            self._network.load_state_dict(load_file(folder / "model.safetensors"))
            prepare = Preparation(config["size"], tuple(config["mean"]), tuple(config["std"]), "bilinear")
        except (KeyError, ValueError, OSError, SafetensorError, RuntimeError, TypeError) as error:
            raise InputError(f"{folder}: not the quality classifier that it should be: {error}") from None
        self._prepare, self._device = prepare, device
        self._network.requires_grad_(False).eval().to(device)

    def degraded(self, pixels: Tensor) -> Tensor:
        """Probability (n,) that pixels (n, 3, H, W) in 0..1 are not clean; differentiable."""
        logits = self._network(self._prepare(pixels.to(self._device)))
        return 1 - logits.softmax(dim=1)[:, self._clean]


def _classifier(widths: list[int], labels: int) -> nn.Sequential:
    """Strided convolutions, then the mean over all places, then a linear layer."""
    layers: list[nn.Module] = []
    for before, width in zip([3, *widths], widths, strict=False):
        layers += [nn.Conv2d(before, width, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], labels))


def read_aesthetic(path: Path, clip: Clip) -> nn.Module:
    """An aesthetic head on CLIP features of unit length: one linear layer, or LAION's stack of five.

    Of LAION's files it takes `sa_0_4_vit_l_14_linear.pth` (linear) and `sac+logos+ava1-l14-linearMSE.pth` (five),
    and the same tensors as safetensors. Only tensors are read.

    Raises:
        InputError: missing, damaged, of another layout, or for a CLIP of another width.
    """
    tensors = _tensors(path)
    weights = [value for name, value in tensors.items() if name.endswith("weight")]
    biases = [value for name, value in tensors.items() if name.endswith("bias")]
    shapes = [tuple(weight.shape) for weight in weights]
    widths = LAION_WIDTHS if len(weights) == len(LAION_WIDTHS) else (1,)
    width = shapes[0][-1] if shapes and len(shapes[0]) == 2 else 0
    if len(biases) != len(weights) or shapes != list(zip(widths, (width, *widths), strict=False)):
        raise InputError(
            f"{path}: no aesthetic head: expected one linear layer or LAION's five, found {shapes}"
        )
    if width != clip.width:
        raise InputError(
            f"{path}: reads CLIP features {width} wide, and this CLIP's are {clip.width}; give its own --clip"
        )
    head = nn.Sequential()
    for weight, bias in zip(weights, biases, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        head.append(layer)
    return head.requires_grad_(False).eval()


def _tensors(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such aesthetic head")
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as tensors: {str(error).splitlines()[0]}") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise InputError(f"{path}: no aesthetic head: expected a table of tensors")
    return dict(sorted(tensors.items()))
