import pytest

from lab.training.config import TrainConfig
from lab.training.prepare import prepare
from tests.listening import Heard
from tests.training.drawings import draw


@pytest.fixture
def images(tmp_path):
    return draw(tmp_path / "images")


@pytest.fixture
def config(images, tmp_path):
    """A run of a few steps that writes little."""
    return TrainConfig(
        images=images,
        name="cat-toy",
        init="text:red apple",
        vectors=2,
        steps=6,
        batch_size=2,
        evaluate_every=2,
        evaluate_on=4,
        preview_every=0,
        stop="never",
        save_every=2,
        warmup=0,
        out=tmp_path / "run",
    )


@pytest.fixture
def changed(config):
    """The same run with other settings."""
    return lambda **settings: config.model_copy(update=settings)


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def started():
    """A function: the objective of a run with its data encoded, and the vectors that it is asked about."""

    def start(bundle, config):
        run = prepare(bundle, config)
        run.objective.start(run.learned)
        return run.objective, run.learned

    return start
