"""Files of prompts as editors and other tools write them, and texts that no tokenizer takes."""

import pytest

import lab
from lab.errors import InputError
from lab.score.clip import load_clip
from lab.text import read_lines, read_numbered_lines


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "prompts.txt"
        path.write_bytes(text.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("\ufeffa red apple\n", ["a red apple"]),
        ("\ufeff# my prompts\r\na red apple\r\n\r\na cat\r\n", ["a red apple", "a cat"]),
        ("a dog\n\ufeff# of another file\n\ufeffa cat", ["a dog", "a cat"]),
        ("  # indented\n\t# more\n  a cat  ", ["a cat"]),
        ("a cat\ra dog", ["a cat", "a dog"]),
        ("a red\u2028apple\n", ["a red\u2028apple"]),
        *((f"a red{mark}apple", [f"a red{mark}apple"]) for mark in "\x0b\x0c\x1c\x1d\x1e\x85\u2029"),
        ("a #1 player\n", ["a #1 player"]),
        ("a cat -- a dog\n--ar 16:9", ["a cat -- a dog", "--ar 16:9"]),
    ],
)
def test_lines_are_those_of_an_editor(written, text, lines):
    assert read_lines(written(text)) == lines


def test_line_numbers_are_those_of_an_editor(written):
    assert read_numbered_lines(written("# a\x0cb\r\n\r\na cat\n")) == [(3, "a cat")]


@pytest.mark.parametrize(
    "line",
    [
        '--prompt "a red apple" --negative_prompt "blurry" --steps 2',
        '--steps 20 --prompt "a red apple"',
        "a red apple --n blurry --w 512 --h 768",
        "a red apple --d 1",
    ],
)
def test_lines_of_other_tools_are_told(written, line):
    with pytest.raises(InputError, match=r"prompts\.txt:2: options of another tool .*write the prompt alone"):
        read_lines(written(f"a cat\n{line}\n"))


@pytest.mark.parametrize("text", ["caf\udce9", "cat \ud83c", "\udf4e (cat:1.2)"])
def test_half_a_character_is_one_line(sd1, emoji, text):
    for call in (
        lambda: lab.encode(sd1, text),
        lambda: lab.generate(sd1, prompt=text, steps=1),
        lambda: lab.generate(sd1, prompt="a cat", negative_prompt=text, steps=1),
        lambda: load_clip(emoji).texts([text]),
    ):
        with pytest.raises(InputError, match="is half a character") as error:
            call()
        str(error.value).encode()


@pytest.mark.parametrize(
    ("prompt", "said"), [("a " * 60_000, "120,000 characters"), (5, "expected a text, not int")]
)
def test_what_no_prompt_can_be_is_one_line(sd1, prompt, said):
    with pytest.raises(InputError, match=said):
        lab.encode(sd1, prompt)


@pytest.mark.parametrize("steps", ["x", 0, 1.5])
def test_steps_are_whole_numbers(sd1, steps):
    with pytest.raises(InputError, match="steps: expected a whole number"):
        lab.encode(sd1, "a cat", steps=steps)
