"""`lab.judge`: whether embeddings help, how much and how sure that is, stopped as soon as that is known."""

import json
import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from accelerate import PartialState

from lab.comparing.statistics import Array
from lab.embeddings.embedding import NEGATIVE_SUFFIX, Embedding
from lab.embeddings.facts import check_fits
from lab.embeddings.library import collect
from lab.errors import InputError
from lab.files import atomic, portable_name
from lab.judging.card import Card, findings, make_card, travelled
from lab.judging.config import CARD, JudgeConfig, Side, choose_prompts, side_of
from lab.judging.looks import ranks
from lab.judging.page import write_card_page
from lab.judging.trial import Trial, rivals
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.config import LoadingOptions, ModelOptions
from lab.models.facts import ModelFacts
from lab.models.load import load_options
from lab.models.source import ASSETS
from lab.runs.pages import write_index
from lab.runs.run import RunFolder, run_digest
from lab.sample.record import BY_CONTENT
from lab.score.config import ScoreOptions
from lab.score.metrics import METRICS

File = str | PathLike[str] | Embedding

FREE = frozenset({*ScoreOptions.model_fields, "smallest", "block", "file"}) | BY_CONTENT
"""The options that change no image, or whose effect the digests of what a run is made of cover."""


def judge(
    bundle: Bundle | Sequence[Bundle | str],
    file: File | Sequence[File] | None = None,
    config: JudgeConfig | None = None,
    *,
    listener: Listener = Listener(),
    **settings: Any,
) -> Card | list[Card]:
    """Says whether an embedding helps, against nothing, plain words and random vectors, on the same noise.

    It looks after every block of prompts and stops as soon as the answer is sure, or when it is sure that the effect is
    smaller than what matters; the intervals hold however often one looks. The same call again goes on where it was
    interrupted.

    Args:
        bundle: The model, or several, which may be named, to be loaded one after the other: then the effect on each,
            and whether they differ.
        file: The embedding, or several, which are then ranked.
        config: How to judge; its models are ignored, as the bundle is loaded.
        listener: Hears of images made, of how many will be needed, and of every look.
        settings: Fields of `lab.JudgeConfig`, on top of `config`, such as `side` and `out`.

    Returns:
        The card as NAME.card.json in the folder `out` has it; of several files a list of them, the best first.

    Raises:
        InputError: bad settings, a file that is no embedding or does not say which prompt it is for, one that does not
            fit the model, or a folder of another run. Nothing is generated then.
    """
    config = JudgeConfig.build(JudgeConfig.given_with(config, settings))
    cards, _ = judge_to_folder(bundle, file, config, listener)
    return cards if len(cards) > 1 else cards[0]


def judge_to_folder(
    bundle: Bundle | Sequence[Bundle | str],
    file: File | Sequence[File] | None,
    config: JudgeConfig,
    listener: Listener = Listener(),
) -> tuple[list[Card], Path]:
    """`judge`, with the folder in which the cards are.

    Raises:
        InputError: see `judge`.
    """
    files = [file] if isinstance(file, str | PathLike | Embedding) else [*(file or config.file)]
    embeddings, side = _read(files, config)
    sources = [bundle] if isinstance(bundle, Bundle) else list(bundle)
    found: dict[str, list[Card]] = {embedding.name: [] for embedding in embeddings}
    questions: dict[str, list[Array]] = {embedding.name: [] for embedding in embeddings}
    folders: list[Path] = []
    out = config.out
    for place, source in enumerate(sources, start=1):
        model = source if isinstance(source, Bundle) else _loaded(source, config, listener)
        state = PartialState(cpu=model.device.type == "cpu")
        trial = Trial(model, embeddings, side, config, listener)
        out = out or _named(trial, config)
        folder = out / _slug(place, model.source) if len(sources) > 1 else out
        with RunFolder.shared(folder, _stored(trial, config), trial.contents, FREE, state):
            images = trial.run(folder, state)
            if state.is_main_process:
                names = {cell.index: cell.variant.name for cell in trial.experiment.pictures}
                write_index(RunFolder(folder), images, "judge", names)
        folders.append(folder)
        for one in trial.tried:
            found[one.embedding.name].append(findings(trial, one, images, config))
            questions[one.embedding.name].append(trial.question(one))
    assert out is not None, "there is a model"
    models = [each["model"] for each in found[embeddings[0].name]]
    ranked = _ranked({name: each[0] for name, each in questions.items()}, found)
    cards = [
        make_card(one, side, found[one.name], travelled(models, questions[one.name]), ranked.get(one.name))
        for one in embeddings
    ]
    if state.is_main_process:
        for card in cards:
            _write(out, card, folders)
    cards.sort(key=lambda card: card["ranking"]["rank"] if card["ranking"] else 0)
    return cards, out


