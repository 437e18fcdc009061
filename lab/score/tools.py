"""What measures images: CLIP, PickScore, reference images, the quality classifier and aesthetic heads; opened once."""

import pickle
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Dinov2Model

from lab.config import at_home
from lab.errors import InputError
from lab.files import is_file, is_folder, read_json
from lab.images import images_in
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.folder import read_module
from lab.models.part_configs import read_part_config
from lab.score.clip import Clip, Preparation, image_features, open_clip, read_preparation
from lab.score.config import ScoreOptions
from lab.score.metrics import METRICS

LAION_WIDTHS = (1024, 128, 64, 16, 1)
"""The linear layers of LAION's improved aesthetic predictor, between which it has nothing but dropout."""


class Quality:
    """The classifier that comes with a model in its `quality` folder: clean, or degraded in one of several ways."""

    def __init__(self, folder: Path, device: torch.device):
        """Opens the classifier in a folder.

        Raises:
            InputError: files are missing, damaged or do not fit.
        """
        try:
            config = read_part_config(folder / "config.json", "quality")
            self._clean = config["labels"].index("clean")
            self._network = classifier(config["widths"], len(config["labels"]))
            self._network.load_state_dict(load_file(folder / "model.safetensors"))
            prepare = Preparation(config["size"], tuple(config["mean"]), tuple(config["std"]), "bilinear")
        except (ValueError, OSError, SafetensorError, RuntimeError) as error:
            raise InputError(f"{folder}: not the quality classifier that it should be: {error}") from None
        self._prepare, self._device = prepare, device
        self._network.requires_grad_(False).eval().to(device)

    def degraded(self, pixels: Tensor) -> Tensor:
        """Probability (n,) that pixels (n, 3, H, W) in 0..1 are not clean; differentiable."""
        logits = self._network(self._prepare(pixels.to(self._device)))
        return 1 - logits.softmax(dim=1)[:, self._clean]


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation that a DINOv2 without its own `preprocessor_config.json` is taken to follow."""

DINO_SIDE = 224
"""Pixels of the square that a DINOv2 looks at, whose positions are interpolated from 518."""


class Dino:
    """A DINOv2, which sees what images show without having learned any words."""

    def __init__(self, folder: Path, device: torch.device):
        if read_json(folder / "config.json").get("model_type") != "dinov2":
            raise InputError(
                f"{folder}: holds no DINOv2 of transformers; it needs its config.json and weights"
            )
        self._model = read_module(Dinov2Model, folder, None, torch.float32)
        self._model.requires_grad_(False).to(device)
        self._prepare = read_preparation(folder, DINO_SIDE, *IMAGENET)

    def images(self, pixels: Tensor) -> Tensor:
        """Features (n, p) float32 of unit length, of pixels (n, 3, H, W) in 0..1; differentiable."""
        prepared = self._prepare(pixels.to(self._model.device, torch.float32))
        return F.normalize(self._model(pixel_values=prepared).pooler_output, dim=-1)


def classifier(widths: Sequence[int], labels: int) -> nn.Sequential:
    """(n, 3, H, W) to logits (n, labels): strided convolutions, then the mean over all places, then a linear layer."""
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
    if not is_file(path):
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


@dataclass(frozen=True, eq=False)
class Tools:
    """Opened tools; one that cannot be had is None, and `missing` says why.

    Attributes:
        clip: Compares images with texts and with each other.
        references: (m, p) CLIP features, of unit length, of the reference images.
        between: (p,) what the mean CLIP feature of one of two texts or folders has over that of the other.
        pickscore: A CLIP that predicts people's choices.
        hpsv2: Another one.
        dino: Compares images with each other, without words.
        dino_references: (m, p) DINOv2 features, of unit length, of the reference images.
        aesthetic: A head on CLIP features, (n, p) to (n, 1).
        quality: Tells clean images from degraded ones.
        missing: Why, by the names of the other attributes.
    """

    clip: Clip | None = None
    references: Tensor | None = None
    between: Tensor | None = None
    pickscore: Clip | None = None
    hpsv2: Clip | None = None
    dino: Dino | None = None
    dino_references: Tensor | None = None
    aesthetic: nn.Module | None = None
    quality: Quality | None = None
    missing: Mapping[str, str] | None = None

    def why_not(self, needs: tuple[str, ...]) -> str | None:
        """The reason why a metric with these needs cannot run, or None if it can."""
        return next((self.missing[need] for need in needs if self.missing and need in self.missing), None)


def open_tools(
    bundle: Bundle,
    options: ScoreOptions,
    listener: Listener = Listener(),
    metrics: Collection[str] = (),
) -> Tools:
    """Opens what the options name and what the bundle brings, as far as metrics need it.

    Args:
        listener: Hears which files of a folder of reference images are left out.
        metrics: Names of those that will be computed; by default those of the options, or all if they name none.

    Raises:
        InputError: something that was asked for by name is not there or damaged.
    """
    needed = {need for name in metrics or options.metrics or METRICS for need in METRICS[name].needs}
    missing = dict.fromkeys(
        {"clip", "references", "between", "pickscore", "hpsv2", "dino", "aesthetic", "quality"} - needed,
        "no metric needs it",
    )
    missing |= options.missing()
    clip = open_clip(bundle, options.clip) if "clip" in needed else None
    references = between = aesthetic = quality = dino = dino_references = None
    if "clip" in needed and clip is None:
        source = bundle.source
        missing["clip"] = f"{source} comes without CLIP's vision half; give a CLIPModel folder with --clip"
    if clip is not None and "references" in needed and options.references is not None:
        references = image_features(clip, images_in(options.references, listener), most=None)
    if clip is not None and "between" in needed and options.between:
        if len({is_folder(at_home(Path(each))) for each in options.between}) > 1:
            raise InputError(f"between: {' and '.join(options.between)}: one is a folder, so both have to be")
        start, end = (_mean_feature(clip, each, listener) for each in options.between)
        between = end - start
    if clip is not None and "aesthetic" in needed and options.aesthetic is not None:
        aesthetic = read_aesthetic(options.aesthetic, clip).to(bundle.device)
    chosen = {
        name: open_clip(bundle, folder)
        for name, folder in (("pickscore", options.pickscore), ("hpsv2", options.hpsv2))
        if name in needed and folder is not None
    }
    if "dino" in needed and options.dino is not None:
        dino = Dino(options.dino, bundle.device)
        if options.references is not None:
            dino_references = image_features(dino, images_in(options.references, listener), most=None)
    if "quality" in needed:
        quality = _open_quality(bundle, options, missing)
    return Tools(
        clip,
        references,
        between,
        dino=dino,
        dino_references=dino_references,
        aesthetic=aesthetic,
        quality=quality,
        missing=missing,
        **chosen,
    )


@torch.no_grad()
def _mean_feature(clip: Clip, text: str, listener: Listener) -> Tensor:
    """(p,) the mean CLIP feature of the images in a folder, or that of a text."""
    folder = at_home(Path(text))
    found = (
        image_features(clip, images_in(folder, listener), most=None)
        if is_folder(folder)
        else clip.texts([text])
    )
    return found.mean(dim=0)


def _open_quality(bundle: Bundle, options: ScoreOptions, missing: dict[str, str]) -> Quality | None:
    folder = options.quality or bundle.root / "quality"
    if options.quality is not None or (folder / "config.json").is_file():
        return Quality(folder, bundle.device)
    missing["quality"] = f"{bundle.source} comes without a quality classifier; give its folder with --quality"
    return None


class Batch:
    """Images to measure, with what each shall show and, where it has one, its counterpart in the baseline.

    Gradients flow from the metrics to `pixels` if it asks for them.
    """

    def __init__(
        self,
        tools: Tools,
        pixels: Tensor,
        texts: Sequence[str] = (),
        baseline: Tensor | None = None,
        features: Tensor | None = None,
        baseline_features: Tensor | None = None,
    ):
        """Takes what is known of n images.

        Args:
            tools: What measures them.
            pixels: (n, 3, H, W) in 0..1.
            texts: What the n images shall show, without weight syntax and names of embeddings.
            baseline: Pixels of the images' counterparts in the baseline, with the same prompt and noise.
            features, baseline_features: (n, p) CLIP features of both where they are known; else they are computed
                when a metric first asks.
        """
        self.tools = tools
        self.pixels = pixels
        self.texts = texts
        self.baseline = baseline
        if features is not None:
            self.features = features
        if baseline_features is not None:
            self.baseline_features = baseline_features

    @cached_property
    def features(self) -> Tensor:
        """(n, p) CLIP features of unit length of the images; differentiable with respect to `pixels`."""
        assert self.tools.clip is not None
        return self.tools.clip.images(self.pixels)

    @cached_property
    def baseline_features(self) -> Tensor:
        """(n, p) CLIP features of unit length of the images' counterparts in the baseline."""
        assert self.tools.clip is not None and self.baseline is not None
        return self.tools.clip.images(self.baseline)
