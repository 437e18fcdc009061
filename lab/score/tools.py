"""What metrics draw on: CLIP, reward models, reference images; opened once, or the reason why not."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lab.images import images_in, read_pixels
from lab.models.bundle import Bundle
from lab.models.clip import load_clip
from lab.score.clip import Clip
from lab.score.config import ScoreOptions
from lab.score.judges import Quality, read_aesthetic


@dataclass(frozen=True, eq=False)
class Tools:
    """Opened judges; a judge that cannot be had is None, and `missing` says why.

    Attributes:
        references: (m, p) CLIP features of the reference images.
        missing: By the names of the other attributes.
    """

    clip: Clip | None = None
    references: Tensor | None = None
    pickscore: Clip | None = None
    aesthetic: nn.Module | None = None
    quality: Quality | None = None
    missing: Mapping[str, str] | None = None

    def why_not(self, needs: tuple[str, ...]) -> str | None:
        """The reason why a metric with these needs cannot run, or None if it can."""
        return next((self.missing[need] for need in needs if self.missing and need in self.missing), None)


def open_tools(bundle: Bundle, options: ScoreOptions) -> Tools:
    """Opens what the options name and what the bundle brings.

    Raises:
        InputError: something that was asked for by name is not there or damaged.
    """
    missing: dict[str, str] = {}
    clip = references = pickscore = aesthetic = quality = None
    if options.clip is not None:
        clip = Clip(load_clip(options.clip, bundle.device))
    elif bundle.clip_folder is not None:
        clip = Clip(load_clip(bundle))
    else:
        missing["clip"] = (
            f"{bundle.source} comes without CLIP's vision half; give a CLIPModel folder with --clip"
        )
    if options.references is None:
        missing["references"] = "it compares with images that you choose; give a folder with --references"
    elif clip is not None:
        references = reference_features(clip, options.references)
    if options.pickscore is None:
        missing["pickscore"] = "it needs the PickScore model; give its folder with --pickscore"
    else:
        pickscore = Clip(load_clip(options.pickscore, bundle.device))
    if options.aesthetic is None:
        missing["aesthetic"] = "it needs an aesthetic head; give its file with --aesthetic"
    elif clip is not None:
        aesthetic = read_aesthetic(options.aesthetic, clip).to(bundle.device)
    folder = options.quality or bundle.root / "quality"
    if options.quality is not None or (folder / "config.json").is_file():
        quality = Quality(folder, bundle.device)
    else:
        missing["quality"] = (
            f"{bundle.source} comes without a quality classifier; give its folder with --quality"
        )
    return Tools(clip, references, pickscore, aesthetic, quality, missing)


@torch.no_grad()
def reference_features(clip: Clip, folder: Path) -> Tensor:
    """CLIP features (m, p) of all images of a folder, read one at a time.

    Raises:
        InputError: no folder, no images, or a file that is no image.
    """
    return torch.cat([clip.images(read_pixels(path)[None]) for path in images_in(folder)])
