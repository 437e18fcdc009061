import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from lab.errors import InputError
from lab.training.data.pictures import Bucket, load_view, make_buckets, make_views, read_pictures
from tests.training.drawings import draw

BUCKETS = make_buckets(32, 8, many=True)


def read(config, buckets=BUCKETS):
    return read_pictures(config.model_copy(update={"name": "x"}), ["{name}"], buckets)


def test_pictures_come_by_name_with_their_content_hash(config):
    pictures, skipped = read(config)
    assert [picture.path.name for picture in pictures] == [
        "toy-0.png",
        "toy-1.png",
        "toy-2.png",
    ] and not skipped
    assert pictures[0].sha256 == hashlib.sha256(pictures[0].path.read_bytes()).hexdigest()
    assert pictures[0].captions == ("<x>",)


def test_exif_orientation_is_honoured(changed, tmp_path):
    folder = tmp_path / "turned"
    folder.mkdir()
    array = np.zeros((24, 48, 3), np.uint8)
    array[:, :24] = 255  # the left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(array).save(folder / "a.jpg", exif=exif, quality=100)
    config = changed(images=folder)
    (picture,), _ = read(config)
    assert picture.size == (24, 48) and picture.bucket.height > picture.bucket.width
    pixels, _ = load_view(picture, make_views([picture], config)[0], config)
    height = pixels.shape[1]
    assert pixels[:, : height // 3].mean() > 0.9 and pixels[:, -height // 3 :].mean() < -0.9


def transparent(folder):
    folder.mkdir()
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 16, 32))
    image.save(folder / "a.png")
    return folder


def test_alpha_shows_the_background_or_weights_the_loss(changed, tmp_path):
    config = changed(images=transparent(tmp_path / "alpha"), background="blue")
    (picture,), _ = read(config)
    (view,) = make_views([picture], config)
    pixels, weight = load_view(picture, view, config)
    assert weight is None
    assert pixels[:, 16, 4].tolist() == [-1, -1, 1] and pixels[:, 16, 28].tolist() == [1, -1, -1]
    _, weight = load_view(picture, view, config.model_copy(update={"alpha": "weight"}))
    assert weight[16, 4] == 0 and weight[16, 28] == 1


def test_a_mask_weights_the_loss_and_is_no_picture(changed, images):
    Image.new("L", (32, 32), 0).save(images / "toy-1.mask.png")
    pictures, _ = read(changed())
    assert (
        len(pictures) == 3
        and pictures[1].masks.whole.name == "toy-1.mask.png"
        and pictures[0].masks.whole is None
    )
    with pytest.raises(InputError, match=r"toy-1\.png.*nothing to learn"):
        load_view(pictures[1], make_views(pictures, changed())[1], changed())
    Image.new("L", (16, 32), 255).save(images / "toy-1.mask.png")
    with pytest.raises(InputError, match="another size"):
        read(changed())


def test_views_are_cut_within_the_scaled_picture(changed, tmp_path):
    folder = draw(tmp_path / "wide", size=(100, 40))
    config = changed(images=folder, crop="random", crops=3, flip=True)
    pictures, _ = read(config, [Bucket(32, 32)])
    views = make_views(pictures, config)
    assert len(views) == 3 * 3 * 2 and views == make_views(pictures, config)
    assert len({(view.picture, view.left) for view in views}) > 4
    for view in views:
        assert 0 <= view.left <= 80 - 32 and view.top == 0
        pixels, _ = load_view(pictures[view.picture], view, config)
        assert pixels.shape == (3, 32, 32)
    plain, mirrored = (load_view(pictures[0], view, config)[0] for view in views[:2])
    torch.testing.assert_close(mirrored, plain.flip(-1))


def test_a_broken_image_names_itself_and_is_skipped_only_when_asked(changed, images):
    (images / "broken.png").write_bytes((images / "toy-0.png").read_bytes()[:60])
    with pytest.raises(InputError, match=r"broken\.png.*--skip-broken"):
        read(changed())
    pictures, skipped = read(changed(skip_broken=True))
    assert len(pictures) == 3 and "broken.png" in skipped[0]


def test_what_cannot_be_learned_from_is_one_line(changed, images, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("no image")
    for folder, words in (
        (None, "--images"),
        (tmp_path / "none", "no such folder"),
        (empty, "no image in this folder"),
    ):
        with pytest.raises(InputError, match=words):
            read(changed(images=folder))
    with pytest.raises(InputError, match=r"toy-0\.png: 32x32 is too small to learn from at 512 px.*64 px"):
        read(changed(), make_buckets(512, 64, many=True))
    for path in images.iterdir():
        path.write_bytes(b"GIF89a")
    with pytest.raises(InputError, match="none of its 3 images"):
        read(changed(skip_broken=True))


def test_what_is_left_out_of_a_folder_is_said(changed, images):
    (images / "._toy-0.png").write_bytes(b"\0\5\26\7")
    (images / "a.heic").write_bytes(b"x")
    draw(images / "below")
    pictures, left_out = read(changed())
    assert len(pictures) == 3
    assert left_out == [f"{images}: 1 file left out: .heic; 3 images in its subfolders left out"]


def test_a_folder_with_images_in_subfolders_alone_says_so(changed, tmp_path):
    draw(tmp_path / "all" / "10_toy")
    with pytest.raises(InputError, match=r"no image in this folder.*; 3 images in its subfolders left out$"):
        read(changed(images=tmp_path / "all"))


@pytest.mark.parametrize(
    "name", ["toy-1.MASK.png", "toy-1-masklabel.png", "TOY-1_mask.jpg", "toy-1-mask.png"]
)
def test_masks_have_the_names_that_other_trainers_give_them(changed, images, name):
    Image.new("L", (32, 32), 200).save(images / name)
    Image.new("L", (32, 32), 0).save(images / "death_mask.png")  # no picture's
    pictures, _ = read(changed())
    assert [picture.path.stem for picture in pictures] == ["death_mask", "toy-0", "toy-1", "toy-2"]
    assert [picture.masks.whole and picture.masks.whole.name for picture in pictures] == [
        None,
        None,
        name,
        None,
    ]


def test_masks_of_16_bits_are_scaled(changed, images):
    Image.fromarray(np.full((32, 32), 32896, np.uint16)).save(images / "toy-0.mask.png")
    pictures, _ = read(changed())
    _, weight = load_view(pictures[0], make_views(pictures, changed())[0], changed())
    assert weight.numpy() == pytest.approx(128 / 255)
