"""The A1111 web UI's API: its paths, what it says of errors, and what made a PNG."""

from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from lab.config import Config
from lab.errors import InputError
from lab.images import text_chunks
from lab.runs.png import read_parameters
from lab.serve.a1111_images import WebUI
from lab.serve.a1111_lists import add_lists
from lab.serve.a1111_requests import ImageToImage, TextToImage, decode_image
from lab.serve.answers import HALF_A_CHARACTER, what_is_invalid, what_went_wrong
from lab.serve.bounds import MOST_PIXELS_SENT
from lab.serve.lane import BusyError
from lab.serve.service import Service

PREFIX = "/sdapi/v1"

NOT_HERE = {
    f"{PREFIX}/extra-single-image": "images are not scaled up or mended; ask for the size that you want",
    f"{PREFIX}/extra-batch-images": "images are not scaled up or mended; ask for the size that you want",
    f"{PREFIX}/interrogate": "images are not described in words",
    f"{PREFIX}/create/embedding": "embeddings are made by training; see /docs, or lab train",
    f"{PREFIX}/train/embedding": "embeddings are trained by the lab's own jobs; see /docs, or lab train",
    f"{PREFIX}/create/hypernetwork": "there are no hypernetworks",
    f"{PREFIX}/train/hypernetwork": "there are no hypernetworks",
    f"{PREFIX}/unload-checkpoint": "the model stays loaded as long as the server runs",
    "/controlnet/{rest:path}": "ControlNets are not served; see lab generate --controlnet",
}
"""Paths of the web UI and its best-known extension that the lab has nothing for."""


class SentImage(Config):
    """An image that a client sends."""

    image: str
    """In base64, with `data:image/png;base64,` before it or without."""


class A1111Route(APIRoute):
    """Says what is wrong as the web UI does: `error`, `detail`, `body` and `errors`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler of a request, with errors as answers."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as error:
                return _failure(422, error, what_is_invalid(error)[0])
            except InputError as error:
                return _failure(422, error, what_went_wrong(error, request.app.state.service.config))
            except UnicodeError as error:
                return _failure(422, error, HALF_A_CHARACTER)
            except BusyError as error:
                return _failure(429, error, str(error), {"Retry-After": "1"})
            except HTTPException as error:
                return _failure(error.status_code, error, str(error.detail), error.headers)

        return handle


def _failure(
    status: int, error: Exception, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    body = {"error": type(error).__name__, "detail": message, "body": "", "errors": message}
    return JSONResponse(body, status, headers)


def a1111_router(service: Service) -> APIRouter:
    """`/sdapi/v1/` whole."""
    router = APIRouter(tags=["A1111"], route_class=A1111Route)
    listed = APIRouter(prefix=PREFIX, route_class=A1111Route)
    add_lists(listed, service)
    _add_images(listed, WebUI(service))
    router.include_router(listed)
    for path, why in NOT_HERE.items():
        _refuse(router, path, why)
    return router


def _add_images(router: APIRouter, web_ui: WebUI) -> None:
    @router.post("/txt2img")
    async def text_to_image(asked: TextToImage, request: Request) -> Response:
        """Images of a prompt."""
        return await web_ui.make(asked, request, "scripts_txt2img")

    @router.post("/img2img")
    async def image_to_image(asked: ImageToImage, request: Request) -> Response:
        """Images of a prompt that begin from an image instead of from noise alone."""
        return await web_ui.make(asked, request, "scripts_img2img")

    @router.get("/progress")
    def progress(request: Request, skip_current_image: bool = False) -> dict[str, Any]:
        """How far the images are that this machine asked for; `progress` and `job_count` are 0 where there are none."""
        return web_ui.progress(request, not skip_current_image)

    @router.post("/interrupt")
    async def interrupt(request: Request) -> dict[str, Any]:
        """Ends the oldest request of this machine; it is answered with the images that are finished."""
        web_ui.stop(request, whole=True)
        return {}

    @router.post("/skip")
    async def skip(request: Request) -> None:
        """Ends the iteration under way of the oldest request of this machine."""
        web_ui.stop(request, whole=False)

    @router.get("/options")
    def show_options(request: Request) -> dict[str, Any]:
        """The options that there are."""
        return web_ui.options(request)

    @router.post("/options")
    def set_options(given: dict[str, Any], request: Request) -> None:
        """Sets `CLIP_stop_at_last_layers` for this machine; other options are taken where they say what is so."""
        web_ui.set_options(request, given)

    @router.post("/png-info")
    def png_info(sent: SentImage) -> dict[str, Any]:
        """What made an image, as far as it says: `info` is A1111's text, `parameters` its parts, and the lab's record
        is among a PNG's `items`."""
        items = dict(text_chunks(Path("image"), decode_image(sent.image, "image"), MOST_PIXELS_SENT))
        info = items.pop("parameters", "")
        return {"info": info, "items": items, "parameters": read_parameters(info)}


def _refuse(router: APIRouter, path: str, why: str) -> None:
    async def refuse() -> None:
        raise HTTPException(501, f"{path.partition('/{')[0].removeprefix(PREFIX).strip('/')}: {why}")

    refuse.__doc__ = f"Not here: {why}."
    methods = ["POST"] if path.startswith(PREFIX) else ["GET", "POST"]
    name = path.partition("/{")[0].strip("/").replace("/", "_")
    for method in methods:
        router.add_api_route(path, refuse, methods=[method], operation_id=f"refuse_{name}_{method.lower()}")
