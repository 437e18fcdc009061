"""What the tabs share: how their events run, what a form keeps, and sentences to people."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

import gradio as gr
from starlette.requests import Request

from lab.runs.pages import template
from lab.serve.answers import client_of, what_went_wrong
from lab.serve.config import ServeOptions

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Of an event: nothing flickers, and no other program is offered it."""

NEWEST = ("the newest", "")
"""What is chosen of a list of jobs where nobody has chosen."""

RESTORE = "(kept, ...form) => touched || kept?.length !== form.length ? form : kept"
"""What a form holds when the page has loaded: what was kept, unless somebody was faster and has typed."""


def client_of_page(request: gr.Request) -> Hashable:
    """Whose turn work on the page takes, as `client_of` tells."""
    return client_of(cast(Request, request))  # it has what that reads


def said(problem: str = "", note: str = "", progress: float | None = None) -> str:
    """A sentence about what went wrong, one about what was done, or how far it is (0 to 1)."""
    return rendered("said.html", problem=problem, note=note, progress=progress)


def said_of(error: BaseException, options: ServeOptions, *files: Path) -> str:
    """A sentence about an error; `files` are those that somebody dropped."""
    return said(problem=what_went_wrong(error, options, *files))


def rendered(name: str, **values: Any) -> str:
    """One of the page's templates, filled in."""
    return template("lab.serve.page", name).render(**values)
