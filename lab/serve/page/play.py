"""Play: a prompt and what becomes of it as it is typed, images on the same noise side by side, and their history."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from lab.condition.account import Account, said_rows
from lab.condition.weighting import WEIGHTINGS
from lab.errors import InputError
from lab.models.schedulers import SCHEDULERS
from lab.prompt.dialects import DIALECTS
from lab.runs.pages import shared_values, summary
from lab.serve.lane import BusyError
from lab.serve.page.parts import QUIET, RESTORE, rendered, said, said_of
from lab.serve.page.studio import FORM, Making, Shot, Studio, settings_of
from lab.serve.service import Preview, Progress

FIRST_PROMPT = "noto emoji of a (red:1.2) apple"

TEXT = ("dialect", "weighting", "clip_skip", "steps")
"""What else of the form tells what a prompt becomes."""

MOST_NAMES = 30
"""Embeddings that are offered to be clicked."""

NAMED = """kept => kept ??
  Array.from(crypto.getRandomValues(new Uint8Array(16)), one => one.toString(16).padStart(2, "0")).join("")"""
"""The name by which the server knows a browser, which makes it up when it first comes."""

SURE = "browser => confirm('Remove all images of this history from the server?') ? browser : null"

Form = dict[str, Any]


class PlayTab:
    """The tab, built within the `gr.Blocks` and the `gr.Tab` that are open."""

    def __init__(self, studio: Studio, page: gr.Blocks, tab: gr.Tab):
        self._studio = studio
        self._options = studio.service.config
        with gr.Row(elem_classes="two"):
            with gr.Column(scale=5, min_width=320):
                self._build_form()
            with gr.Column(scale=5, min_width=320):
                self._build_result()
        self._build_history()
        self._connect(page)
        tab.select(self._names_html, None, self._names, **QUIET)  # what was learned meanwhile can be named

    def _build_form(self) -> None:
        self._form: Form = {}
        self._form["prompt"] = gr.Textbox(FIRST_PROMPT, label="Prompt", lines=3, elem_id="prompt")
        self._reading = gr.HTML(elem_id="reading")
        self._form["negative_prompt"] = gr.Textbox(
            label="Negative prompt", lines=2, elem_id="negative", placeholder="What the image avoids"
        )
        self._negative_reading = gr.HTML(elem_id="negative-reading")
        self._names = gr.HTML()
        with gr.Row(elem_classes="actions"):
            self._form["seed"] = gr.Number(1, label="Seed", precision=0, min_width=120, elem_id="seed")
            self._another = gr.Button("New seed", min_width=110, elem_id="another")
            self._make = gr.Button("Make", variant="primary", min_width=110, elem_id="make")
            self._stop = gr.Button("Stop", variant="stop", min_width=110, visible=False, elem_id="stop")
        self._said = gr.HTML(elem_id="said")
        with gr.Accordion("Settings", open=False, elem_id="settings"):
            self._build_settings()
        with gr.Accordion("Row by row", open=False, elem_id="row-by-row"):
            self._rows = gr.HTML(elem_id="rows")

    def _build_settings(self) -> None:
        usual = self._studio.usual
        numbers = ("steps", "guidance", "width", "height", "clip_skip")
        tables: dict[str, Mapping[str, Any]] = {
            "scheduler": SCHEDULERS,
            "dialect": DIALECTS,
            "weighting": WEIGHTINGS,
        }
        for pair in (("steps", "guidance"), ("width", "height"), ("scheduler", "dialect"),
                     ("weighting", "clip_skip")):  # fmt: skip
            with gr.Row():
                for name in pair:
                    label = name.replace("_", " ").capitalize()
                    if name in numbers:
                        whole = None if name == "guidance" else 0
                        field: Any = gr.Number(usual[name], label=label, precision=whole, min_width=120)
                    else:
                        own = [("the dialect's own", "")] * (name == "weighting")
                        field = gr.Dropdown(
                            [*own, *((key, key) for key in tables[name])],
                            value="" if own else usual[name],
                            label=label,
                            min_width=120,
                        )
                    self._form[name] = field
        self._form["karras"] = gr.Checkbox(usual["karras"], label="Karras' noise levels")
        self._count = gr.Slider(
            1,
            self._options.max_images,
            1,
            step=1,
            label="Images, of this seed and those after it",
        )

    def _build_result(self) -> None:
        self._slider = gr.ImageSlider(
            label="Before and after", show_label=False, interactive=False, max_height=560, elem_id="result",
            buttons=["download", "fullscreen"], format="png", type="filepath",
        )  # fmt: skip
        self._about = gr.HTML(elem_id="about")
        self._same = gr.Button("Same settings as the left", visible=False, elem_id="same", size="sm")
        self._dropped = gr.File(
            label="An image whose settings to take",
            show_label=False,
            file_types=[".png", ".jpg", ".jpeg", ".webp"],
            height=64,
            elem_id="dropped",
        )

    def _build_history(self) -> None:
        told = "Of this browser. A click puts an image on the left."
        gr.HTML(f'<h3 class="history">History</h3><p class="soft">{told}</p>')
        self._clear = gr.Button("Remove these images", visible=False, elem_id="clear", size="sm")
        self._gallery = gr.Gallery(
            show_label=False, columns=10, fit_columns=False, height="auto", allow_preview=False, object_fit="contain",
            elem_id="history", buttons=[], format="png",
        )  # fmt: skip
        self._browser = gr.BrowserState(None, storage_key="lab-browser", secret="lab")
        self._files = gr.State([])
        self._left = gr.State(None)

    def _connect(self, page: gr.Blocks) -> None:
        form = [self._form[name] for name in FORM]
        kept = gr.BrowserState(
            [field.value for field in form], storage_key=f"lab-play-{len(FORM)}", secret="lab"
        )
        texts = [self._form[name] for name in ("prompt", "negative_prompt", *TEXT)]
        readings = [self._reading, self._negative_reading, self._rows]
        shown = [self._said, self._make, self._stop, self._slider, self._about, self._gallery, self._files,
                 self._left, self._same, self._clear]  # fmt: skip
        page.load(None, [kept, *form], form, js=RESTORE, **QUIET).then(self._read, texts, readings, **QUIET)
        page.load(self._names_html, None, self._names, **QUIET)
        own = [self._browser, self._left]
        page.load(None, self._browser, self._browser, js=NAMED, **QUIET).then(
            self._follow, own, shown, concurrency_limit=8, **QUIET
        )
        gr.on([field.change for field in form], None, form, kept, js="(...form) => [form]", **QUIET)
        gr.on([field.change for field in texts], self._read, texts, readings, trigger_mode="always_last",
              concurrency_limit=2, **QUIET)  # fmt: skip
        asked = [*own, self._count, *form]
        gr.on([self._make.click, self._form["prompt"].submit, self._form["negative_prompt"].submit],
              self._order, asked, shown, concurrency_limit=8, **QUIET)  # fmt: skip
        self._stop.click(self._studio.stop, self._browser, None, **QUIET)
        self._clear.click(
            self._forget, self._browser, shown, js=SURE, trigger_mode="multiple", **QUIET
        )  # also at once after it was thought better of
        another = "() => Math.floor(Math.random() * 2 ** 32)"
        self._another.click(None, None, self._form["seed"], js=another, **QUIET)
        self._gallery.select(self._put_left, [self._browser, self._files], shown, **QUIET)
        self._same.click(self._take_left, own, [*form, self._said], **QUIET)
        self._dropped.upload(self._take_dropped, self._dropped, [*form, self._said, self._dropped], **QUIET)

    def _names_html(self) -> str:
        names = list(self._studio.service.library)
        return rendered("names.html", names=names[:MOST_NAMES], more=len(names[MOST_NAMES:]))

    def _read(self, prompt: str, negative: str, *values: Any) -> tuple[str, str, str]:
        """What the prompts become: a line for each, and all their rows."""
        settings = _given(dict(zip(TEXT, values, strict=True)))
        lines: list[str] = []
        accounts: list[tuple[str, Account]] = []
        for title, text in (("Prompt", prompt or ""), ("Negative prompt", negative or "")):
            try:
                found = self._studio.service.account(text, settings, negative=title != "Prompt")
            except (InputError, UnicodeError) as error:
                lines.append(said_of(error, self._options))
                continue
            accounts += [(title, found)] if text else []
            lines.append(rendered("account.html", account=found, said=said_rows) if text else "")
        return lines[0], lines[1], rendered("rows.html", accounts=accounts, said=said_rows)

    def _order(self, browser: str | None, left: str | None, count: int, *values: Any) -> Iterator[Any]:
        """Makes images of the form, and shows how far they are."""
        try:
            settings = _given(dict(zip(FORM, values, strict=True)))
            first = int(settings.pop("seed", 1))
            seeds = f"{first}-{first + int(count) - 1}"
            making = self._studio.make(browser, settings | {"seeds": seeds})
        except (ValueError, BusyError) as error:
            yield {self._said: said_of(error, self._options)}
            return
        yield from self._watch(making, left)

    def _follow(self, browser: str | None, left: str | None) -> Iterator[Any]:
        """Shows what was made, and goes on with what is being made for whoever loads the page again."""
        making = self._studio.under_way(browser)
        yield self._shown(browser, left)
        if making:
            yield from self._watch(making, left)

    def _watch(self, making: Making, left: str | None) -> Iterator[Any]:
        yield {self._said: said(progress=0.0)} | self._busy(True)
        told = said()
        try:
            for event in making.follow():
                if isinstance(event, Progress):
                    yield {self._said: said(progress=event.done / event.total)}
                elif isinstance(event, Preview):
                    before, _ = self._sides(left, self._studio.history(making.browser))
                    yield {self._slider: (before.file if before else event.image, event.image)}
        except Exception as error:
            told = said_of(error, self._options)
        yield self._shown(making.browser, left) | self._busy(False) | {self._said: told}

    def _busy(self, busy: bool) -> dict[Any, Any]:
        return {self._make: gr.update(visible=not busy), self._stop: gr.update(visible=busy)}

    def _forget(self, browser: str | None) -> dict[Any, Any]:
        """Removes the history of somebody who is sure."""
        if browser is not None:
            self._studio.forget(browser)
            return self._shown(browser, None)
        return {self._said: ""}

    def _shown(self, browser: str | None, left: str | None) -> dict[Any, Any]:
        """The history, and of it the newest image on the right, what it is held against on the left."""
        shots = self._studio.history(browser)
        if not shots:
            nothing: dict[Any, Any] = {
                self._slider: None,
                self._about: "",
                self._gallery: [],
                self._files: [],
            }
            return nothing | {each: gr.update(visible=False) for each in (self._same, self._clear)}
        right = shots[0]
        before, chosen = self._sides(left, shots)
        records = [shot.record for shot in (before, right) if shot]
        shared = shared_values(records)
        about = rendered(
            "picture.html",
            left=before.record if before else None,
            right=right.record,
            changed=[name for name in FORM if all(name in one for one in records) and name not in shared],
            lines=summary(shared),
        )
        return {
            self._slider: ((before or right).file, right.file),
            self._about: about,
            self._gallery: [str(shot.file) for shot in shots],
            self._files: [shot.file.name for shot in shots],
            self._left: chosen,
            self._same: gr.update(visible=chosen is not None),
            self._clear: gr.update(visible=True),
        }

    def _sides(self, left: str | None, shots: Sequence[Shot]) -> tuple[Shot | None, str | None]:
        """What stands on the left: what was chosen, while it is there, else the one before; and which was chosen."""
        for shot in shots:
            if shot.file.name == left:
                return shot, left
        return (shots[1] if len(shots) > 1 else None), None

    def _put_left(self, event: gr.SelectData, browser: str, files: list[str]) -> dict[Any, Any]:
        return self._shown(browser, files[event.index])

    def _take_left(self, browser: str, left: str) -> dict[Any, Any]:
        """The settings of the image on the left, in the form."""
        before, _ = self._sides(left, self._studio.history(browser))
        return self._filled(settings_of(before.record) if before else {}, "Its settings are in the form.")

    def _take_dropped(self, file: str) -> dict[Any, Any]:
        """The settings of an image that was dropped, in the form."""
        path = Path(file)
        try:
            found, note = self._studio.settings_in(path)
        except InputError as error:
            return {self._said: said_of(error, self._options, path), self._dropped: None}
        note = f"{path.name}: its settings are in the form. {note}"
        return self._filled(found, note) | {self._dropped: None}

    def _filled(self, found: Mapping[str, Any], note: str) -> dict[Any, Any]:
        values = {"negative_prompt": ""} | {
            name: value for name, value in found.items() if name in self._form
        }
        return {self._form[name]: value for name, value in values.items()} | {self._said: said(note=note)}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """What of the form is filled in, as `GenerateConfig` takes it."""
    return {name: value for name, value in values.items() if value is not None and value != ""} | {
        name: values[name] or "" for name in ("prompt", "negative_prompt") if name in values
    }
