"""A run of images at a glance: its contact sheet and its index.html; and how all pages are written."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template

from lab.files import atomic
from lab.runs.png import record_beside
from lab.runs.run import RunFolder
from lab.runs.sheet import SheetGroup, write_sheets
from lab.text import counted


def template(package: str, name: str) -> Template:
    """The template of that name in a package's `templates` folder; it may extend `base.html` of `lab.runs`."""
    loader = ChoiceLoader([PackageLoader(package), PackageLoader("lab.runs")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {}  # else records would lose their order
    return environment.get_template(name)


def write_page(path: Path, name: str, package: str = "lab.runs", **values: Any) -> None:
    """Renders a template of a package into a file. Pictures stay beside it as files.

    Raises:
        InputError: the folder cannot be written.
    """
    html = template(package, name).render(**values)
    with atomic(path) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace")  # names that are not UTF-8


Record = Mapping[str, Any]

ALT = 200
"""Characters of a prompt in an image's alternative text."""


@dataclass(frozen=True)
class _Section:
    """Images under a heading, by their places, and what tells one from the other in a few words."""

    heading: str
    members: list[tuple[int, str]]


def write_overview(folder: RunFolder, images: Mapping[int, Path], animations: Sequence[Path] = ()) -> None:
    """Writes contact-sheet.png (and -2, -3, ...) and index.html for a run of `lab generate`.

    Args:
        images: By their index, the files that the run has written in its folder, with their records beside them.
        animations: Of these images, files in its folder too, which the page shows above them.

    Raises:
        InputError: the folder cannot be written.
    """
    files = [images[index] for index in sorted(images)]
    records = [record_beside(file) for file in files]
    shared = shared_values(records)
    groups = [
        SheetGroup(section.heading, [(files[place], label) for place, label in section.members])
        for section in _sections(records, shared)
    ]
    write_sheets(folder.path / "contact-sheet.png", groups, "\n".join(summary(shared)))
    write_index(folder, images, "generate", animations=animations)


def write_index(
    folder: RunFolder,
    images: Mapping[int, Path],
    command: str,
    variants: Mapping[int, str] | None = None,
    link: tuple[str, str] | None = None,
    animations: Sequence[Path] = (),
) -> None:
    """Writes index.html: all images of a run, what made each on a click, to be filtered by words.

    Args:
        images: By their index, files inside of the run's folder with their records beside them.
        command: What `lab` is told to make the run again.
        variants: By the same index, what an image is a variant of.
        link: Another page of the run, beside this one, and what it is called.
        animations: Files in the run's folder that are shown above the images.

    Raises:
        InputError: the folder cannot be written.
    """
    indices = sorted(images)
    files = [images[index] for index in indices]
    records = [record_beside(file) for file in files]
    pairs = [
        (file.relative_to(folder.path).as_posix(), record)
        for file, record in zip(files, records, strict=True)
    ]
    shared = shared_values(records)
    sections = _sections(records, shared, [variants[index] for index in indices] if variants else None)
    labels = {place: label for section in sections for place, label in section.members}
    write_page(
        folder.path / "index.html",
        "images.html",
        title=folder.path.name or str(folder.path),
        about=summary(shared),
        link=link,
        animations=[file.name for file in animations],
        images=[_shown(file, record, labels[place]) for place, (file, record) in enumerate(pairs)],
        groups=[(section.heading, [place for place, _ in section.members]) for section in sections],
        viewed={"shared": shared, "images": [_own(file, record, shared) for file, record in pairs]},
        commands=[
            shlex.join(["lab", command, "--config", str(folder.config), "--out", f"{folder.path}-again"]),
            shlex.join(["lab", "rerun", str(files[0])]),
        ],
        config=folder.config.read_text(encoding="utf-8"),
    )


def shared_values(records: Sequence[Record]) -> dict[str, Any]:
    """What is the same in all records."""
    first, *others = records
    return {key: value for key, value in first.items() if all(key in r and r[key] == value for r in others)}


def summary(record: Record) -> list[str]:
    """Lines for people: prompt, negative prompt and the settings that matter, as far as the record has them."""
    lines = [record["prompt"]] if record.get("prompt") else []
    if record.get("negative_prompt"):
        lines.append(f"Negative prompt: {record['negative_prompt']}")
    shown = {**record, "steps": counted(record["steps"], "step")} if record.get("steps") else record
    forms = {
        "seed": "seed {seed}",
        "steps": "{steps}",
        "guidance": "guidance {guidance:g}",
        "scheduler": "{scheduler}",
        "strength": "strength {strength:g}",
        "width": "{width} x {height} pixels",
        "model": "model {model}",
    }
    lines.append(
        ", ".join(form.format(**shown) for key, form in forms.items() if record.get(key) is not None)
    )
    return [line for line in lines if line]


def _sections(
    records: Sequence[Record], shared: Record, variants: Sequence[str] | None = None
) -> list[_Section]:
    """The seeds of a prompt under it; where all images have one prompt or one seed, one section without a heading.

    With variants, each prompt has its section, in which images that share a seed stand side by side.
    """
    if variants is not None:
        order = sorted(range(len(records)), key=lambda place: records[place]["seed"])
        together: dict[str, list[tuple[int, str]]] = {}
        for place in order:
            label = f"{variants[place]}, seed {records[place]['seed']}"
            together.setdefault(records[place]["prompt"], []).append((place, label))
        return [_Section(prompt, members) for prompt, members in together.items()]
    if "prompt" in shared:
        return [_Section("", [(place, f"seed {record['seed']}") for place, record in enumerate(records)])]
    if "seed" in shared:
        return [_Section("", [(place, record["prompt"]) for place, record in enumerate(records)])]
    by_prompt: dict[str, list[tuple[int, str]]] = {}
    for place, record in enumerate(records):
        by_prompt.setdefault(record["prompt"], []).append((place, f"seed {record['seed']}"))
    return [_Section(prompt, members) for prompt, members in by_prompt.items()]


def _shown(file: str, record: Record, caption: str) -> dict[str, Any]:
    """What the page shows of an image before anyone clicks on it."""
    prompt = record["prompt"] if len(record["prompt"]) <= ALT else f"{record['prompt'][:ALT]}…"
    size = record["width"], record["height"]
    return {"file": file, "alt": f"{prompt}, seed {record['seed']}", "caption": caption, "size": size}


def _own(file: str, record: Record, shared: Record) -> dict[str, Any]:
    """An image's file, and what of its record others do not share."""
    return {"file": file, "own": {key: value for key, value in record.items() if key not in shared}}
