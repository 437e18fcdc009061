import shutil

import pytest
from PIL import Image

import lab
from lab.runs.run import RunFolder
from tests.runs.test_images import RECORD

CONFIG = "steps: 20\nprompt: [a]\n"
CONTENTS = {"model": "0", "prompt 1": "1", "prompt 2": "2", "embedding cat": "3"}


def picture(colour="teal"):
    return Image.new("RGB", (64, 96), colour)


def begun(path, config=CONFIG, contents=CONTENTS, free=()):
    return RunFolder.open(path, config, contents, free)


def save(folder, index, **record):
    return folder.save(index, picture(), RECORD | record, "Steps: 20")


def test_a_run_goes_on_where_it_stopped(tmp_path):
    folder = begun(tmp_path / "run")
    save(folder, 0)
    save(folder, 12, seed=9)
    assert list(begun(tmp_path / "run").finished()) == [0, 12]


def test_a_list_of_contents_that_is_none_is_told(tmp_path):
    begun(tmp_path)
    (tmp_path / "contents.sha256").write_bytes(b"\xff\0")
    with pytest.raises(lab.InputError, match=r"contents\.sha256 is missing or damaged"):
        begun(tmp_path)


def test_names_sort_as_asked_and_say_what_they_are(tmp_path):
    folder = begun(tmp_path)
    paths = [save(folder, index, seed=seed) for index, seed in ((2, 1), (10, 0), (0, 5))]
    assert [path.name for path in sorted(paths)] == [paths[2].name, paths[0].name, paths[1].name]
    assert paths[0].name == "00002-seed1-a-red-1-3-apple-with-cat-toy.png"


def test_prompts_without_letters_make_names_too(tmp_path):
    path = save(begun(tmp_path), 0, prompt="日本 ../../etc")
    assert path.parent == tmp_path and path.name == "00000-seed7-etc.png"


@pytest.mark.parametrize(
    ("config", "contents", "words"),
    [
        ("steps: 21\nprompt: [a]\n", CONTENTS, "(steps)"),
        (CONFIG, CONTENTS | {"prompt 2": "4"}, "(prompt 2 changed)"),
        (CONFIG, CONTENTS | {"prompt 3": "4"}, "(prompt 3 is new)"),
        (CONFIG, {"model": "0", "prompt 1": "1"}, "(prompt 2 is missing, embedding cat is missing)"),
        ("steps: 2\nprompt: [a]\n", dict.fromkeys(CONTENTS, "x"), "and 2 more"),
    ],
)
def test_another_run_in_the_folder_is_refused_by_what_differs(tmp_path, config, contents, words):
    begun(tmp_path)
    with pytest.raises(lab.InputError) as error:
        begun(tmp_path, config, contents)
    assert words in str(error.value)


def test_free_settings_may_differ_and_are_kept_up_to_date(tmp_path):
    begun(tmp_path)
    begun(tmp_path, "steps: 20\nprompt: [b]\n", free={"prompt"})
    assert (tmp_path / "config.yaml").read_text() == "steps: 20\nprompt: [b]\n"


def test_a_run_that_does_not_say_what_it_is_made_of_is_not_gone_on_with(tmp_path):
    begun(tmp_path)
    (tmp_path / "contents.sha256").unlink()
    with pytest.raises(lab.InputError, match="what it is made of"):
        begun(tmp_path)


def test_images_of_an_unknown_run_are_not_taken_for_this_ones(tmp_path):
    save(begun(tmp_path), 0)
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(lab.InputError, match=r"without its config\.yaml"):
        begun(tmp_path)


def test_only_what_the_run_itself_writes_counts(tmp_path):
    folder = begun(tmp_path)
    path = save(folder, 0, prompt="a cat")
    again = save(folder, 1, prompt="a cat again")
    for copy in (
        path.with_stem(f"{path.stem}-again"),
        tmp_path / "00002-seed7-a-dog.png",
        tmp_path / "x.png",
    ):
        shutil.copyfile(path, copy)
        shutil.copyfile(path.with_suffix(".json"), copy.with_suffix(".json"))
    shutil.copyfile(path, tmp_path / "00003-seed7-a-cat.png")
    (tmp_path / "00004-seed2-a.json").write_text("{}")
    (tmp_path / ".00005-seed2-a-xyz.png").write_bytes(b"half")
    assert folder.finished() == {0: path, 1: again}


def test_a_folder_in_use_is_refused_until_the_other_is_done(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.locked(), pytest.raises(lab.InputError, match="in use by another process"), folder.locked():
        raise AssertionError("never here")
    with folder.locked():
        pass


@pytest.mark.parametrize("name", ["file/run", "file"])
def test_folders_that_cannot_be_are_one_line(tmp_path, name):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(lab.InputError, match=r"in the way|is a file"):
        begun(tmp_path / name)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    folder = begun(tmp_path)
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(lab.InputError, match="disk is full"):
        save(folder, 0)
    assert not list(tmp_path.glob("*.png")) and not list(tmp_path.glob(".*"))


def test_names_of_any_kind_come_back(tmp_path):
    names = dict.fromkeys(
        ["image caf\udce9.png", "image a\u2028b.png", "image a\nb.png", "image \x85.png"], "1"
    )
    begun(tmp_path, contents=names)
    begun(tmp_path, contents=names)
    with pytest.raises(lab.InputError, match=r"image a\\nb\.png changed"):
        begun(tmp_path, contents=names | {"image a\nb.png": "2"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not valid JSON"),
        ("[" * 9000, "nested too deeply"),
        ("[]", "expected a JSON object"),
        ('{"seed": 7, "prompt": ["a"], "width": 64, "height": 96}', "prompt: input should be a valid string"),
        ('{"seed": 7, "prompt": "a", "width": "64", "height": 96}', "width: input should be a valid integer"),
    ],
)
def test_records_that_came_back_otherwise_say_file_and_key(tmp_path, text, said):
    folder = begun(tmp_path)
    path = save(folder, 0)
    path.with_suffix(".json").write_text(text)
    with pytest.raises(lab.InputError, match=rf"seed7.*\.json: .*{said}.*; delete {path.name}"):
        folder.finished()


def test_a_config_that_is_no_text_is_one_line(tmp_path):
    begun(tmp_path).config.write_bytes(b"steps: \xff")
    with pytest.raises(lab.InputError, match=r"config\.yaml: cannot read it: not UTF-8"):
        begun(tmp_path)
    (tmp_path / "config.yaml").write_text("[" * 9000)
    with pytest.raises(lab.InputError, match=r"config\.yaml was edited"):
        begun(tmp_path)
