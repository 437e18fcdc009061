"""Folders of images at the ends of a slider: what each shows is learned first, and stands in the slider's prompts."""

from collections.abc import Callable
from pathlib import Path

from lab.config import at_home
from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.files import is_folder
from lab.training.config import TrainConfig
from lab.training.data.captions import placeholder
from lab.training.run_folder import TrainingFolder, run_config


def learn_ends(
    config: TrainConfig, learn: Callable[[TrainConfig], Embedding | list[Embedding]]
) -> TrainConfig:
    """The config of a slider between two prompts, with folders of images replaced by styles learned from them.

    Any other config comes back as it is. The styles are NAME-from and NAME-to, each in a folder of its own inside the
    run's; how they are learned the run's own options say.

    Args:
        learn: Carries out a run.

    Raises:
        InputError: a folder at one end alone, or folders that hold such runs already.
    """
    texts = {"from": config.from_, "to": config.to}
    folders = {
        end: at_home(Path(text)) for end, text in texts.items() if text and is_folder(at_home(Path(text)))
    }
    if config.objective != "slider" or not folders or config.resume is not None:
        return config
    if len(folders) < 2:
        (end,) = folders
        raise InputError(f"{end}: {folders[end]} is a folder, so --from and --to both have to be one")
    config = run_config(config)
    assert config.out is not None and config.name is not None, "run_config sees to it"
    neutral, prompts, files = config.neutral or "X", {}, []
    for end, images in folders.items():
        name = f"{config.name}-{end}"
        out = config.out / name
        if TrainingFolder(out).exists:
            raise InputError(f"{out}: holds a run already; choose another --out")
        style = {"objective": "style", "images": images, "name": name, "out": out, "from_": None, "to": None}
        learned = learn(config.model_copy(update={**style, "vectors": config.counts[0]}))
        assert isinstance(learned, Embedding) and learned.provenance.path is not None, "it was saved"
        files.append(learned.provenance.path)
        prompts[end] = f"{neutral} in {placeholder(name)} style"
    ends = {"from_": prompts["from"], "to": prompts["to"], "neutral": neutral}
    return config.model_copy(update=ends | {"embeddings": [*config.embeddings, *files]})
