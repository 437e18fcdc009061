"""What a run says on the terminal."""

import io
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from lab import terminal
from lab.cli.main import main


@pytest.fixture
def shown(monkeypatch):
    console = Console(record=True, force_terminal=True, width=100)
    monkeypatch.setattr(terminal, "console", console)
    return lambda: console.export_text(clear=False)


def test_notes_counts_and_losses_are_shown(shown):
    with terminal.Bars("demo") as bars:
        bars.note("a [cat:dog:2] is no markup")
        bars.progress(1, 2, "images encoded")
        bars.step(SimpleNamespace(step=3, loss=0.25), 40)
    text = shown()
    assert "a [cat:dog:2] is no markup" in text
    assert "demo 1/2 images encoded" in text and "demo step 3/40, loss 0.250" in text


def test_of_several_processes_only_the_first_talks(shown, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with terminal.Bars() as bars:
        bars.note("a line")
        bars.progress(1, 2)
    assert shown().strip() == ""


@pytest.mark.parametrize(("columns", "width"), [("0", 80), ("10", 40), ("120", 120)])
def test_a_console_is_wide_enough_to_read(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal.make_console().width == width


@pytest.mark.parametrize(
    ("errors", "shown"),
    [("strict", b"\\u732b \\udce7\\udc8c\\udcab\n"), ("surrogateescape", b"\\u732b \xe7\x8c\xab\n")],
)
def test_what_an_encoding_lacks_is_replaced(monkeypatch, errors, shown):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", errors=errors))
    assert main(["models", "--help"]) == 0
    print("\u732b", "\u732b".encode().decode("ascii", "surrogateescape"))
    sys.stdout.flush()
    assert written.getvalue().endswith(shown)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_output_that_finds_no_room_is_one_line():
    with Path("/dev/full").open("w") as full:
        made = subprocess.run(
            [sys.executable, "-m", "lab", "--version"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert made.returncode == 2
    assert made.stderr == "lab: what it says cannot be written where it goes: the disk is full\n"


def test_matplotlib_is_quiet_of_folders_at_home_that_it_cannot_write(capsys):
    assert main(["--version"]) == 0
    logging.getLogger("matplotlib").warning("mkdir -p failed for path ~/.config/matplotlib")
    assert "mkdir" not in capsys.readouterr().err
