"""`lab serve`: the lab over HTTP, for programs that speak to OpenAI's API or to the A1111 web UI's."""

import os
import socket
from importlib.util import find_spec
from typing import Annotated

from cyclopts import Parameter

from lab.cli.flags import ConfigFlag, ModelFlags, given
from lab.errors import InputError
from lab.files import check_writable
from lab.models.config import ModelOptions
from lab.models.facts import read_facts
from lab.serve.config import ServeConfig, ServeOptions
from lab.terminal import Bars

ServeFlags = Annotated[ServeOptions, Parameter(name="*", group="Where and for whom")]


def serve(
    *, server: ServeFlags = ServeOptions(), model: ModelFlags = ModelOptions(), config: ConfigFlag = None
) -> None:
    """Serve a page to play on, OpenAI's API at /v1, A1111's at /sdapi/v1, the lab's own at /lab; /docs says more."""
    over = given(server, model)
    if key := os.environ.get("LAB_API_KEY"):
        over = {"api_key": key} | over
    settings = ServeConfig.read(config, over)
    if not (find_spec("fastapi") and find_spec("uvicorn") and find_spec("python_multipart")):
        raise InputError("serve: needs FastAPI and uvicorn; install them with pip install -e '.[serve]'")
    check_writable(settings.out)
    with Bars() as bars:
        facts = read_facts(settings, bars)
        listening = _listen(settings)  # an address in use is told before the engine is imported
        import uvicorn

        from lab.models.load import load_options
        from lab.serve.app import create_app

        app = create_app(settings, load_options(settings, bars, facts))
    print(_where(settings, listening), flush=True)
    options = uvicorn.Config(app, log_level="warning", proxy_headers=False, timeout_graceful_shutdown=5)
    uvicorn.Server(options).run([listening])


def _listen(settings: ServeConfig) -> socket.socket:
    """A socket at the address that was asked for.

    Raises:
        InputError: it is in use, or is none of this machine's.
    """
    where = f"{settings.host}:{settings.port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise InputError(
            f"cannot listen on {where}: {error.strerror or error}; choose another --port"
        ) from None
    return listening


def _where(settings: ServeConfig, listening: socket.socket) -> str:
    port = listening.getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host or "0.0.0.0"
    who = "whoever has the key" if settings.api_key else "this machine alone, as there is no --api-key"
    how = ", as the password with any user name" if settings.api_key else ""
    page = f"open it in a browser{how}, to play; " if settings.page and find_spec("gradio") else ""
    return f"Serving {settings.model} at http://{host}:{port} for {who}; {page}/docs explains the API. Ctrl-C stops."
