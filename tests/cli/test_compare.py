"""`lab compare` as a person uses it: what is wrong is told before the engine is imported."""

import subprocess
import sys

import pytest

from tests.paths import REPOSITORY

USUAL = ["--prompt", "a cat", "--axis", "guidance=1,5"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*USUAL, "--metrics", "sharpnes"], "unknown metric 'sharpnes'; nearest: sharpness"),
        ([*USUAL, "--metrics", "cmmd"], "give a folder with --references"),
        ([*USUAL, "--references", "nowhere"], "nowhere: no such folder"),
        ([*USUAL, "--init-image", "nowhere.png"], "nowhere.png: no such file"),
        (["--prompt", "a cat", "--axis", "scheduler=ddim,eulr"], "nearest: euler"),
        (["--prompt", "a cat", "--axis", "guidence=1,5"], "unknown axis 'guidence'; nearest: guidance"),
        (["--prompt", "a cat", "--axis", "guidance=1,x"], "'x' is no number"),
        ([*USUAL, "--baseline", "guidance=7"], "guidance has no value '7'"),
        (["--axis", "guidance=1,5"], "give --prompt"),
    ],
)
def test_bad_input_is_one_line_without_the_engine(arguments, words):
    code = "import sys; from lab.cli.main import main; code = main(); print(code, 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, "compare", *arguments]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.stdout == "2 False\n" and result.stderr.count("\n") == 1
    assert words in result.stderr
