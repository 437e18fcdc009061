"""Train: images dropped in with their captions, what will be learned from them, and the trainings under way."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import gradio as gr
from markupsafe import Markup

from lab.errors import InputError
from lab.images import SUFFIXES
from lab.serve.answers import what_went_wrong
from lab.serve.image_sets import tidy_names
from lab.serve.job import Job
from lab.serve.job_kinds import TrainJob, describe_training, training_captions
from lab.serve.jobs import Jobs
from lab.serve.lane import BusyError
from lab.serve.page.parts import NEWEST, QUIET, RESTORE, client_of_page, rendered, said, said_of
from lab.training.config import TrainConfig
from lab.training.data.captions import placeholder
from lab.training.previews import curves_svg, preview_rows
from lab.training.run_folder import TrainingFolder

LEARNED = [("a thing", "concept"), ("a style", "style"), ("what to avoid", "negative")]
"""What can be learned from images, in words, by the objective."""

FORM = (
    *("images", "name", "objective", "vectors", "steps"),
    *("optimizer", "learning_rate", "batch_size", "seed", "preview_every", "preview_prompt"),
)
"""The options of a training that the page has fields for."""

ROWS = 6
"""Steps whose previews are shown: the first, and the last ones."""

WRITTEN = """() => document.querySelectorAll("[data-caption]").forEach(
  field => { if (field !== document.activeElement) field.value = field.defaultValue; })"""
"""Shows captions as the server has them: fields that somebody wrote in keep their text when the page changes."""


class TrainTab:
    """The tab, built within the `gr.Blocks` and the `gr.Tab` that are open."""

    def __init__(self, jobs: Jobs, page: gr.Blocks, tab: gr.Tab, clock: gr.Timer, kept: gr.BrowserState):
        self._jobs = jobs
        self._options = jobs.options
        self._form: dict[str, Any] = {}
        self._drawn: dict[str, tuple[int, Markup]] = {}
        with gr.Row(elem_classes="two"):
            with gr.Column(scale=5, min_width=320):
                self._build_images()
                self._build_form()
                with gr.Row(elem_classes="actions"):
                    foresee = gr.Button("Check first", min_width=120, elem_id="foresee")
                    start = gr.Button("Train", variant="primary", min_width=120, elem_id="train")
                told = gr.HTML(elem_id="train-said")
            with gr.Column(scale=5, min_width=320):
                chosen = gr.Dropdown([NEWEST], value="", label="Training", elem_id="training")
                shown = gr.HTML(elem_id="trainings")
        form = [self._form[name] for name in FORM]
        seen = [self._form[name] for name in ("images", "name", "objective")]
        page.load(None, [kept, *form], form, js=RESTORE, **QUIET)
        gr.on([one.change for one in form], None, form, kept, js="(...form) => [form]", **QUIET)
        pictures: dict[str, Any] = {
            "fn": self._pictures,
            "inputs": seen,
            "outputs": [self._shown_pictures, self._clear],
        } | QUIET
        gr.on([one.change for one in seen], trigger_mode="always_last", **pictures).then(js=WRITTEN, **QUIET)
        self._dropped.upload(
            self._add,
            [self._dropped, self._form["images"]],
            [told, self._form["images"], self._dropped],
            **QUIET,
        ).then(**pictures).then(js=WRITTEN, **QUIET)
        self._clear.click(None, None, self._form["images"], js="() => ''", **QUIET)
        self._taken_out.change(
            self._take_out,
            [self._taken_out, self._form["images"]],
            [told, self._form["images"], self._taken_out],
            trigger_mode="multiple",
            **QUIET,
        ).then(**pictures).then(js=WRITTEN, **QUIET)
        self._captioned.change(
            self._caption, [self._captioned, *seen], told, trigger_mode="multiple", **QUIET
        )
        foresee.click(self._foresee, form, told, **QUIET)
        start.click(self._start, form, told, **QUIET).then(self._offered, None, chosen, **QUIET).then(
            self._shown, chosen, [shown, chosen], **QUIET
        )
        gr.on([page.load, tab.select], self._offered, None, chosen, **QUIET)
        gr.on([page.load, clock.tick, chosen.change], self._shown, chosen, [shown, chosen], **QUIET)

    def _build_images(self) -> None:
        self._dropped = gr.File(
            label="Images to learn from",
            show_label=False,
            file_count="multiple",
            file_types=[*SUFFIXES, ".txt"],
            height=64,
            elem_id="pictures",
        )
        self._shown_pictures = gr.HTML(elem_id="shown-pictures")
        self._captioned = gr.Textbox(visible="hidden", elem_id="captioned")
        self._taken_out = gr.Textbox(visible="hidden", elem_id="taken-out")
        self._form["images"] = gr.Textbox("", visible="hidden", elem_id="image-set")
        self._clear = gr.Button("Remove all images", size="sm", visible=False, elem_id="other-images")

    def _build_form(self) -> None:
        usual = {name: field.default for name, field in TrainConfig.model_fields.items()}
        form = self._form
        with gr.Row():
            form["name"] = gr.Textbox(
                "my-thing", label="Name in prompts", min_width=120, elem_id="train-name"
            )
            form["objective"] = gr.Dropdown(LEARNED, value="concept", label="The images show", min_width=120)
        with gr.Row():
            form["vectors"] = gr.Number(4, label="Vectors", precision=0, min_width=90)
            form["steps"] = gr.Number(
                usual["steps"], label="Steps at most", precision=0, min_width=90, elem_id="train-steps"
            )
        with gr.Accordion("More settings", open=False, elem_id="train-how"):
            with gr.Row():
                form["optimizer"] = gr.Dropdown(
                    list(get_args(TrainConfig.model_fields["optimizer"].annotation)),
                    value=usual["optimizer"],
                    label="Optimizer",
                    min_width=120,
                )
                form["learning_rate"] = gr.Textbox(
                    "", label="Learning rate", placeholder="one that suits the model", min_width=120
                )
            with gr.Row():
                form["batch_size"] = gr.Number(
                    usual["batch_size"],
                    label="Images in a step",
                    precision=0,
                    min_width=120,
                    elem_id="batch-size",
                )
                form["seed"] = gr.Number(usual["seed"], label="Seed", precision=0, min_width=120)
            with gr.Row():
                form["preview_every"] = gr.Number(
                    20, label="Steps between previews", precision=0, min_width=120, elem_id="preview-every"
                )
                form["preview_prompt"] = gr.Textbox(
                    label="What previews show", placeholder="the embedding alone", min_width=120
                )

    def _add(self, files: Sequence[str], images: str) -> tuple[str, str, None]:
        """Keeps images and captions that were dropped, with those that are there."""
        names = tidy_names([Path(file).name for file in files])
        data = {names[Path(file).name]: Path(file).read_bytes() for file in files}
        try:
            known = images if images and self._jobs.sets.has(images) else None
            return "", self._jobs.keep_images(data, known), None
        except InputError as error:
            return said_of(error, self._options), images, None

    def _take_out(self, image: str, images: str) -> tuple[Any, ...]:
        """Removes an image and its captions, and forgets its name, so that it can be removed once more when it has come
        back; without the last one there is no set any more."""
        if not image:
            return gr.skip(), gr.skip(), gr.skip()
        try:
            left = self._jobs.sets.take_out(images, image)
        except InputError as error:
            return said_of(error, self._options), images, ""
        return "", images if left else "", ""

    def _pictures(self, images: str, name: str, objective: str) -> tuple[str, Any]:
        """The images with their captions, to be edited, and whether there are any to be removed."""
        problem, captions = "", {}
        if images and not self._jobs.sets.has(images):
            problem = "these images are gone, as nothing was learned from them for a day; drop them again"
        elif images:
            try:
                asked = _asked({"images": images, "name": name or "it", "objective": objective})
                captions = training_captions(self._jobs.place(), asked)
            except InputError as error:
                problem = what_went_wrong(error, self._options)
        folder = self._jobs.sets.folder.absolute() / images
        written = {image: (folder / image).with_suffix(".txt").is_file() for image in captions}
        html = rendered("pictures.html", captions=captions, written=written, folder=folder, problem=problem)
        return html, gr.update(visible=bool(captions or problem))

    def _caption(self, edited: str, images: str, name: str, _: str) -> str:
        """Keeps a caption that was edited, so that it goes with another name too."""
        try:
            one = json.loads(edited)
            text = str(one["text"]).replace(placeholder(name), "{name}")
            self._jobs.sets.caption(images, str(one["image"]), text)
        except (InputError, ValueError, KeyError, TypeError) as error:
            return said_of(error, self._options)
        return ""

    def _foresee(self, *values: Any) -> Iterator[str]:
        """What a training would learn from, and what it would take."""
        yield said(note="Looking at the images.")
        try:
            lines = describe_training(self._jobs.place(), _asked(dict(zip(FORM, values, strict=True))))
        except InputError as error:
            yield said_of(error, self._options)
            return
        yield rendered("foreseen.html", lines=map(self._options.without_places, lines))

    def _start(self, request: gr.Request, *values: Any) -> Iterator[str]:
        """Queues a training on a copy of the images, which may be changed meanwhile."""
        yield said(note="Looking at the images.")
        try:
            asked = dict(zip(FORM, values, strict=True))
            describe_training(self._jobs.place(), _asked(asked))
            job = _asked(asked | {"images": self._jobs.sets.copy(asked["images"])})
            self._jobs.add(client_of_page(request), "train", job)
        except (InputError, BusyError) as error:
            yield said_of(error, self._options)
            return
        yield said(note="It waits for its turn, and goes on when this page is closed.")

    def _offered(self) -> Any:
        """The trainings to choose from, of which the newest is shown."""
        names = [(f"{_name(job)}, {job.record.state}", job.record.id) for job in self._jobs.all("train")]
        return gr.update(choices=[NEWEST, *names], value="")

    def _shown(self, chosen: str) -> tuple[str, Any]:
        """The training that was chosen, or the newest, and what to choose where that was removed."""
        found = {job.record.id: job for job in self._jobs.all("train")}
        job = found.get(chosen) or next(iter(found.values()), None)
        html = self._card(job) if job else rendered("training.html", job=None)
        return html, gr.skip() if chosen in ("", *found) else self._offered()

    def _card(self, job: Job) -> str:
        """A training: how far it is, its curve, its previews, and what it has learned."""
        folder = TrainingFolder(job.run)
        lines, rows = folder.read_progress(), preview_rows(folder)
        return rendered(
            "training.html",
            job=job.describe(),
            breaking_off=job.breaking_off,
            called=_name(job),
            step=lines[-1] if lines else None,
            last=job.progress.get("steps") or job.record.settings.get("steps"),
            learned=[path.stem for path in sorted(job.run.glob("*.safetensors"))],
            curve=self._curve(job.record.id, lines),
            rows=[*rows[:-ROWS:-1], *rows[:1]] if len(rows) >= ROWS else rows[::-1],
        )

    def _curve(self, name: str, lines: Sequence[Mapping[str, Any]]) -> str:
        """A training's curve, which is drawn anew when there is more of it: that takes longer than all the rest."""
        if len(lines) < 2:
            return ""
        count, curve = self._drawn.get(name, (0, Markup()))
        if count != len(lines):
            curve = Markup(curves_svg(lines))  # our own
            self._drawn[name] = len(lines), curve
        return curve


def _asked(values: dict[str, Any]) -> TrainJob:
    """A training as the form has it.

    Raises:
        InputError: what is wrong in it.
    """
    return TrainJob.build({name: value for name, value in values.items() if value not in (None, "", [])})


def _name(job: Job) -> str:
    return placeholder(job.record.settings.get("name", ""))
