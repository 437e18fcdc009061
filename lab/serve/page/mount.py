"""The page at `/` of the server's app: Gradio with the lab's looks, behind the same guards, and what of it is open."""

import atexit
import os
import re
import shutil
import tempfile
from pathlib import Path

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if (
    "GRADIO_TEMP_DIR" not in os.environ
):  # Gradio serves what lies there, which else is a folder that others share
    os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="lab-page-")
    atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported

import gradio as gr

from lab.runs.pages import template
from lab.serve.jobs import Jobs
from lab.serve.page.compare import CompareTab
from lab.serve.page.play import PlayTab
from lab.serve.page.shelf import ShelfTab
from lab.serve.page.studio import Studio
from lab.serve.page.train import TrainTab
from lab.serve.page.vote import VoteTab
from lab.serve.service import Service

NEEDED = re.compile(
    r"/|/(assets|static|svelte)/.{0,200}|/(config|theme\.css|favicon\.ico|manifest\.json)"
    r"|/gradio_api/(queue/(join|data)|cancel|reset|heartbeat/\w+|upload|upload_progress|app_id|info|startup-events|theme\.css)/?"
    r"|/gradio_api/file=/.*"
)
"""The paths of Gradio that the page needs. Others fetch addresses for their callers, or run code."""

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; worker-src 'self' blob:; "
    "frame-ancestors 'none'"
)
"""What a browser may load for the page: nothing from elsewhere."""

REFRESH = 2.0
"""Seconds between two looks at how far jobs are."""


MALFORMED = (LookupError, TypeError, AttributeError, ValueError, RuntimeError)
"""What Gradio's own routes raise on what no page sends: numbers of no function, sessions that there are not, forms cut
off. What goes wrong in the page's functions does not come this way."""


class Doors:
    """An ASGI app that lets through to Gradio what the page needs; browsers are told to load nothing from elsewhere."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers with what there is.

        Raises:
            HTTPException: 404, there is no such thing; 400, what is sent is nothing that the page sends.
        """
        if scope["type"] != "http" or not NEEDED.fullmatch(scope["path"]):
            raise HTTPException(404, "there is nothing at this address; /docs tells what there is")
        held: list[Message] = []
        begun = False

        async def with_policy(message: Message) -> None:
            nonlocal begun
            if held or message.get("status") == 500:
                held.append(message)  # until it is known whether what was sent is to blame
                return
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        try:
            await self._app(scope, receive, with_policy)
        except MALFORMED as error:
            if not begun:
                raise HTTPException(400, "this is nothing that the page sends") from error
            await send({"type": "http.response.body"})  # of a stream about nothing that there is
        else:
            for message in held:
                await send(message)


def mount_page(app: FastAPI, service: Service, jobs: Jobs) -> None:
    """Adds the page to an app, as its last route."""
    studio = Studio(service)
    with gr.Blocks(
        title="The lab", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as page:
        gr.HTML(template("lab.serve.page", "head.html").render(model=service.name))
        clock = gr.Timer(REFRESH)
        train, compare, vote = (
            gr.BrowserState(storage_key=f"lab-{name}", secret="lab") for name in ("train", "compare", "vote")
        )  # not within their tabs, which would find nothing in them before they are opened
        with gr.Tabs():
            with gr.Tab("Play", id="play") as tab:
                PlayTab(studio, page, tab)
            with gr.Tab("Embeddings", id="embeddings") as tab:
                ShelfTab(service, jobs, tab)
            with gr.Tab("Train", id="train") as tab:
                TrainTab(jobs, page, tab, clock, train)
            with gr.Tab("Compare", id="compare"):
                CompareTab(jobs, service.bundle.defaults.steps, page, clock, compare)
            with gr.Tab("Vote", id="vote") as tab:
                VoteTab(jobs, page, tab, vote)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[str(studio.folder), str(jobs.sets.folder.absolute())],
        show_error=False,
        max_file_size=service.config.max_body * 2**20,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=_theme(),
        css_paths=Path(__file__).with_name("page.css"),
        head=f"<script>{Path(__file__).with_name('page.js').read_text('utf-8')}</script>",
    )
    app.router.routes[-1].app = Doors(app.router.routes[-1].app)  # type: ignore[attr-defined]


def _theme() -> gr.themes.Base:
    """The colours of the lab's other pages, and the system's fonts."""
    sans, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    theme = gr.themes.Base(
        primary_hue="blue", neutral_hue="slate", font=sans, font_mono=mono, radius_size="md", text_size="md"
    )
    colours = {
        "body_background_fill": ("#fff", "#14161a"),
        "body_text_color": ("#1b1e24", "#e8eaee"),
        "body_text_color_subdued": ("#5d6470", "#a3abb8"),
        "background_fill_primary": ("#fff", "#14161a"),
        "background_fill_secondary": ("#f5f6f8", "#1d2026"),
        "block_background_fill": ("#fff", "#14161a"),
        "block_label_background_fill": ("#fff", "#14161a"),
        "border_color_primary": ("#d9dde3", "#343a44"),
        "block_border_color": ("#d9dde3", "#343a44"),
        "input_background_fill": ("#f5f6f8", "#1d2026"),
        "input_border_color": ("#d9dde3", "#343a44"),
        "button_primary_background_fill": ("#1a66c2", "#79b4ff"),
        "button_primary_background_fill_hover": ("#15549f", "#9cc8ff"),
        "button_primary_text_color": ("#fff", "#14161a"),
        "button_primary_text_color_hover": ("#fff", "#14161a"),
        "button_secondary_background_fill": ("#f5f6f8", "#1d2026"),
        "color_accent": ("#1a66c2",),
        "link_text_color": ("#1a66c2", "#79b4ff"),
    }
    both = {}
    for name, values in colours.items():
        both[name] = values[0]
        if len(values) > 1:
            both[f"{name}_dark"] = values[1]
    return theme.set(
        **both, block_border_width="0px", block_shadow="none", block_padding="0", form_gap_width="0"
    )
