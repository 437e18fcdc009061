"""Contact sheets: every image, on pages that suit a screen."""

import time

import pytest
from PIL import Image, ImageDraw

from lab import fonts
from lab.fonts import draw_text, spelled, text_length
from lab.runs.sheet import MAX_HEIGHT, MAX_WIDTH, SheetGroup, wrapped, write_sheets

COLOURS = ("red", "lime", "blue")


@pytest.fixture
def cells(tmp_path):
    """Makes (file, label) pairs, of three colours in turn, 64 x 96 pixels."""
    for colour in COLOURS:
        Image.new("RGB", (64, 96), colour).save(tmp_path / f"{colour}.png")
    return lambda count, label="": [(tmp_path / f"{COLOURS[n % 3]}.png", label) for n in range(count)]


def pixels_shown(sheets):
    """How many pixels of the three colours are on the sheets."""
    shown = 0
    for sheet in sheets:
        counts = {pixel: count for count, pixel in Image.open(sheet).getcolors(1 << 24)}
        shown += sum(counts.get(pixel, 0) for pixel in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    return shown


@pytest.mark.parametrize(
    ("groups", "count"), [(1, 16), (16, 1), (12, 6), (1, 1000), (500, 2), (3, 200), (300, 4), (1, 1)]
)
def test_every_image_is_on_a_page_of_a_screens_shape(cells, tmp_path, groups, count):
    made = [SheetGroup(f"prompt {number}", cells(count, "seed")) for number in range(groups)]
    sheets = write_sheets(tmp_path / "sheet.png", made, "shared by all")
    sizes = [Image.open(sheet).size for sheet in sheets]
    assert pixels_shown(sheets) == groups * count * 64 * 96
    assert all(width <= MAX_WIDTH and height <= MAX_HEIGHT for width, height in sizes)
    if groups * count > 1:
        assert 1 < sizes[0][0] / sizes[0][1] < 2.6


def test_prompts_are_wrapped_not_cut(cells, tmp_path):
    short, long = (
        write_sheets(tmp_path / f"{len(label)}.png", [SheetGroup("", cells(16, label))])[0]
        for label in ("cat", "a noto emoji of a red apple")
    )
    assert Image.open(long).height > Image.open(short).height
    assert wrapped("a noto emoji of a red apple", 128, 5) == wrapped("a noto emoji of a red apple", 128, 9)
    assert " ".join(wrapped("a noto emoji of a red apple", 128, 5)) == "a noto emoji of a red apple"


def test_what_does_not_fit_ends_in_an_ellipsis():
    lines = wrapped("word " * 100, 100, 3)
    assert len(lines) == 3 and lines[-1].endswith("…") and lines[0].startswith("word")


@pytest.mark.parametrize("prompt", ["x" * 21_000, "word " * 4_200, "Ж" * 300, "日本語 " * 50, "\n\n", ""])
def test_prompts_of_any_length_and_script(cells, tmp_path, prompt):
    began = time.process_time()
    write_sheets(
        tmp_path / "sheet.png", [SheetGroup(prompt, cells(2, prompt)), SheetGroup("a", cells(1))], prompt
    )
    assert time.process_time() - began < 20, "once, shortening a heading took minutes"


def test_pages_of_a_longer_run_before_are_removed(cells, tmp_path):
    assert len(write_sheets(tmp_path / "sheet.png", [SheetGroup("", cells(2000))])) > 1
    (tmp_path / "sheet-mine.png").write_bytes(b"")
    write_sheets(tmp_path / "sheet.png", [SheetGroup("", cells(2))])
    assert {path.name for path in tmp_path.glob("sheet*")} == {"sheet.png", "sheet-mine.png"}


def test_images_of_other_sizes_are_fitted_into_the_cells(cells, tmp_path):
    Image.new("RGB", (900, 300), "black").save(tmp_path / "wide.png")
    (sheet,) = write_sheets(
        tmp_path / "sheet.png", [SheetGroup("", [*cells(1), (tmp_path / "wide.png", "")])]
    )
    assert Image.open(sheet).convert("RGB").getpixel((8 + 72 + 32, 8 + 48)) == (0, 0, 0)


def drawn(text):
    image = Image.new("L", (80, 24), 255)
    draw_text(ImageDraw.Draw(image), 2, 2, text, 13, "black")
    return image.tobytes()


@pytest.mark.parametrize("pair", ["赤林", "りン", "铃兰", "яж", "حم", "αβ", "ab"])
def test_characters_of_many_scripts_are_no_boxes(pair):
    one, other = pair
    assert drawn(one) != drawn(other) and drawn(one) != drawn("\U0010fffd")


def test_a_text_is_as_wide_as_its_parts_and_arabic_letters_join():
    assert text_length("赤a", 13) == pytest.approx(text_length("赤", 13) + text_length("a", 13))
    assert drawn("حم") != drawn("ح\u200cم")  # a non-joiner keeps them apart


def test_what_no_font_has_is_said_in_words(monkeypatch):
    monkeypatch.setattr(fonts, "_of_the_system", lambda: ())  # what a system brings differs
    fonts._in_words.cache_clear()
    assert spelled("a 고양이, 🦄🦄 猫 \U0010fffd") == "a [Hangul], [unicorn face] 猫 [U+10FFFD]"
    assert spelled("👩🏽x") in ("[woman]x", "👩x") and spelled("naïve, día") == "naïve, día"
    assert wrapped("고양이", 400, 1) == ["[Hangul]"]
    wrapped.cache_clear()
    fonts._in_words.cache_clear()
