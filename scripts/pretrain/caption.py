"""Scenes into captions, varied as people vary them."""

from __future__ import annotations

import random

from scripts.pretrain.degrade import DEGRADATIONS
from scripts.pretrain.scene import Scene


def with_article(name: str) -> str:
    """ "red apple" -> "a red apple", "octopus" -> "an octopus", "grapes" -> "grapes"."""
    plural = name.endswith("s") and not name.endswith(("ss", "us", "is"))
    if plural:
        return name
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _name(name: str, words: dict[str, dict[str, float]], order: random.Random) -> str:
    """An object's name; one time in four another word for it, drawn by weight."""
    others = words.get(name)
    if not others or order.random() > 0.25:
        return name
    return order.choices(list(others), list(others.values()))[0]


def _subject(scene: Scene, words: dict[str, dict[str, float]], order: random.Random) -> str:
    """The objects by name, with an article three times in four."""
    article = order.random() < 0.75
    names = [_name(o.name, words, order) for o in scene.objects]
    if scene.words == "small" and order.random() < 0.5:
        names[0] = f"small {names[0]}"
    names = [with_article(n) if article else n for n in names]
    if len(names) == 1:
        return names[0]
    return order.choice([f"{names[0]} next to {names[1]}", f"{names[0]} and {names[1]}"])


def _head(scene: Scene, words: dict[str, dict[str, float]], order: random.Random) -> str:
    """Style and subject; one caption in seven keeps silent about the style."""
    subject, style = _subject(scene, words, order), scene.style
    if order.random() < 1 / 7:
        return order.choice([subject, f"an emoji of {subject}", f"a picture of {subject}"])
    return order.choice(
        [
            f"{style} emoji of {subject}",
            f"a {style} emoji of {subject}",
            f"{subject}, {style} style",
            f"{subject} in {style} style",
        ]
    )


def _background(scene: Scene, order: random.Random) -> str:
    """Colours are nearly always named, white less than half of the time."""
    if order.random() > (0.4 if scene.background == "white" else 0.95):
        return ""
    return order.choice([f" on a {scene.background} background", f", {scene.background} background"])


def quality_words(degradation: str, order: random.Random) -> str:
    """The degradation by its word, at times in a list with others, as negative prompts write it."""
    words = [degradation]
    if order.random() < 0.4:
        rest = [d for d in DEGRADATIONS if d != degradation]
        words += order.sample(rest, order.randint(1, len(rest)))
        order.shuffle(words)
    if order.random() < 0.5:
        words.append("low quality")
    return ", ".join(words)


def caption(scene: Scene, words: dict[str, dict[str, float]], order: random.Random) -> str:
    """One caption of a scene; `words` are other words for objects, with weights: they stand in for a name or follow."""
    bad = quality_words(scene.degradation, order) if scene.said else ""
    if bad and order.random() < 0.2:
        return bad
    text = _head(scene, words, order)
    others = words.get(scene.objects[0].name)
    if others and len(scene.objects) == 1 and order.random() < 0.15:
        text += f", {order.choices(list(others), list(others.values()))[0]}"
    if scene.words and scene.words != "next to" and order.random() < 0.9:
        text += f", {scene.words}"
    text += _background(scene, order)
    if not bad:
        return text
    return f"{text}, {bad}" if order.random() < 0.7 else f"{bad}, {text}"
