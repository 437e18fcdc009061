"""Mutates each kind of file that the lab reads, and tells what is met with anything but an InputError of one line.

    python -m scripts.fuzz                      # 300 cases of each kind
    python -m scripts.fuzz --kind run --cases 40 --seed 7
    python -m scripts.fuzz --kind run --case 12 # one case, with its traceback

Small random models are made for it; nothing is downloaded. A case is right if the lab does as asked, or refuses in one
line. It is wrong if another error comes, a library's warning, or nothing for 30 seconds.
"""

import argparse
import contextlib
import random
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from lab.errors import InputError
from scripts.fuzz_kinds import Kind, kinds_around
from scripts.fuzz_mutations import mutate

LONGEST = 30
"""Seconds after which a case counts as hanging."""


def cases(kind: Kind, seed: object, count: int, only: int | None = None) -> Iterator[tuple[int, str, str]]:
    """Yields the number, the mutated file and the fault of each case that is met wrongly."""
    with tempfile.TemporaryDirectory() as place:
        sound = Path(place, "sound")
        sound.mkdir()
        kind.prepare(sound)
        files = sorted({path for pattern in kind.files for path in sound.glob(pattern) if path.is_file()})
        for number in range(count) if only is None else [only]:
            chance = random.Random(f"{seed} {number}")
            folder = Path(place, "case")
            shutil.copytree(sound, folder, dirs_exist_ok=True)
            file = folder / chance.choice(files).relative_to(sound)
            file.write_bytes(mutate(file.read_bytes(), file.suffix, chance))
            fault = _fault(lambda: kind.use(folder), show=only is not None)  # noqa: B023
            if fault:
                yield number, str(file.relative_to(folder)), fault
            shutil.rmtree(folder)


def _fault(use: Callable[[], Any], show: bool) -> str:
    """What is wrong with how a case was met, or ""."""
    try:
        with warnings.catch_warnings(record=True) as warned, _in_time():
            warnings.simplefilter("always")
            use()
    except InputError as error:
        if show:
            print(error)
        return f"more than a line: {str(error)[:200]}" if "\n" in str(error) else ""
    except (Exception, _TooLong) as error:
        if show:
            traceback.print_exc()
        inside = [frame for frame in traceback.extract_tb(error.__traceback__) if "/lab/" in frame.filename]
        where = f"{Path(inside[-1].filename).name}:{inside[-1].lineno} " if inside else ""
        return f"{where}{type(error).__name__}: {str(error)[:150]}"
    loud = [
        one
        for one in warned
        if not issubclass(one.category, (DeprecationWarning, FutureWarning, ResourceWarning))
    ]
    return f"{loud[0].category.__name__}: {str(loud[0].message)[:150]}" if loud else ""


class _TooLong(BaseException):
    """No error that the lab could take for one of a file's and tell in a line."""


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _TooLong(f"more than {LONGEST} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", action="append")
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--case", type=int)
    parser.add_argument("--seed", default="0")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = 0
    with tempfile.TemporaryDirectory() as home:
        table = kinds_around(Path(home))
        if unknown := set(asked.kind or ()) - set(table):
            parser.error(f"--kind {unknown.pop()}: there are {', '.join(table)}")
        for name in asked.kind or table:
            faults = list(cases(table[name], f"{asked.seed} {name}", asked.cases, asked.case))
            print(
                f"{name}: {1 if asked.case is not None else asked.cases} cases, {len(faults)} faults",
                flush=True,
            )
            for number, file, fault in faults:
                print(f"  case {number}, {file}: {fault}", flush=True)
            found += len(faults)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
