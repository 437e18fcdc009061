"""Which icons there are, what they are called, and which of them no training ever sees.

Reads the unpacked npm packages and chooses the objects that people ask for first: those with the commonest names.
Once chosen, the split stands in held_out.json, so that nothing shifts when word lists do.
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
    """One object: its name in captions, its emoji, and its icon name in each set that draws it."""

    name: str
    emoji: str
    code: str
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


def everything(packages: Path, renamed: dict[str, str]) -> list[tuple[Thing, int | None]]:
    """Every emoji that all training styles draw, with its group in emojibase; names are labels in lower case."""
    by_code = {s: json.loads((packages / p / "chars.json").read_text()) for s, p in STYLES.items()}
    emojione = set(read_icons(packages / HELD_OUT_STYLE["emojione"])["icons"])
    found = []
    for entry in json.loads((packages / "emojibase-data" / "en" / "data.json").read_text()):
        label, code = entry["label"].lower(), entry["hexcode"].lower().replace("-fe0f", "")
        if all(code in names for names in by_code.values()):
            icons = {style: names[code] for style, names in by_code.items()}
            if icons["noto"] in emojione:
                icons["emojione"] = icons["noto"]
            found.append(
                (
                    Thing(renamed.get(label, label), entry["emoji"], entry["hexcode"], icons),
                    entry.get("group"),
                )
            )
    return found


def things(packages: Path, config: dict[str, Any]) -> list[Thing]:
    """The emoji that an image can be asked for: those of the wanted groups, with a short name, and those in `also`.

    Look-alikes named in `config["without"]` are left out.
    """
    also, without = set(config["also"].values()), re.compile(config["without"])
    return [
        thing
        for thing, group in everything(packages, config["also"])
        if thing.name in also
        or (
            group in config["groups"]
            and len(thing.name.split()) <= config["max_words"]
            and re.fullmatch(r"[a-z0-9 -]+", thing.name)
            and not without.search(thing.name)
        )
    ]


def split(ranked: list[Thing], config: dict[str, Any], held: tuple[str, ...]) -> Split:
    """The first objects of `ranked` to learn but for those `held` out, and a seeded choice of pairs held out too."""
    rest = [t.name for t in ranked if t.name not in held][: config["objects"]]
    if len(rest) < config["objects"]:
        raise SystemExit(f"only {len(rest)} objects left to learn, {config['objects']} wanted")
    order = random.Random(config["seed"])
    pairs = [(name, order.choice(list(STYLES))) for name in order.sample(rest, config["held_out_pairs"])]
    return Split(tuple(rest), held, tuple(pairs))
