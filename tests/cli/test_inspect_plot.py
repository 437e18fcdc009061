"""`lab inspect --plot`: vectors, words and prompts as a picture and as numbers."""

import json
import warnings

import pytest
import torch

from lab.embeddings.embedding import Embedding


@pytest.fixture
def files(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for name, count in (("one", 1), ("two", 2)):
        Embedding(name, {"clip": torch.randn((count, 32), generator=generator)}).save(
            tmp_path / f"{name}.safetensors"
        )
    return [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]


def test_plot_and_numbers(cli, files, sd1_folder, tmp_path):
    code, out, err = cli(
        "inspect", *files, "--plot", tmp_path / "x.svg", "--model", sd1_folder, "--word", "cat",
        "--prompt", "a <two>", "--prompt", "a cat",
    )  # fmt: skip
    assert code == 0, err
    assert (tmp_path / "x.svg").is_file() and "x.json has the numbers" in " ".join(out.split())
    learned, prompts = json.loads((tmp_path / "x.json").read_text())
    assert learned["labels"] == ["one", "two 0", "two 1", "cat"]
    assert learned["nearest"][3][0]["token"] == "cat</w>"
    assert prompts["labels"] == ["a <two>", "a cat"] and len(prompts["cosine"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--plot", "x.gif"], ".png or .svg"),
        (["--plot", "x.png", "--word", "cat"], "give --model"),
        (["--word", "cat"], "--plot"),
    ],
)
def test_bad_input_is_one_line(cli, files, words, said):
    code, _, err = cli("inspect", *files, *words)
    assert code == 2 and said in err and err.count("\n") == 1


def test_names_in_other_scripts_are_drawn_and_nothing_is_said_of_them(cli, tmp_path):
    for name in ("铃兰", "\U0001f34e"):
        Embedding(name, {"clip": torch.randn(2, 8)}).save(tmp_path / f"{name}.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code, _, err = cli(
            "inspect", tmp_path / "铃兰.pt", tmp_path / "\U0001f34e.pt", "--plot", tmp_path / "x.png"
        )
    assert (code, err) == (0, "")
