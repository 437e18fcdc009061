"""The demo's section on training: a thing that the model has never seen, before and after a minute of learning."""

import shlex
import shutil
from pathlib import Path

from lab.demo.page import Figure, Section
from lab.demo.pictures import fresh, make
from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.files import writing
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.source import ASSETS
from lab.score.clip import image_features, open_clip
from lab.training.config import TrainConfig
from lab.training.data.captions import fill_template
from lab.training.prepare import prepare
from lab.training.train import learn

THING = "candle"
NAME = "my-candle"
SEED = "1"
RECIPE = {"vectors": 4, "optimizer": "shampoo", "evaluate_every": 5, "stop_window": 4, "preview_every": 15}
"""As configs/train/emoji-object.yaml, which is not installed."""


def learning(bundle: Bundle, out: Path, listener: Listener) -> Section:
    """Trains on five pictures of a thing that the model has never seen, and draws the same five anew."""
    shown, apart = (
        _drawings(ASSETS / folder / THING, out / folder) for folder in ("samples", "samples_test")
    )
    before, after = _learn(bundle, fresh(out / "demo-training"), listener)
    prompts = [figure.record["prompt"] for figure in shown]
    rows = {
        "learned from": shown,
        "before": make(bundle, out / "untrained", listener, prompt=prompts, seeds=SEED, embeddings=[before]),
        "after": make(bundle, out / "learned", listener, prompt=prompts, seeds=SEED, embeddings=[after]),
        "kept apart": apart,
    }
    text = (
        f"An embedding of {after.count} vectors learned from the five pictures of the first row; nothing else of the "
        f"model changed. Each column has one prompt; before, <{NAME}> stands for its initial vectors. The last row "
        f"shows other placements of the same drawing, which nothing has learned from. {_judged(bundle, rows, out)}"
    )
    asked = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in RECIPE.items())
    command = (
        f"lab train --images lab/assets/samples/{THING} --name {NAME} {asked} --out outputs/{NAME}\n"
        f"lab generate --prompt {shlex.quote(prompts[-1])} --seeds {SEED} "
        f"--embedding outputs/{NAME}/{NAME}.safetensors"
    )
    link = "demo-training/index.html", "How the training went"
    return Section("A thing learned from five pictures", text, command, list(rows.items()), link)


def _learn(bundle: Bundle, folder: Path, listener: Listener) -> tuple[Embedding, Embedding]:
    """The embedding at its first vectors and as it was learned."""
    images = ASSETS / "samples" / THING
    config = TrainConfig(images=images, name=NAME, out=folder, **RECIPE | {"preview_every": 0})
    run = prepare(bundle, config, listener=listener)
    after = learn(run, listener)
    assert isinstance(after, Embedding)
    return run.learned.beginnings[NAME].embedding(), after


def _drawings(source: Path, folder: Path) -> list[Figure]:
    """Copies of a folder's pictures beside the page."""
    paths = sorted(source.glob("*.png"))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            shutil.copyfile(path, folder / path.name)
    return [Figure(f"{folder.name}/{path.name}", _caption(path), _record(path)) for path in paths]


def _record(path: Path) -> dict[str, str]:
    return {"prompt": _caption(path), "drawn by": "an icon set; see lab/assets/samples/ATTRIBUTION.md"}


def _caption(path: Path) -> str:
    """The first caption beside a picture."""
    return fill_template(path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[0], "", [NAME])


def _judged(bundle: Bundle, rows: dict[str, list[Figure]], out: Path) -> str:
    """How near each row is to the pictures that were kept apart, in a sentence."""
    clip = open_clip(bundle, None)
    if clip is None:
        raise InputError(f"{bundle.root}: holds no CLIP to judge the pictures with; install the lab again")
    features = {
        label: image_features(clip, [out / figure.image for figure in figures])
        for label, figures in rows.items()
    }
    apart = features.pop("kept apart")
    means = {label: float((of_row @ apart.T).mean()) for label, of_row in features.items()}
    return (
        "Mean CLIP similarity to that last row: "
        f"{means['before']:.2f} before, {means['after']:.2f} after; {means['learned from']:.2f} for the pictures it "
        "learned from, the ceiling."
    )
