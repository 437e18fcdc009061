"""What the lab does on a GPU and how fast, by one command: correctness, speed against diffusers, a report.

    python -m scripts.gpu_check [--minutes 6] [--out outputs/gpu-check] [--only NAME ...] [--skip NAME ...]
    python -m scripts.gpu_check --device cpu --tiny      # the same code with tiny shapes, on any machine

It fetches nothing. Correctness is checked on the bundled model; speed is measured on random weights of the true
shapes of SD 1.5 (512 px) and SDXL (1024 px), which are made on the device, with both sides warm in one process; SDXL
takes about 50 GiB of GPU memory. Entries run in the order of their worth (`--list`) in a process of their own: one that
fails, hangs or takes its process down is told as failed, and the others have their turn. What there is no time for is
left out. After each entry `results.json` (every figure, the card, versions, driver), `report.md` and `log.txt` in
`--out` are up to date. The exit code is 1 where a check failed; a speed that is not what was wanted is told, and no
failure.

Beside PyTorch the lab's own dependencies are needed. On a machine that has PyTorch, transformers, accelerate, peft,
safetensors, numpy, scipy, pillow, matplotlib, jinja2, pyyaml, rich and psutil but no package index, these are to be
brought along as wheels: diffusers, pydantic, pydantic-core, annotated-types, typing-inspection and typing-extensions.
The lab also looks up its own version: `pip install --no-deps -e .`, or a wheel of its metadata, lets it.
`--compile` needs a C++ compiler.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scripts.gpu.entries import ENTRIES
from scripts.gpu.journal import FAILED, Journal
from scripts.gpu.report import line, write_report
from scripts.gpu.supervise import Supervisor

SPARE = 4.0
"""Seconds kept back for the last report."""

TINY_PATIENCE = 10
"""How many times an entry's limit it may take on a CPU, which may be a busy one."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu-check"))
    parser.add_argument(
        "--minutes", type=float, default=6.0, help="after which nothing new begins and all ends"
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes and few steps")
    parser.add_argument("--only", nargs="+", choices=ENTRIES, default=list(ENTRIES), metavar="NAME")
    parser.add_argument("--skip", nargs="+", choices=ENTRIES, default=[], metavar="NAME")
    parser.add_argument(
        "--list", action="store_true", help="what there is, in order, and the seconds it takes"
    )
    arguments = parser.parse_args()
    if arguments.list:
        for entry in ENTRIES.values():
            print(f"{entry.name:15} {entry.expected:4.0f} s  {entry.what}")
        return
    began = time.time()
    names = [name for name in ENTRIES if name in arguments.only and name not in arguments.skip]
    sys.exit(run(arguments, names, began))


def run(arguments: argparse.Namespace, names: Sequence[str], began: float) -> int:
    """Runs the entries and keeps the report; returns the exit code."""
    patience = TINY_PATIENCE if arguments.tiny else 1
    entries = [replace(ENTRIES[name], limit=patience * ENTRIES[name].limit) for name in names]
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    journal, log = Journal(out / "journal.jsonl"), out / "log.txt"
    for path in (journal.path, log):
        path.unlink(missing_ok=True)
    until = began + 60 * arguments.minutes - SPARE
    shown: set[str] = set()

    def start(waiting: Sequence[str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "scripts.gpu.work", "--out", str(out), "--device", arguments.device]
        command += [*(["--tiny"] if arguments.tiny else []), "--until", str(until), "--names", *waiting]
        with log.open("ab") as file:
            return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def told() -> None:
        state = journal.read()
        write_report(out, state, entries, time.time() - began)
        for entry in entries:
            if entry.name in state.results and entry.name not in shown:
                shown.add(entry.name)
                print(line(entry, state.results[entry.name]), flush=True)

    Supervisor(start, journal, log, until, told).run(entries)
    failed = [name for name, result in journal.read().results.items() if result["status"] == FAILED]
    print(f"{len(entries) - len(failed)} of {len(entries)} without failure; see {out / 'report.md'}")
    return 1 if failed else 0


if __name__ == "__main__":
    main()
