"""Image files of all kinds: opened upright, or refused in one line wherever they are given."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import lab
from lab.images import load_image, open_image, read_pixels, text_chunks
from lab.runs.png import read_record


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


DAMAGED = [large_text, bomb, truncated, garbage, empty, folder]


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
