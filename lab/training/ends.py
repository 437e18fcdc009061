"""Folders of images at the ends of a slider: what each shows is learned first, and stands in the slider's prompts."""

from collections.abc import Callable

from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.listening import Listener
from lab.training.config import TrainConfig, with_objective
from lab.training.counts import Learned, learn_or_go_on
from lab.training.data.captions import placeholder
from lab.training.run_folder import TrainingFolder, run_config


def learn_ends(
    config: TrainConfig, learn: Callable[[TrainConfig], Learned], listener: Listener = Listener()
) -> TrainConfig:
    """The config of a slider between two prompts, with folders of images replaced by styles learned from them.

    Any other config comes back as it is. The styles are NAME-from and NAME-to, each in a folder of its own inside the
    run's; how they are learned the run's own options say. Where these name no beginning and one number of vectors, the
    slider begins at the second style's. A style that is there already is taken as it is, and one that was interrupted
    goes on.

    Args:
        learn: Carries out a run.
        listener: Hears how to go on.

    Raises:
        InputError: a folder at one end alone or at both, other images, or folders that hold runs with other settings.
        KeyboardInterrupt: after Ctrl-C, with what was learned so far on disk.
    """
    folders = config.folders_at_ends()
    if config.objective != "slider" or not folders or config.resume is not None:
        return config
    if len(folders) < 2:
        (end,) = folders
        raise InputError(f"{end}: {folders[end]} is a folder, so --from and --to both have to be one")
    if folders["from"].samefile(folders["to"]):
        raise InputError("to: is the folder of --from, and there is nothing between them")
    config = run_config(config)
    assert config.out is not None and config.name is not None, "run_config sees to it"
    neutral, prompts, files = config.neutral or "X", {}, []
    for end, images in folders.items():
        name = f"{config.name}-{end}"
        out = config.out / name
        run = with_objective(config, "style", images=images, name=name, out=out, vectors=config.counts[0])
        try:
            learned = learn_or_go_on(run, TrainingFolder(out), learn)
        except KeyboardInterrupt:
            listener.note(f"The same command with --out {config.out} goes on with the slider.")
            raise
        assert isinstance(learned, Embedding) and learned.provenance.path is not None, "it was saved"
        files.append(learned.provenance.path)
        prompts[end] = f"{neutral} in {placeholder(name)} style"
    ends = {"from_": prompts["from"], "to": prompts["to"], "neutral": neutral}
    if config.init == "auto" and len(config.counts) == 1:  # as many vectors, on the way already
        ends["init"] = f"file:{files[-1]}"
    return with_objective(config, "slider", **ends, embeddings=[*config.embeddings, *files])
