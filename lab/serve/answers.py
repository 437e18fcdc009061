"""From orders to HTTP: waiting for one while its client does, telling what happens along the way, images as files, and
saying errors."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from contextlib import asynccontextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.exceptions import HTTPException

from lab.errors import InputError
from lab.images import comment_exif
from lab.runs.png import write_png
from lab.sample.record import parameters_text
from lab.serve.config import ServeOptions
from lab.serve.guards import error_body
from lab.serve.lane import BusyError, Order

CLIENT_GONE = 499
"""The status of an answer that nobody is there to read, as nginx counts them."""


_log = logging.getLogger("lab.serve")


class ClientGoneError(Exception):
    """The client went away before its answer was there."""


def client_of(request: Request, user: str | None = None) -> Hashable:
    """Whose turn a request takes: the user that it names, else the program and the machine that it comes from."""
    address = request.client.host if request.client else ""
    return user or (address, request.headers.get("user-agent", ""))


async def wait_for(request: Request, order: Order) -> list[Any]:
    """The results of an order, which is cancelled if its client goes away first.

    Raises:
        ClientGoneError: it did.
        Exception: what went wrong with the order.
    """
    results = asyncio.wrap_future(order.future)
    async with _cancelled_with(request, order):
        await asyncio.wait({results})
    if results.cancelled():
        raise ClientGoneError
    return results.result()


class Events:
    """What a lane tells in its thread, to be read in the event loop that made this."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    def tell(self, event: Any) -> None:
        """Hands on an event; may be called in any thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def until_end(self, request: Request, order: Order) -> AsyncIterator[Any]:
        """What happens until an order has ended, which it also does when its client goes away."""
        order.future.add_done_callback(self.tell)
        async with _cancelled_with(request, order):
            while (event := await self._queue.get()) is not order.future:
                yield event


@asynccontextmanager
async def _cancelled_with(request: Request, order: Order) -> AsyncIterator[None]:
    """Cancels an order when its client goes away, or when the block is left before it has ended."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            continue
        order.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watching.cancel()
        order.cancel()


def image_file(
    image: Image.Image, record: Mapping[str, Any] | None = None, kind: str = "png", quality: int = 90
) -> bytes:
    """An image file, with what made the image in it where there is a record.

    Args:
        kind: `png`, `jpeg` or `webp`.
        quality: Of the last two, as a percentage.
    """
    file = BytesIO()
    if record is None:
        image.save(file, kind, quality=quality)
    elif kind == "png":
        write_png(file, image, record, parameters_text(record))
    else:
        image.save(file, kind, quality=quality, exif=comment_exif(parameters_text(record)))
    return file.getvalue()


def server_sent(data: Any, event: str | None = None) -> bytes:
    """One server-sent event."""
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


def say_errors(app: FastAPI, options: ServeOptions) -> None:
    """Gives an app the lab's way of saying what is wrong: in one line, in the shape that OpenAI's clients read."""
    said: dict[Any, Callable[[Request, Any], Response]] = {
        InputError: lambda _, error: refusal(400, what_went_wrong(error, options)),
        BusyError: lambda _, error: refusal(429, str(error), headers={"Retry-After": "1"}),
        RequestValidationError: _invalid,
        HTTPException: lambda _, error: refusal(error.status_code, str(error.detail), headers=error.headers),
        UnicodeError: lambda _, error: refusal(400, HALF_A_CHARACTER),
        ClientGoneError: lambda _, error: Response(status_code=CLIENT_GONE),
        Exception: lambda _, error: refusal(500, _failed_at(error)),
    }
    for kind, say in said.items():
        app.add_exception_handler(kind, say)


HALF_A_CHARACTER = "a text holds half a character; write it again"
"""What is said of a text that cannot be written, such as one with half of a surrogate pair."""


def what_went_wrong(error: BaseException, options: ServeOptions, *files: Path) -> str:
    """What went wrong with work, in a line for people; what nobody foresaw goes to the log.

    Args:
        files: Beside the server's own, those whose place on its disk is nobody's business.
    """
    if isinstance(error, InputError | BusyError):
        return options.without_places(str(error), *files)
    if isinstance(error, UnicodeEncodeError):
        return HALF_A_CHARACTER
    _log.error("the server failed", exc_info=error)
    return _failed_at(error)


def _failed_at(error: BaseException) -> str:
    return f"the server failed at this: {type(error).__name__}; see its log"


def refusal(status: int, message: str, param: str | None = None, headers: Any = None) -> JSONResponse:
    """An answer that says what is wrong. What the message is about, its first words say: `steps: ...`."""
    about = re.match(r"(?:options: )?([a-z_]+)(?:: |\.)", message)
    return JSONResponse(error_body(status, message, param or (about[1] if about else None)), status, headers)


def _invalid(_: Request, error: RequestValidationError) -> Response:
    return refusal(400, *what_is_invalid(error))


def what_is_invalid(error: RequestValidationError) -> tuple[str, str | None]:
    """What is wrong with the fields of a request, in a line, and the field."""
    problem = error.errors()[0]
    where = [str(part) for part in problem["loc"] if part not in ("body", "query", "path")]
    if problem["type"] == "json_invalid":
        return "the body is no JSON that can be read", None
    param = where[0] if where else None
    if problem["type"] == "extra_forbidden":
        return f"there is no field '{param}' here; leave it out", param
    message = problem["msg"].removeprefix("Value error, ")
    return f"{param}: {message}" if param else message, param
