import pytest
from PIL import Image

import lab
from lab.runs.run import RunFolder
from lab.runs.sheet import MAX_HEIGHT, Row, write_sheets
from tests.runs.test_images import RECORD


def picture(colour="teal"):
    return Image.new("RGB", (64, 96), colour)


def test_a_run_goes_on_where_it_stopped(tmp_path):
    folder = RunFolder.open(tmp_path / "run", "steps: 20\n")
    folder.save(0, picture(), RECORD)
    folder.save(12, picture(), RECORD | {"seed": 9})
    again = RunFolder.open(tmp_path / "run", "steps: 20\n")
    assert list(again.finished()) == [0, 12]


def test_names_sort_as_asked_and_say_what_they_are(tmp_path):
    folder = RunFolder.open(tmp_path, "steps: 20\n")
    paths = [
        folder.save(index, picture(), RECORD | {"seed": seed}) for index, seed in ((2, 1), (10, 0), (0, 5))
    ]
    assert [path.name for path in sorted(paths)] == [paths[2].name, paths[0].name, paths[1].name]
    assert paths[0].name == "00002-seed1-a-red-1-3-apple-with-cat-toy.png"


def test_prompts_without_letters_make_names_too(tmp_path):
    path = RunFolder.open(tmp_path, "").save(0, picture(), RECORD | {"prompt": "日本 ../../etc"})
    assert path.parent == tmp_path and path.name == "00000-seed7-etc.png"


def test_another_run_in_the_folder_is_refused_by_the_name_of_what_differs(tmp_path):
    RunFolder.open(tmp_path, "steps: 20\nprompt: [a]\n")
    with pytest.raises(lab.InputError, match=r"\(steps\)"):
        RunFolder.open(tmp_path, "steps: 21\nprompt: [a]\n")


def test_half_written_images_do_not_count(tmp_path):
    folder = RunFolder.open(tmp_path, "")
    folder.save(0, picture(), RECORD)
    (tmp_path / "00001-seed2-a.json").write_text("{}")
    (tmp_path / ".00002-seed2-a-xyz.png").write_bytes(b"half")
    assert list(folder.finished()) == [0]


@pytest.mark.parametrize("name", ["file/run", "file"])
def test_folders_that_cannot_be_are_one_line(tmp_path, name):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(lab.InputError, match="choose another --out"):
        RunFolder.open(tmp_path / name, "")


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    folder = RunFolder.open(tmp_path, "")
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(lab.InputError, match="disk is full"):
        folder.save(0, picture(), RECORD)
    assert not list(tmp_path.glob("*.png")) and not list(tmp_path.glob(".*"))


def test_contact_sheets_show_every_image_and_are_paged(tmp_path):
    colours = ["red", "lime", "blue"]
    paths = []
    for number, colour in enumerate(colours):
        paths.append(tmp_path / f"{number}.png")
        picture(colour).save(paths[-1])
    rows = [Row(f"prompt {n}", [(path, "seed") for path in paths]) for n in range(200)]
    sheets = write_sheets(tmp_path / "sheet.png", rows, columns=2)
    assert [sheet.name for sheet in sheets] == ["sheet.png", "sheet-2.png", "sheet-3.png", "sheet-4.png"]
    shown = 0
    for sheet in sheets:
        image = Image.open(sheet)
        assert image.height <= MAX_HEIGHT
        counts = {pixel: count for count, pixel in image.getcolors(1 << 24)}
        shown += sum(counts[pixel] for pixel in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    assert shown == 200 * 3 * 64 * 96
