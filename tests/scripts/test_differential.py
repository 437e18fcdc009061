"""The differential test, beside a folder that passes for a tool's."""

import sys

import pytest
import torch

from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from scripts.differential import Lab, run
from scripts.peers.prompts import make_prompts
from scripts.peers.tally import Check, compare, first_difference

PASSES_FOR_COMFYUI = """
import comfy.ops
from . import model_management

def escape_important(text):
    return text

unescape_important = escape_important

def token_weights(text, weight):
    return [(text.replace("[", ""), weight)]

class ClipTokenWeightEncoder:
    pass

class SDTokenizer:
    def __init__(self, *files, **options):
        self.layer = comfy.ops.anything

    def tokenize_with_weights(self, text):
        raise ValueError(text)
"""


def test_what_differs_from_a_checkout_is_counted_and_shown(sd1, tmp_path, capsys):
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "sd1_clip.py").write_text(PASSES_FOR_COMFYUI)
    assert run(sd1, None, tmp_path, 10, 1) > 0
    shown = capsys.readouterr().out
    assert (
        "ComfyUI attention: 10 tried" in shown
        and "theirs" in shown
        and "10: the tool raises ValueError" in shown
    )
    assert not any(name == "comfy" or name.startswith("comfy.") for name in sys.modules)


def test_a_folder_without_the_tools_files_is_one_line(sd1, tmp_path):
    with pytest.raises(InputError, match=r"sd1_clip\.py is missing"):
        run(sd1, None, tmp_path, 1, 1)


def test_excuses_are_counted_apart():
    check = Check(
        "length", len, lambda prompt: prompt.count("a"), lambda prompt, *_: "b" if "b" in prompt else None
    )
    tally = compare(check, ["a", "ab", "ac", "aa"])
    assert (tally.tried, tally.equal, tally.differ, dict(tally.excused)) == (4, 2, 1, {"b": 1})
    assert list(tally.lines())[-3:] == ["  'ac'", "    theirs 2", "    ours   1"]


def test_the_first_difference_is_found():
    one, other = torch.ones(3), torch.tensor([1.0, 1.0, 1.5])
    assert first_difference([1, [2, one]], [1, [2, other]]) == ("[1][1] largest of (3,)", 1.0, 0.5)
    assert first_difference([1], [1, 2]) == ("", [1], [1, 2])


def test_prompts_are_the_same_for_a_seed():
    made = make_prompts(50, 3, ["<{name}>"])
    assert made == make_prompts(50, 3, ["<{name}>"]) and made != make_prompts(50, 4, ["<{name}>"])


def test_only_embeddings_excuse_a_difference_from_comfyui(sd1):
    ours = Lab(sd1, [Embedding("toyone", {"clip": torch.ones(1, 32)})], "comfy")
    assert ours.as_read("a, (b:1.2)") == "a, (b:1.2)"
    assert ours.as_read("a,embedding:TOYONE, b embedding: zz") == "a, embedding:toyone , b embedding : zz"
