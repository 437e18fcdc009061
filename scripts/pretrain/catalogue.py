"""Which icons there are, what they are called, and which of them no training ever sees.

Reads the unpacked npm packages; chooses objects by emojibase's groups; splits them deterministically.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STYLES = {"noto": "noto", "fluent": "fluent-emoji-flat", "twemoji": "twemoji"}
HELD_OUT_STYLE = {"emojione": "emojione"}


@dataclass(frozen=True)
class Thing:
    """One object: its name in captions, up to four tags, and its icon name in each set that draws it."""

    name: str
    tags: tuple[str, ...]
    icons: dict[str, str]


@dataclass(frozen=True)
class Split:
    """Names of the objects to learn, of those never seen in any style, and (object, style) pairs never seen."""

    train: tuple[str, ...]
    objects: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


def read_icons(folder: Path) -> dict[str, Any]:
    """The iconify collection in an unpacked package: icons (name -> body), aliases, width, height."""
    return json.loads((folder / "icons.json").read_text())


def _icon_names(packages: Path) -> tuple[dict[str, dict[str, str]], set[str]]:
    """For each training style, code point -> icon name; and the icon names of the held-out style."""
    by_code = {s: json.loads((packages / p / "chars.json").read_text()) for s, p in STYLES.items()}
    return by_code, set(read_icons(packages / HELD_OUT_STYLE["emojione"])["icons"])


def things(packages: Path, config: dict[str, Any]) -> list[Thing]:
    """Every object that all training styles draw, of the wanted groups, with a short enough name.

    Names are emojibase's labels in lower case. Look-alikes named in `config["without"]` are left out.
    """
    by_code, emojione = _icon_names(packages)
    without = re.compile(config["without"])
    found = []
    for entry in json.loads((packages / "emojibase-data" / "en" / "data.json").read_text()):
        name = entry["label"].lower()
        code = entry["hexcode"].lower().replace("-fe0f", "")
        wanted = entry.get("group") in config["groups"] or name in config["faces"]
        if not wanted or len(name.split()) > config["max_words"] or without.search(name):
            continue
        if not re.fullmatch(r"[a-z0-9 -]+", name) or any(code not in names for names in by_code.values()):
            continue
        icons = {style: names[code] for style, names in by_code.items()}
        if icons["noto"] in emojione:
            icons["emojione"] = icons["noto"]
        tags = [t for t in entry.get("tags", []) if t not in name and re.fullmatch(r"[a-z ]+", t)]
        found.append(Thing(name, tuple(tags[:4]), icons))
    return found


def split(all_things: list[Thing], config: dict[str, Any]) -> Split:
    """A seeded choice: objects to learn, objects held out (drawn in the held-out style too), pairs held out."""
    order = random.Random(config["seed"])
    shuffled = order.sample(all_things, len(all_things))
    held = [t for t in shuffled if "emojione" in t.icons][: config["held_out_objects"]]
    rest = [t for t in shuffled if t not in held][: config["objects"]]
    if len(rest) < config["objects"]:
        raise SystemExit(f"only {len(rest)} objects left to learn, {config['objects']} wanted")
    styles = list(STYLES)
    pairs = [(t.name, order.choice(styles)) for t in order.sample(rest, config["held_out_pairs"])]
    return Split(tuple(t.name for t in rest), tuple(t.name for t in held), tuple(pairs))
