import subprocess
import sys

import pytest

from lab.cli.main import COMMANDS
from tests.paths import REPOSITORY

HEAVY = ("torch", "diffusers", "transformers", "numpy", "scipy", "matplotlib")


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    check = f"print([module for module in {HEAVY!r} if module in sys.modules])"
    script = f"import sys; from lab.cli.main import main; main({arguments!r}); {check}"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(cli, command):
    code, out, _ = cli(command, "--help")
    assert code == 0 and f"lab {command}" in out


def test_an_unknown_command_is_one_line_with_the_nearest(cli):
    code, out, err = cli("generat")
    assert code == 2 and out == ""
    assert len(err.strip().splitlines()) == 1 and "generate" in err
