"""The command for GPUs is kept working: its entries with tiny shapes, and what watches over them.

On a CPU, or where there is a GPU by LAB_TEST_DEVICE=cuda on that: images, heat maps, precisions, learning and resuming
are then compared with the CPU's.
"""

import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

import lab
from scripts.gpu import features
from scripts.gpu.entries import ENTRIES, Entry
from scripts.gpu.journal import FAILED, LEFT_OUT, PASSED, Journal
from scripts.gpu.report import markdown
from scripts.gpu.stand import Stand
from scripts.gpu.supervise import Supervisor
from scripts.gpu.waits import waits_of
from scripts.gpu.work import work_off

DEVICE = os.environ.get("LAB_TEST_DEVICE", "cpu")
NEED_A_GPU = {"out-of-memory", "host-waits"} if DEVICE == "cpu" else set()
SLOW = {"features", "schedulers", "precisions", "generate-sd15", "thing-sdxl", "compile-sd15"}
"""Others run the same code."""


@pytest.mark.parametrize("name", [name for name in ENTRIES if name not in SLOW or DEVICE != "cpu"])
def test_entries_run_with_tiny_shapes(name, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: None)  # a compiler would take minutes
    stand = Stand(torch.device(DEVICE), tiny=True, folder=tmp_path)
    journal = Journal(tmp_path / "journal.jsonl")
    work_off(ENTRIES[name], stand, journal)
    result = journal.read().results[name]
    assert result["status"] == (LEFT_OUT if name in NEED_A_GPU else PASSED), result["error"]
    assert ENTRIES[name].what in markdown(journal.read(), list(ENTRIES.values()), 1.0)


def test_features_are_called_as_they_are_now(emoji, tmp_path, monkeypatch):
    """Some of each kind: all of them take long on a CPU, where other tests ask what they do."""
    monkeypatch.setattr("lab.search.explain.TRIED", 2)
    stand = Stand(torch.device("cpu"), tiny=True, folder=tmp_path)
    ways = features.pictures(stand, emoji, emoji)
    for name in ("words of negative weight", "a ControlNet", "output embeddings"):
        assert ways[name]() == "120.0 dB"
    called = features.calls(stand, emoji)
    for name in ("the text objective", "vectors in words", "another tool's syntax", "a search"):
        called[name]()


def test_the_command_writes_a_report(tmp_path):
    command = [sys.executable, "-m", "scripts.gpu_check", "--device", DEVICE, "--tiny", "--minutes", "30"]
    entries = ["--only", "host-waits", "heat-maps"]
    done = subprocess.run([*command, *entries, "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = json.loads((tmp_path / "results.json").read_text())
    statuses = {name: result["status"] for name, result in whole["results"].items()}
    assert statuses == {"host-waits": LEFT_OUT if NEED_A_GPU else PASSED, "heat-maps": PASSED}
    assert whole["environment"]["versions"]["torch"] == torch.__version__
    assert "| heat maps equal the CPU's (`heat-maps`) | passed |" in (tmp_path / "report.md").read_text()


def test_waits_are_counted_by_the_line_of_the_lab(emoji, monkeypatch):
    monkeypatch.setattr("torch.cuda.set_sync_debug_mode", lambda mode: None)
    decode = emoji.vae.decode

    def waiting(*args, **kwargs):
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return decode(*args, **kwargs)

    monkeypatch.setattr(emoji.vae, "decode", waiting)
    waits = waits_of(lambda: lab.generate(emoji, prompt="a cat", steps=1, width=32, height=32))
    ((place, count),) = waits.items()
    assert place.startswith("lab/sample/pixels.py:")
    assert (place.partition(" in ")[2].partition(":")[0], count) == ("test_gpu_check.py", 1)


WORKER = """
import os, sys, time
from pathlib import Path
from scripts.gpu.journal import Journal
journal = Journal(Path(sys.argv[1]))
for name in sys.argv[2:]:
    if name == "missing":
        sys.exit("no such module")
    journal.begin(name, time.time())
    if name == "dies":
        print("its last words", flush=True)
        os._exit(9)
    if name == "hangs":
        time.sleep(100)
    journal.end(name, "passed", 0.1)
"""


def supervised(folder: Path, names: list[str], seconds: float = 60.0) -> dict[str, dict]:
    journal, log = Journal(folder / "journal.jsonl"), folder / "log.txt"

    def start(waiting):
        command = [sys.executable, "-c", WORKER, journal.path, *waiting]
        with log.open("ab") as file:
            return subprocess.Popen(command, stdout=file, stderr=file)

    entries = [Entry(name, name, "", 1.0, 2.0) for name in names]
    Supervisor(start, journal, log, time.time() + seconds, lambda: None).run(entries)
    return journal.read().results


def test_an_entry_that_takes_its_process_down_leaves_the_others(tmp_path):
    results = supervised(tmp_path, ["first", "dies", "last"])
    assert [results[name]["status"] for name in ("first", "dies", "last")] == [PASSED, FAILED, PASSED]
    assert "code 9" in results["dies"]["error"]
    assert "its last words" in results["dies"]["error"]


def test_an_entry_that_hangs_is_ended(tmp_path):
    results = supervised(tmp_path, ["hangs", "last"])
    assert (results["hangs"]["status"], results["last"]["status"]) == (FAILED, PASSED)
    assert "no answer within 2 s" in results["hangs"]["error"]


def test_what_there_is_no_time_for_is_left_out(tmp_path):
    results = supervised(tmp_path, ["hangs", "last"], seconds=1.0)
    assert {result["status"] for result in results.values()} == {LEFT_OUT}


def test_a_worker_that_cannot_begin_is_started_once(tmp_path):
    results = supervised(tmp_path, ["missing", "last"])
    assert results["missing"]["status"] == FAILED
    assert "no such module" in results["missing"]["error"]
    assert results["last"]["status"] == LEFT_OUT
