import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import InputError
from lab.training.data.captions import (
    filename_words,
    image_captions,
    read_templates,
    split_at_placeholders,
    vary_tags,
)


def generator(seed=0):
    return torch.Generator("cpu").manual_seed(seed)


def test_sets_name_what_is_learned():
    for name in ("object", "style"):
        assert all("{name}" in line for line in read_templates([name]))


def test_templates_may_be_lines_and_files(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text('- "a drawing of {name}"\n- "{name}, {words}"\n')
    assert read_templates(["{name} alone", str(file)]) == [
        "{name} alone",
        "a drawing of {name}",
        "{name}, {words}",
    ]
    file.write_text("name: 1\n")
    with pytest.raises(InputError, match="YAML list"):
        read_templates([str(file)])
    with pytest.raises(InputError, match="nearest: object"):
        read_templates(["objekt"])


def test_sidecar_lines_are_alternatives_and_templates_stand_in(tmp_path, changed):
    image = tmp_path / "red_apple-02.png"
    assert image_captions(image, changed(), ["{name} as {words}"], ["x"]) == ("<x> as red apple",)
    image.with_suffix(".txt").write_text("a <x>\n\nthe <x> at night\n", encoding="utf-8")
    assert image_captions(image, changed(), ["{name}"], ["x"]) == ("a <x>", "the <x> at night")
    assert image_captions(image, changed(captions="template"), ["{name}"], ["x"]) == ("<x>",)
    assert image_captions(image, changed(captions="filename"), [], ["x", "y"]) == ("<x> <y> red apple",)
    image.with_suffix(".txt").write_text("a {name} on a blue background\n<x>, {words}\n", encoding="utf-8")
    assert image_captions(image, changed(), [], ["x"]) == ("a <x> on a blue background", "<x>, red apple")
    image.with_suffix(".txt").write_text("\n")
    with pytest.raises(InputError, match="no caption"):
        image_captions(image, changed(), [], ["x"])
    with pytest.raises(InputError, match=r"other\.txt"):
        image_captions(tmp_path / "other.png", changed(captions="sidecar"), [], ["x"])


def test_captions_of_other_tools_and_editors_are_read(tmp_path, changed):
    image = tmp_path / "a.png"
    image.with_suffix(".caption").write_text("a <x>")
    assert image_captions(image, changed(), ["{name}"], ["x"]) == ("a <x>",)
    image.with_suffix(".txt").write_bytes("\ufeffa\u2028red <x>\r\nb <x>\rc <x>\r\n".encode())
    assert image_captions(image, changed(), ["{name}"], ["x"]) == ("a\u2028red <x>", "b <x>", "c <x>")


def test_several_embeddings_are_all_named(tmp_path, changed):
    lines = ["a {name}", "{name} in {name2} style"]
    assert image_captions(tmp_path / "a.png", changed(), lines, ["x", "y"]) == (
        "a <x>, <y>",
        "<x> in <y> style",
    )


def test_file_words_leave_out_numbers(tmp_path):
    assert filename_words(tmp_path / "big_red.apple (3)-07.png") == "big red apple"


def test_shuffle_and_dropout_keep_the_first_tags_and_the_placeholder(changed):
    config = changed(shuffle_tags=True, tag_dropout=0.5, keep_tags=1)
    caption = "first, a, b, c, the <x>, d"
    seen = {vary_tags(caption, config, ["x"], generator(seed)) for seed in range(50)}
    assert len(seen) > 20
    for text in seen:
        tags = text.split(", ")
        assert tags[0] == "first" and "the <x>" in tags and set(tags) <= set(caption.split(", "))
    assert vary_tags(caption, config, ["x"], generator(1)) == vary_tags(caption, config, ["x"], generator(1))


def test_without_options_a_caption_stays_as_it_is(changed):
    assert vary_tags("a,  b ,<x>", changed(), ["x"], generator()) == "a,  b ,<x>"


@given(st.lists(st.sampled_from(["<x>", "<x-2>", "<y>", "(a:1.2)", "[b|c]", " AND ", "text", "<", ">"])))
def test_only_placeholders_mean_anything(pieces):
    caption = "".join(pieces)
    marks = {"<x>": "x", "<x-2>": "x-2"}
    split = split_at_placeholders(caption, marks)
    assert "".join(text for text, _ in split) == caption
    assert [name for _, name in split if name] == [marks[piece] for piece in pieces if piece in marks]
