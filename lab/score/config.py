"""The options of judging images, each defined once: YAML keys, flags and keyword arguments come from here."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from lab.config import Config, ExistingFile, ExistingFolder, one_of
from lab.score.metrics import METRICS


class ToolOptions(Config):
    """What measures images besides CLIP."""

    pickscore: ExistingFolder | None = None
    """Folder with PickScore, a CLIPModel that predicts people's choices (Kirstain et al. 2305.01569)."""

    hpsv2: ExistingFolder | None = None
    """Folder with HPSv2 as a CLIPModel of transformers, another judge of people's choices (Wu et al. 2306.09341)."""

    dino: ExistingFolder | None = None
    """Folder with a DINOv2, which compares subjects without words (Oquab et al. 2304.07193); needs `references`."""

    aesthetic: ExistingFile | None = None
    """File with an aesthetic head on CLIP features: one linear layer, or LAION's stack of five."""

    quality: ExistingFolder | None = None
    """Folder of a classifier of clean and degraded images; by default the model's own, if it has one."""


TOOLS = ("clip", *ToolOptions.model_fields)
"""The options that say where what measures images comes from."""


class ScoreOptions(ToolOptions):
    """How images are measured."""

    metrics: list[Annotated[str, one_of(METRICS, "metric")]] = Field(default_factory=list)
    """Which metrics; by default all that can run with what is given. Repeatable."""

    references: ExistingFolder | None = None
    """Folder of images to compare with (clip_reference, cmmd, dino_reference)."""

    between: list[str] = Field(default_factory=list)
    """Two texts or folders of images: how much liker images are to the second than to the first (clip_between), such as
    what a slider leads from and to. Given twice."""

    clip: ExistingFolder | None = None
    """Folder with a CLIPModel to measure with; by default the model's own."""

    @classmethod
    def tools_of(cls, config: Config) -> Self:
        """What another config has of these tools among its options, for whatever they shall measure."""
        return cls.build({name: getattr(config, name) for name in TOOLS})

    def missing(self) -> dict[str, str]:
        """The tools that only an option can bring, of those that no option names: how to give each."""
        told = {
            "references": "it compares with images that you choose; give a folder with --references",
            "between": "it compares with two texts or folders that you choose; give --between FROM --between TO",
            "pickscore": "it needs the PickScore model; give its folder with --pickscore",
            "hpsv2": "it needs the HPSv2 model; give its folder with --hpsv2",
            "dino": "it needs a DINOv2; give its folder with --dino",
            "aesthetic": "it needs an aesthetic head; give its file with --aesthetic",
        }
        return {name: reason for name, reason in told.items() if not getattr(self, name)}

    @model_validator(mode="after")
    def _check_needs(self) -> Self:
        """Tells before a model is read which metrics can never run with these options."""
        if len(self.between) not in (0, 2):
            raise ValueError(
                "between: two texts or folders of images are wanted; give --between FROM --between TO"
            )
        missing = self.missing()
        for name in self.metrics:
            for need in METRICS[name].needs:
                if need in missing:
                    raise ValueError(f"metrics: '{name}' cannot run here: {missing[need]}")
        return self
