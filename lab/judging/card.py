"""The card of a judged embedding: what was found, in numbers and in words, as plain JSON values to ship beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lab.comparing.effects import number
from lab.comparing.experiment import Variant
from lab.comparing.statistics import CONFIDENCE, Array, measure
from lab.embeddings.embedding import Embedding
from lab.judging.config import JudgeConfig, Side
from lab.judging.looks import NOTHING_FROM, Look, take_look
from lab.judging.trial import CURVE_PROMPTS, Trial, Tried
from lab.runs.png import record_beside
from lab.score.metrics import METRICS

PAIRS = 8
"""Pairs that a card shows: at equal distances from the prompt that changes most for the worse to the other end."""

METHOD = (
    "Differences are means over prompts, of images with the same noise. The intervals of effects hold the effect in "
    f"{CONFIDENCE:.0%} of experiments at whatever moment one looks (Student's t, mixed over effects: 2310.03722); each "
    "stands for its row alone. Those of strengths are for a number of prompts that was fixed before (Student's t, "
    "mended for skewness)."
)

Card = dict[str, Any]


def findings(trial: Trial, one: Tried, files: Mapping[int, Path], config: JudgeConfig) -> Card:
    """What was found of an embedding on one model.

    Args:
        files: The images, by the index of their cell.
    """
    question, look = next(iter(one.against)), trial.looks[one.embedding.name][-1]
    name = trial.metrics[0]
    effects = [_effect(trial, one, metric, against) for against in one.against for metric in trial.metrics]
    return {
        "model": trial.bundle.source,
        "model_hash": trial.bundle.hash,
        "verdict": {
            "answer": look.answer(METRICS[name].better, config.smallest),
            "metric": name,
            "against": question,
            "difference": look.difference,
            "low": look.low,
            "high": look.high,
            "smallest": config.smallest,
            "prompts": look.prompts,
            "pairs": look.prompts * len(trial.experiment.seeds),
            "prompts_there_are": len(trial.experiment.prompts),
        },
        "looks": [
            {"prompts": each.prompts, "difference": each.difference, "low": each.low, "high": each.high}
            for each in trial.looks[one.embedding.name]
        ],
        "effects": effects,
        "strengths": _strengths(trial, one),
        "pairs": _pairs(trial, one, files),
        "settings": _settings(trial, files),
    }


def _effect(trial: Trial, one: Tried, metric: str, against: str) -> Card:
    differences = trial.differences(metric, one.own, one.against[against], trial.used)
    look = take_look(differences)
    wins = measure(differences).win_rate
    return {
        "against": against,
        "metric": metric,
        "difference": look.difference,
        "low": look.low,
        "high": look.high,
        "win_rate": 1 - wins if METRICS[metric].better < 0 else wins,
        "n": differences.size,
    }


def _strengths(trial: Trial, one: Tried) -> Card | None:
    """The effect of every weight, the best by the first metric, and the smallest at which one is surely worse."""
    if not one.strengths:
        return None
    base, prompts, first = next(iter(one.against.values())), min(CURVE_PROMPTS, trial.used), trial.metrics[0]

    def row(weight: float, metric: str, other: Variant) -> Card:
        effect = measure(trial.differences(metric, one.strengths[weight], other, prompts))
        numbers = {"difference": effect.difference, "low": effect.low, "high": effect.high}
        return {"weight": weight, "metric": metric, **numbers}

    rows = [row(weight, metric, base) for weight in one.strengths for metric in trial.metrics]
    better = METRICS[first].better
    of_first = [each for each in rows if each["metric"] == first]
    best = max(of_first, key=lambda each: better * each["difference"])["weight"] if better else None
    harms = [each for each in rows if each["weight"] and _surely(each, -METRICS[each["metric"]].better)]
    harm = min(harms, key=lambda each: each["weight"]) if harms else None
    return {
        "prompts": prompts,
        "best": best,
        "surely_better_than_1": best is not None and _surely(row(best, first, one.own), better),
        "harm_from": harm and harm["weight"],
        "harm_metric": harm and harm["metric"],
        "rows": rows,
    }


def _surely(row: Card, sign: int) -> bool:
    """Whether the whole interval lies on one side of zero."""
    return row["low"] is not None and min(row["low"] * sign, row["high"] * sign) > 0


def _pairs(trial: Trial, one: Tried, files: Mapping[int, Path]) -> list[Card]:
    base, experiment = next(iter(one.against.values())), trial.experiment
    better = METRICS[trial.metrics[0]].better or 1
    means = trial.question(one).mean(axis=1) * better
    order = np.argsort(means, kind="stable")
    places = np.linspace(0, len(order) - 1, min(PAIRS, len(order))).round().astype(int)
    return [
        {
            "prompt": experiment.prompts[prompt],
            "seed": experiment.seeds[0],
            "difference": float(means[prompt] * better),
            "without": files[experiment.cell(base, prompt, 0).picture].name,
            "with": files[experiment.cell(one.own, prompt, 0).picture].name,
        }
        for prompt in order[places].tolist()
    ]


_SHOWN = (
    "steps",
    "guidance",
    "guidance_rescale",
    "guidance_interval",
    "negative_method",
    "negative_strength",
    "negative_interval",
    "scheduler",
    "width",
    "height",
    "dialect",
    "weighting",
    "clip_skip",
)


def _settings(trial: Trial, files: Mapping[int, Path]) -> Card:
    record = record_beside(files[trial.experiment.cells[0].picture])
    shown = {name: record[name] for name in _SHOWN if record.get(name) is not None}
    about = {"device": record["device"], "precision": record["dtype"], "versions": record["versions"]}
    asked = {"seeds": trial.experiment.config.seeds, "prompts": trial.experiment.prompts[: trial.used]}
    return shown | about | asked


def make_card(
    embedding: Embedding, side: Side, found: Sequence[Card], travel: Sequence[Card], ranking: Card | None
) -> Card:
    """The card as NAME.card.json holds it.

    Args:
        found: What was found on each model.
        travel: Of each model but the first, how its effect differs from the first's.
        ranking: Where the embedding stands among others.
    """
    file = embedding.provenance
    card = {
        "card": "lab 1",
        "name": embedding.name,
        "file": {
            "name": file.path.name if file.path else None,
            "sha256": file.sha256,
            "kind": embedding.kind,
            "vectors": embedding.count,
            "widths": embedding.widths,
            "base_model": file.base_model,
        },
        "side": side,
        "sentences": [],
        "verdict": found[0]["verdict"],
        "effects": found[0]["effects"],
        "models": list(found),
        "travel": list(travel),
        "ranking": ranking,
        "method": METHOD,
    }
    return card | {"sentences": sentences(card)}


def travelled(sources: Sequence[str], differences: Sequence[Array]) -> list[Card]:
    """How the effect differs between the first model and the others, over the prompts that all were asked for."""
    rows = []
    for source, of_model in zip(sources[1:], differences[1:], strict=True):
        common = min(len(of_model), len(differences[0]))
        look = take_look(of_model[:common] - differences[0][:common])
        answer = look.answer(0, 0)
        differs = answer in ("raises", "lowers")
        rows.append({"model": source, "than": sources[0], "differs": differs, **_numbers(look)})
    return rows


def _numbers(look: Look) -> Card:
    return {"difference": look.difference, "low": look.low, "high": look.high, "prompts": look.prompts}


def sentences(card: Card) -> list[str]:
    """A card in words: the verdict on each model first."""
    lines = [_verdict(card["name"], found["model"], found["verdict"]) for found in card["models"]]
    first = card["models"][0]
    question = first["verdict"]
    for effect in first["effects"]:
        if (effect["against"], effect["metric"]) != (question["against"], question["metric"]):
            line = _clear(effect)
            lines += [line] if line else []
    lines += [_strength(first["strengths"])] if first["strengths"] else []
    for row in card["travel"]:
        told = "differs" if row["differs"] else "does not surely differ"
        by = f"{number(row['difference'])}{_between(row)}"
        lines.append(f"On {row['model']} the effect {told} from that on {row['than']}: by {by}.")
    if card["ranking"]:
        tied = ", ".join(f"<{name}>" for name in card["ranking"]["tied_with"])
        lines.append(
            f"Rank {card['ranking']['rank']} of {card['ranking']['of']}"
            + (f", tied with {tied}." if tied else ".")
        )
    return lines


def _verdict(name: str, model: str, verdict: Card) -> str:
    label, answer = METRICS[verdict["metric"]].label, verdict["answer"]
    size = f"{number(abs(verdict['difference']), signed=False)}{_between(verdict, absolute=True)}"
    signed = f"{number(verdict['difference'])}{_between(verdict)}"
    after = f"after {verdict['prompts']} of {verdict['prompts_there_are']} prompts ({verdict['pairs']} pairs)"
    way = "higher" if verdict["difference"] > 0 else "lower"
    if answer == "undecided":
        return (
            f"<{name}> is undecided on {model} {after}: {label} differs by {signed} from that with "
            f"{verdict['against']}{_not_yet(verdict)}."
        )
    if answer == "makes no difference that matters":
        return (
            f"<{name}> {answer} on {model}: {label} differs by {signed} from that with {verdict['against']}, "
            f"less than {verdict['smallest']:g}, {after}."
        )
    verb = f" {answer} on {model}" if answer in ("helps", "harms") else f" acts on {model}"
    return f"<{name}>{verb}: {label} is {way} by {size} than with {verdict['against']}, {after}."


def _not_yet(verdict: Card) -> str:
    """Why an effect is not called too small to matter although the interval says so."""
    if verdict["low"] is None or max(-verdict["low"], verdict["high"]) >= verdict["smallest"]:
        return ""
    return f", less than {verdict['smallest']:g}, which is sure from {NOTHING_FROM} prompts on"


def _clear(effect: Card) -> str | None:
    if effect["low"] is None or effect["low"] <= 0 <= effect["high"]:
        return None
    verb = "raises" if effect["difference"] > 0 else "lowers"
    size = f"{number(abs(effect['difference']), signed=False)}{_between(effect, absolute=True)}"
    better = METRICS[effect["metric"]].better * effect["difference"]
    judged = " (better)" if better > 0 else " (worse)" if better < 0 else ""
    return f"Against {effect['against']} it {verb} {METRICS[effect['metric']].label} by {size}{judged}."


def _strength(strengths: Card) -> str:
    best = "Of the weights" if strengths["best"] is None else f"Best at weight {strengths['best']:g}"
    if strengths["best"] not in (None, 1):
        best += (
            " (surely better than 1)" if strengths["surely_better_than_1"] else " (not surely better than 1)"
        )
    if strengths["harm_from"] is None:
        return (
            f"{best}; at none that was tried does anything get surely worse ({strengths['prompts']} prompts)."
        )
    label, weight = METRICS[strengths["harm_metric"]].label, strengths["harm_from"]
    return f"{best}; from weight {weight:g} on {label} is surely worse ({strengths['prompts']} prompts)."


def _between(row: Card, absolute: bool = False) -> str:
    if row["low"] is None:
        return " (no interval yet)"
    ends = sorted(abs(end) if absolute else end for end in (row["low"], row["high"]))
    return f" [{', '.join(number(end, signed=False) for end in ends)}]"
