"""What metrics draw on: CLIP, reward models, reference images; opened once, or the reason why not."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from lab.images import images_in
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.score.clip import Clip, image_features, open_clip
from lab.score.config import ScoreOptions
from lab.score.judges import Quality, read_aesthetic


@dataclass(frozen=True, eq=False)
class Tools:
    """Opened judges; a judge that cannot be had is None, and `missing` says why.

    Attributes:
        clip: Compares images with texts and with each other.
        references: (m, p) CLIP features, of unit length, of the reference images.
        pickscore: A CLIP that predicts people's choices.
        aesthetic: A head on CLIP features, (n, p) to (n, 1).
        quality: Tells clean images from degraded ones.
        missing: Why, by the names of the other attributes.
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


def open_tools(bundle: Bundle, options: ScoreOptions, listener: Listener = Listener()) -> Tools:
    """Opens what the options name and what the bundle brings.

    Args:
        listener: Hears which files of a folder of reference images are left out.

    Raises:
        InputError: something that was asked for by name is not there or damaged.
    """
    missing = options.missing()
    references = pickscore = aesthetic = quality = None
    clip = open_clip(bundle, options.clip)
    if clip is None:
        source = bundle.source
        missing["clip"] = f"{source} comes without CLIP's vision half; give a CLIPModel folder with --clip"
    else:
        if options.references is not None:
            references = image_features(clip, images_in(options.references, listener), most=None)
        if options.aesthetic is not None:
            aesthetic = read_aesthetic(options.aesthetic, clip).to(bundle.device)
    if options.pickscore is not None:
        pickscore = open_clip(bundle, options.pickscore)
    folder = options.quality or bundle.root / "quality"
    if options.quality is not None or (folder / "config.json").is_file():
        quality = Quality(folder, bundle.device)
    else:
        source = bundle.source
        missing["quality"] = f"{source} comes without a quality classifier; give its folder with --quality"
    return Tools(clip, references, pickscore, aesthetic, quality, missing)
