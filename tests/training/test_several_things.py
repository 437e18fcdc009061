"""Several things learned at once, each from a folder of its own."""

import pytest

import lab
from lab.cli.main import main
from lab.errors import InputError
from lab.training.config import TrainConfig
from lab.training.prepare import prepare
from tests.training.drawings import draw


@pytest.fixture
def two(tmp_path):
    """Settings of a run that learns two things, whose folders have files of the same names."""
    folders = [draw(tmp_path / name, count) for name, count in (("cup", 3), ("owl", 2))]
    usual = {
        "steps": 2,
        "vectors": 2,
        "batch_size": 2,
        "evaluate_every": 1,
        "evaluate_on": 4,
        "preview_every": 0,
    }
    usual |= {"init": "text:red apple", "stop": "never", "out": tmp_path / "run"}
    return usual | {"images": [f"my-{folder.name}={folder}" for folder in folders]}


def test_each_folder_has_its_own_name_and_file(sd1, two):
    config = TrainConfig.build(two)
    assert [(subject.name, subject.vectors) for subject in config.subjects()] == [
        ("my-cup", 2),
        ("my-owl", 2),
    ]
    learned = lab.train(sd1, config)
    assert [embedding.name for embedding in learned] == ["my-cup", "my-owl"]
    assert all((config.out / f"{embedding.name}.safetensors").is_file() for embedding in learned)
    assert not learned[0].vectors["clip"].equal(learned[1].vectors["clip"])
    assert [embedding.provenance.metadata["lab.images"] for embedding in learned] == ["3", "2"]
    again = TrainConfig.read(config.out / "config.yaml")
    assert again.folders() == config.folders() and again.subjects() == config.subjects()
    lab.train(sd1, TrainConfig.build({"resume": config.out, "steps": 3}))
    assert lab.read_embedding(config.out / "my-owl.safetensors").count == 2
    assert TrainConfig.build(two | {"name": "of-a-recipe"}).name == "my-cup"


def test_captions_name_the_thing_of_their_folder_alone(sd1, two):
    objective = prepare(sd1, TrainConfig.build(two)).objective
    for picture in objective.data.pictures:
        thing = f"my-{picture.path.parent.name}"
        assert picture.names == (thing,) and all(f"<{thing}>" in caption for caption in picture.captions)
        assert picture.path in objective.images_of(thing)
    assert len(objective.images) == 5 == len(objective.fingerprint())
    shown = {example.view for step in range(3) for example in objective.batch(step)}
    assert shown == set(range(5))


def test_one_folder_for_several_things_shows_them_all(sd1, two, tmp_path):
    folder = tmp_path / "cup"
    config = TrainConfig.build(two | {"images": [f"my-cup={folder}", f"my-owl={folder}"]})
    assert config.folders() == [(folder, ["my-cup", "my-owl"])]
    around = folder.parent / "owl" / ".." / "cup"
    again = TrainConfig.build(two | {"images": [f"my-cup={folder}", f"my-owl={around}"]})
    assert again.folders() == config.folders()
    objective = prepare(sd1, config).objective
    assert len(objective.images) == 3 == len(objective.images_of("my-owl"))
    assert all("<my-cup>" in caption and "<my-owl>" in caption for caption in objective.data.captions)
    (folder / "toy-0.txt").write_text("a <my-cup> on a table", encoding="utf-8")
    with pytest.raises(InputError, match=r"toy-0\.png: without <my-owl>"):
        prepare(sd1, config)


def test_flags_take_several_folders(two, sd1_folder, capsys):
    flags = ["--images", *two["images"], "--out", str(two["out"]), "--steps", "2", "--init", "text:red apple"]
    assert main(["train", "--model", str(sd1_folder), "--resolution", "32", *flags, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "<my-cup> begins at:" in printed and "<my-owl> begins at:" in printed


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"images": ["a", "b"]}, "images: several folders need a name each, as in a=FOLDER b=FOLDER"),
        ({"images": ["a=nowhere", "b=nowhere"]}, "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(two, settings, told):
    with pytest.raises(InputError, match=told) as error:
        TrainConfig.build(two | settings)
    assert "\n" not in str(error.value)


def test_vectors_that_leave_other_words_no_room_are_told(sd1, two):
    config = TrainConfig.build(two | {"vectors": 40, "templates": "{name}", "keep_context": 1})
    with pytest.raises(
        InputError, match="keep_context: <my-cup> <my-owl> are so many vectors that no words fit"
    ):
        lab.train(sd1, config)
