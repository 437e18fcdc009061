"""Image files of all kinds: opened upright, or refused in one line wherever they are given."""

import struct
import subprocess
import sys
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import lab
from lab.images import images_in, load_image, on_ground, open_image, read_pixels, text_chunks
from lab.runs.png import read_record
from tests.listening import Heard


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def large_text(path):
    """A few kB that unpack to 20 MB of text."""
    info = PngInfo()
    info.add_text("comment", "x" * 20_000_000, zip=True)
    Image.new("RGB", (32, 32), "red").save(path, pnginfo=info)


def bomb(path):
    """A few bytes that claim 90,000 x 90,000 pixels."""
    header = struct.pack(">IIBBBBB", 90_000, 90_000, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def truncated(path):
    Image.effect_noise((64, 64), 80).save(path)
    path.write_bytes(path.read_bytes()[:-500])


def garbage(path):
    path.write_bytes(b"no image at all")


def empty(path):
    path.write_bytes(b"")


def folder(path):
    path.mkdir()


def postscript(path):
    """A program that never ends, which Pillow would have Ghostscript run."""
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n{} loop\n%%EOF\n")


def nameless(path):
    """Pixels of formats that Pillow reads and the lab does not."""
    path.write_bytes(b"P6 1 1 255 abc")


DAMAGED = [large_text, bomb, truncated, garbage, empty, folder, postscript, nameless]


@pytest.mark.parametrize("make", DAMAGED)
@pytest.mark.parametrize("read", [load_image, open_image, read_pixels, text_chunks, read_record])
def test_files_that_cannot_be_read_are_one_line(tmp_path, make, read):
    make(tmp_path / "x.png")
    with pytest.raises(lab.InputError, match=r"x\.png: not an image that can be read") as error:
        read(tmp_path / "x.png")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", DAMAGED)
def test_as_an_init_image_they_are_one_line_too(sd1, tmp_path, make):
    make(tmp_path / "x.png")
    with pytest.raises(lab.InputError, match=r"x\.png"):
        lab.generate(sd1, prompt="a cat", init_image=tmp_path / "x.png", steps=2)


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    array = np.zeros((8, 16, 3), np.uint8)
    array[:, :8] = 255
    Image.fromarray(array).save(tmp_path / "x.png", exif=exif)
    assert open_image(tmp_path / "x.png").size == (8, 16) and read_pixels(tmp_path / "x.png").shape == (
        3,
        16,
        8,
    )
    assert read_pixels(tmp_path / "x.png")[:, :8].min() == 1


def test_text_chunks_behind_the_pixels_are_found(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    end = data.index(b"IEND") - 4
    (tmp_path / "x.png").write_bytes(data[:end] + chunk(b"tEXt", b"note\0behind") + data[end:])
    assert text_chunks(tmp_path / "x.png")["note"] == "behind"


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
@pytest.mark.parametrize(
    ("comment", "found"),
    [
        (b"UNICODE\0" + "ein Apfel, 林檎".encode("utf-16-be"), "ein Apfel, 林檎"),
        (b"ASCII\0\0\0an apple", "an apple"),
        (b"UNICODE\0" + "half a letter".encode("utf-16-be") + b"\xd8", "half a letter\ufffd"),
        (b"", None),
    ],
)
def test_a_comment_in_exif_data_is_what_made_an_image(tmp_path, suffix, comment, found):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    exif.get_ifd(0x8769)[0x9286] = comment
    Image.new("RGB", (8, 4)).save(tmp_path / f"a{suffix}", exif=exif)
    assert text_chunks(tmp_path / f"a{suffix}").get("parameters") == found
    assert load_image(tmp_path / f"a{suffix}").size == (4, 8)


def test_damaged_exif_data_is_no_more_than_one_line(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0\0a"
    data = exif.tobytes()
    for place in range(len(data)):
        damaged = data[:place] + b"\xff" + data[place + 1 :]
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png", exif=damaged)
        with suppress(lab.InputError):
            assert set(text_chunks(tmp_path / "a.png")) <= {"parameters"}


def test_too_many_pixels_are_called_too_large(tmp_path):
    bomb(tmp_path / "x.png")
    with pytest.raises(lab.InputError, match="too large, over 178 million pixels"):
        load_image(tmp_path / "x.png")


def test_pillows_warnings_are_not_printed(tmp_path):
    Image.new("1", (9500, 9500)).save(tmp_path / "x.png")
    code = f"from lab.images import load_image; print(load_image({str(tmp_path / 'x.png')!r}).size)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(9500, 9500)\n" and done.stderr == ""


RAMP = np.linspace(0, 1, 256).reshape(16, 16)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("x.png", np.round(RAMP * 65535).astype(np.uint16)),
        ("x.tiff", np.round(RAMP * 65535).astype(np.uint16)),
        ("x.tiff", np.round(RAMP * 65535).astype(">u2")),
        ("x.tiff", np.round(RAMP * 255).astype(np.int32)),
        ("x.tiff", np.round(RAMP * 65535).astype(np.int32)),
        ("x.tiff", RAMP.astype(np.float32)),
        ("x.tiff", (RAMP * 255).astype(np.float32)),
    ],
)
def test_grey_of_many_bits_is_scaled(tmp_path, name, array):
    Image.fromarray(array).save(tmp_path / name)
    expected = np.round(RAMP * 255)
    assert (np.asarray(load_image(tmp_path / name)) == expected).all()
    assert (np.asarray(open_image(tmp_path / name))[:, :, 1] == expected).all()


def test_a_dark_picture_of_16_bits_stays_dark(tmp_path):
    Image.fromarray(np.full((8, 8), 257, np.uint16)).save(tmp_path / "x.png")
    assert np.asarray(open_image(tmp_path / "x.png")).max() == 1


@pytest.mark.parametrize("value", [-1, 5, 1e9, np.nan, np.inf])
def test_floats_that_are_no_grey_are_refused(tmp_path, value):
    Image.fromarray(np.array([[0, value]], np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(
        lab.InputError, match=r"x\.tiff: not an image that can be read: its pixels reach from"
    ):
        load_image(tmp_path / "x.tiff")


def test_a_transparent_grey_of_16_bits_is_transparent(tmp_path):
    array = np.full((8, 8), 40000, np.uint16)
    array[0] = 1000
    Image.fromarray(array).save(tmp_path / "x.png", transparency=1000)
    pixels = np.asarray(open_image(tmp_path / "x.png"))
    assert (pixels[0] == 255).all() and (pixels[1:] == 156).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_images_lie_on_a_ground(tmp_path, mode):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 8, 4))
    name = tmp_path / "x.png"
    image.convert(mode).save(name)
    assert (np.asarray(open_image(name))[4:] == 255).all() and not np.asarray(open_image(name))[:4].any()
    assert on_ground(load_image(name), "#ff8000").getpixel((0, 7)) == (255, 128, 0)


@pytest.mark.parametrize(
    "suffix", [".png", ".jfif", ".jpe", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"]
)
def test_common_formats_are_read_and_found(tmp_path, suffix):
    file = tmp_path / f"x{suffix.upper()}"
    form = {".jfif": "JPEG", ".jpe": "JPEG"}.get(suffix)
    Image.new("RGB", (16, 16), (250, 10, 10)).save(file, format=form)
    assert images_in(tmp_path) == [file]
    assert np.abs(np.asarray(open_image(file), int) - [250, 10, 10]).max() <= 6


def test_what_is_no_image_of_a_folder_is_left_out_and_said(tmp_path):
    for place in ("a.png", "._a.png", ".hidden.png", ".git/b.png", "below/c.png", "directory.png/d.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / place)
    (tmp_path / "dangling.png").symlink_to(tmp_path / "none.png")
    for name in ("a.txt", "e.heic", "f.heic", "g.psd", "README"):
        (tmp_path / name).write_bytes(b"x")
    listener = Heard()
    found = [str(path.relative_to(tmp_path)) for path in images_in(tmp_path, listener)]
    assert found == ["a.png", "below/c.png", "directory.png/d.png"]
    assert listener.notes == [f"{tmp_path}: 4 files left out: .heic, README, .psd"]


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"x")
    with pytest.raises(lab.InputError, match=r"holds no images .*; 1 file left out: \.heic$"):
        images_in(tmp_path)