def _read(files: Sequence[File], config: JudgeConfig) -> tuple[list[Embedding], Side]:
    """The embeddings and the prompt that all of them are for; of a learned pair the half that is for it."""
    library = collect(files)
    embeddings = [library[name] for name in library]
    if not embeddings:
        raise InputError("file: there is none; name the embedding to judge")
    pairs = {name for name in library if f"{name}{NEGATIVE_SUFFIX}" in library}
    other = pairs if config.side == "negative" else {f"{name}{NEGATIVE_SUFFIX}" for name in pairs}
    embeddings = [one for one in embeddings if one.name not in other]
    sides = {side_of(one, config.side) for one in embeddings}
    if len(sides) > 1:
        raise InputError("side: some files are negative and some positive; judge them apart, or give --side")
    return embeddings, sides.pop()


def check_before_weights(config: JudgeConfig, models: Sequence[ModelFacts]) -> None:
    """Refuses, before any weights are read, what the files, the prompts or the models' configs make impossible.

    Raises:
        InputError: what fails.
    """
    embeddings, side = _read(config.file, config)
    rivals(embeddings, side, config)
    for facts in models:
        choose_prompts(config, side, embeddings[0].kind == "style", facts.root == ASSETS / "emoji")
        for embedding in embeddings:
            check_fits(embedding, facts)


def _loaded(source: str, config: JudgeConfig, listener: Listener) -> Bundle:
    options = {name: getattr(config, name) for name in LoadingOptions.model_fields}
    return load_options(ModelOptions.build(options | {"model": source}), listener)


def _stored(trial: Trial, config: JudgeConfig) -> str:
    kept = {
        "out": None,
        "batch_size": "auto",
        "dtype": trial.bundle.precision,
        "model": [trial.bundle.source],
        "file": [str(one.embedding.provenance.path or one.embedding.name) for one in trial.tried],
    }
    return config.model_copy(update=kept).to_yaml()


def _named(trial: Trial, config: JudgeConfig) -> Path:
    return Path("outputs", f"judge-{run_digest(_stored(trial, config), trial.contents, FREE)[:8]}")


def _slug(place: int, source: str) -> str:
    words = re.sub(r"[^A-Za-z0-9]+", "-", Path(source).name).strip("-")
    return f"{place}-{words}"


def _ranked(questions: dict[str, Array], found: dict[str, list[Card]]) -> dict[str, Card]:
    """Where each of several embeddings stands on the first model, and with which others it is tied."""
    if len(questions) < 2:
        return {}
    used = min(map(len, questions.values()))
    metric = next(iter(found.values()))[0]["verdict"]["metric"]
    places = ranks([values[:used] for values in questions.values()], METRICS[metric].better)
    by_name = dict(zip(questions, places, strict=True))
    return {
        name: {
            "rank": rank,
            "of": len(by_name),
            "tied_with": [other for other, same in by_name.items() if same == rank and other != name],
        }
        for name, rank in by_name.items()
    }


def _write(out: Path, card: Card, folders: Sequence[Path]) -> None:
    name = portable_name(card["name"])
    with atomic(out / f"{name}{CARD}") as temporary:
        temporary.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    write_card_page(out / f"{name}.card.html", card, folders)
