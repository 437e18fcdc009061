import json
import math

import pytest

import lab
from lab.cli.main import main
from lab.errors import InputError
from lab.training import prepare as module
from lab.training.prepare import check_trackers, prepare


def test_without_the_package_one_line_says_what_to_install(config, sd1_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "get_available_trackers", lambda: [])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(config.model_copy(update={"model": str(sd1_folder), "device": "cpu"}).to_yaml())
    assert main(["train", "--config", str(recipe), "--track", "tensorboard"]) == 2
    assert capsys.readouterr().err == "lab: track: 'tensorboard' is not installed; pip install tensorboard\n"
    assert not config.out.exists()


def test_a_package_that_is_no_tracker_is_not_asked_for():
    with pytest.raises(InputError, match=r"no tracker 'tensorbord'; nearest: tensorboard"):
        check_trackers(["tensorbord"])
    with pytest.raises(InputError, match="no tracker 'numpy'"):
        check_trackers(["numpy"])


def test_tensorboard_shows_what_progress_says(sd1, changed):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = changed(track=["tensorboard"])
    lab.train(sd1, config)
    events = EventAccumulator(str(config.out / "lab"))
    events.Reload()
    lines = [json.loads(line) for line in (config.out / "progress.jsonl").read_text().splitlines()]
    for name in ("loss", "rate", "gradient_norm", "fixed_loss"):
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        said = [(line["step"], line[name]) for line in lines if name in line]
        assert [step for step, _ in shown] == [step for step, _ in said]
        assert all(
            math.isclose(value, other, rel_tol=1e-6)
            for (_, value), (_, other) in zip(shown, said, strict=True)
        )
    (parameters,) = (config.out / "lab").glob("*/hparams.yml")
    text = parameters.read_text()
    assert (
        "batch_size: 2" in text
        and f"learning_rate: {prepare(sd1, config).learned.beginnings['cat-toy'].rate}" in text
    )
    assert str(config.out.parent) not in text
