"""The report: every figure as JSON, and a Markdown page for people."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.gpu.entries import Entry
from scripts.gpu.journal import State


def write_report(folder: Path, state: State, entries: Sequence[Entry], seconds: float) -> None:
    """Writes `results.json` and `report.md`, whole, from what is known so far."""
    whole = {"environment": state.environment, "seconds": round(seconds, 1), "results": state.results}
    (folder / "results.json").write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", "utf-8")
    (folder / "report.md").write_text(markdown(state, entries, seconds), "utf-8")


def markdown(state: State, entries: Sequence[Entry], seconds: float) -> str:
    """The page: where it ran, one line an entry, then every figure."""
    lines = ["# What a GPU says", "", _where(state.environment), "", f"{seconds:.0f} s in all.", ""]
    lines += ["| check | result | seconds | what was wanted |", "| --- | --- | ---: | --- |"]
    done = [(entry, state.results[entry.name]) for entry in entries if entry.name in state.results]
    for entry, result in done:
        lines.append(
            f"| {entry.what} (`{entry.name}`) | {_status(result)} | {result['seconds']:.1f} | {_goals(result)} |"
        )
    for entry, result in done:
        if result["figures"] or result["error"]:
            lines += ["", f"## {entry.name}", ""]
        if result["figures"]:
            lines += ["| figure | value |", "| --- | ---: |"]
            lines += [f"| {name} | {value} |" for name, value in result["figures"].items()]
        if result["error"]:
            lines += ["", "```", result["error"], "```"]
    return "\n".join(lines) + "\n"


def line(entry: Entry, result: dict[str, Any]) -> str:
    """A finished entry in a line, for a terminal."""
    error = result["error"].splitlines()
    why = f": {error[-1]}" if error else ""
    return f"{entry.name:15} {_status(result):18} {result['seconds']:6.1f} s  {_goals(result)}{why}"


def _status(result: dict[str, Any]) -> str:
    missed = any(not goal["met"] for goal in result["goals"] if not goal["must"])
    return f"{result['status']}, goal missed" if missed and result["status"] == "passed" else result["status"]


def _goals(result: dict[str, Any]) -> str:
    return "; ".join(
        f"{goal['name']} {result['figures'][goal['name']]} ({goal['wanted']}{'' if goal['met'] else ', missed'})"
        for goal in result["goals"]
    )


def _where(environment: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in environment.get("versions", {}).items())
    place = environment.get("card", environment.get("machine", "no worker came up"))
    more = [
        f"{key} {environment[key]}"
        for key in ("memory_gib", "driver", "cuda", "cudnn", "tf32", "python")
        if key in environment
    ]
    tiny = "Tiny shapes: figures say nothing of speed. " if environment.get("tiny") else ""
    return f"{tiny}{'; '.join([place, *more, versions])}."
