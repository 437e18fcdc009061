"""The scripts' page names every script, and asks of them what they take."""

import re

import pytest

from tests.paths import REPOSITORY

SCRIPTS = REPOSITORY / "scripts"
README = (SCRIPTS / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"python -m scripts\.([\w.]+)( [^`]*)?`", README)


def test_every_script_is_named_and_there():
    named = set(re.findall(r"`(\w+\.py)`", README))
    assert (
        {path.name for path in SCRIPTS.glob("*.py")} <= named <= {path.name for path in SCRIPTS.rglob("*.py")}
    )


@pytest.mark.parametrize(("script", "arguments"), sorted(set(COMMANDS)))
def test_options_in_its_commands_are_those_of_the_script(script, arguments):
    path = SCRIPTS.joinpath(*script.split(".")).with_suffix(".py")
    known = re.findall(r'add_argument\(\s*"(--[\w-]+)"', path.read_text(encoding="utf-8"))
    assert set(re.findall(r"--[\w-]+", arguments)) <= set(known)
