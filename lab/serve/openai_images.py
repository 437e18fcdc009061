"""OpenAI's API of images: made from prompts, or from prompts and an image."""

import base64
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from PIL import Image
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from lab.errors import InputError
from lab.sample.config import MAX_SEED
from lab.serve.answers import Events, client_of, image_file, server_sent, wait_for, what_went_wrong
from lab.serve.bounds import following_seeds
from lab.serve.config import LabSettings
from lab.serve.guards import error_body
from lab.serve.openai_api import check_model
from lab.serve.service import Finished, Picture, PictureOrder, Preview, Service

Format = Literal["png", "jpeg", "webp"]


class ImagesRequest(LabSettings):
    """Images to be made: OpenAI's fields, and the lab's own settings beside them."""

    prompt: str
    """What the images show."""

    model: str | None = None
    """The model's name; OpenAI's own names stand for it."""

    n: int = Field(1, ge=1, le=10_000)
    """How many, with seeds that follow one another."""

    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    """The first image's seed; by default one that nobody knows before."""

    size: str | None = None
    """`WIDTHxHEIGHT` in pixels, or `auto` for the model's own."""

    response_format: Literal["url", "b64_json"] = "b64_json"
    """The image itself, or where it is to be had until the server has kept many newer ones."""

    output_format: Format = "png"
    """Of the file. All carry what made the image; PNG without loss."""

    output_compression: int = Field(90, ge=0, le=100)
    """The quality of JPEG and WebP, as a percentage."""

    stream: bool = False
    """Sends events: previews, then each image."""

    partial_images: int = Field(0, ge=0, le=3)
    """With `stream`: how many previews of each image."""

    background: Literal["auto", "opaque"] | None = None
    """Images have an opaque one."""

    quality: str | None = None
    """Has no meaning here: `steps` has."""

    style: str | None = None
    """Has no meaning here: the prompt has."""

    moderation: str | None = None
    """Has no meaning here."""

    user: str | None = None
    """Whom the request is for: users get their turns side by side."""

    safety_identifier: str | None = None
    """The same, as newer clients say it."""

    input_fidelity: str | None = None
    """Has no meaning here: `strength` has."""

    def settings(self) -> dict[str, Any]:
        """What is asked for, as `GenerateConfig` takes it.

        Raises:
            InputError: a size that is none, or too large a seed.
        """
        seeds = following_seeds(self.seed, self.n)
        given = self.lab_settings() | {"prompt": self.prompt, "seeds": seeds}
        if self.size in (None, "auto"):
            return given
        width, times, height = (self.size or "").partition("x")
        if not (times and width.isdecimal() and height.isdecimal()):
            raise InputError(f"size: '{self.size[:20]}' is none; write WIDTHxHEIGHT in pixels, or auto")
        return given | {"width": int(width[:9]), "height": int(height[:9])}


class Images:
    """What both ways to images share: from what is asked for to the answer."""

    def __init__(self, service: Service):
        self._service = service

    async def answer(
        self, asked: ImagesRequest, request: Request, kind: str, init_image: Path | None = None
    ) -> Response:
        """The images, or a stream of events about them.

        Args:
            kind: What the events are called: `image_generation` or `image_edit`.
        """
        check_model(self._service, asked.model)
        settings = asked.settings() | ({"init_image": init_image} if init_image else {})
        events = Events()
        order = await run_in_threadpool(
            self._service.order_pictures,
            client_of(request, asked.user or asked.safety_identifier),
            settings,
            asked.embeddings,
            events.tell,
            asked.partial_images if asked.stream else 0,
        )
        if asked.stream:
            return StreamingResponse(
                self._events(events, order, asked, request, kind), media_type="text/event-stream"
            )
        pictures: list[Picture] = await wait_for(request, order)
        data = [await run_in_threadpool(self._datum, picture, asked, request) for picture in pictures]
        tokens = sum(picture.tokens for picture in pictures)
        return JSONResponse({"created": int(time.time()), "data": data} | _about(order, asked, tokens))

    async def _events(
        self, events: Events, order: PictureOrder, asked: ImagesRequest, request: Request, kind: str
    ) -> AsyncIterator[bytes]:
        async for event in events.until_end(request, order):
            if isinstance(event, Preview):
                name, tokens = f"{kind}.partial_image", None
                preview = await run_in_threadpool(_encoded, event.image, asked)
                told = {"b64_json": _base64(preview), "partial_image_index": event.number}
            elif isinstance(event, Finished):
                name, tokens = f"{kind}.completed", event.picture.tokens
                told = await run_in_threadpool(self._datum, event.picture, asked, request)
            else:
                continue
            told |= {"type": name, "created_at": int(time.time()), "index": event.place}
            yield server_sent(told | _about(order, asked, tokens), name)
        if not order.future.cancelled() and (error := order.future.exception()):
            status = 400 if isinstance(error, InputError) else 500
            yield server_sent(error_body(status, what_went_wrong(error, self._service.config)), "error")

    def _datum(self, picture: Picture, asked: ImagesRequest, request: Request) -> dict[str, Any]:
        """A finished image as the answer has it, with its record."""
        data = _encoded(picture.image, asked, picture.record)
        if asked.response_format == "b64_json":
            return {"b64_json": _base64(data), "record": picture.record}
        name = self._service.images.offer(data, asked.output_format)
        return {"url": str(request.url_for("kept_image", name=name)), "record": picture.record}


def images_router(service: Service) -> APIRouter:
    """`/v1/images/generations`, `/v1/images/edits`, and the images that are asked for as URLs."""
    router = APIRouter(prefix="/v1/images", tags=["OpenAI"])
    images = Images(service)

    @router.post("/generations")
    async def generate_images(asked: ImagesRequest, request: Request) -> Response:
        """Images of a prompt."""
        return await images.answer(asked, request, "image_generation")

    @router.post("/edits", openapi_extra={"requestBody": _EDITS})
    async def edit_image(request: Request) -> Response:
        """Images of a prompt that begin from an image instead of from noise alone (`strength`)."""
        fields, sent = await _form(request)
        asked = ImagesRequest.build(fields)
        init_image = await run_in_threadpool(service.images.take, sent)
        return await images.answer(asked, request, "image_edit", init_image)

    @router.get("/files/{name}")
    async def kept_image(name: str) -> Response:
        """An image that was asked for as a URL."""
        return FileResponse(service.images.find(name))

    return router


_EDITS = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": ImagesRequest.model_json_schema()
            | {"required": ["prompt", "image"]}
            | {
                "properties": ImagesRequest.model_json_schema()["properties"]
                | {"image": {"type": "string", "format": "binary"}}
            }
        }
    },
}


async def _form(request: Request) -> tuple[dict[str, Any], bytes]:
    """The fields of a multipart form by name, lists where a name ends in [] as OpenAI's clients write them, and the
    image among its files.

    Raises:
        InputError: no image, several, or a mask.
    """
    fields: dict[str, Any] = {}
    lists: dict[str, list[str]] = defaultdict(list)
    files: list[bytes] = []
    async with request.form(max_files=4, max_fields=100) as form:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                if name.endswith("[]"):
                    lists[name[:-2]].append(value)
                else:
                    fields[name] = value
            elif name in ("image", "image[]"):
                files.append(await value.read())
            elif name == "mask":
                raise InputError("mask: says where to paint, which takes an inpainting model; leave it out")
    if len(files) != 1:
        raise InputError(f"image: {len(files)} were sent, and one is wanted, as a file of a multipart form")
    return fields | lists, files[0]


def _about(order: PictureOrder, asked: ImagesRequest, tokens: int | None) -> dict[str, Any]:
    """What an answer says of its images besides, as OpenAI's clients read it."""
    settings = order.settings
    about: dict[str, Any] = {"output_format": asked.output_format, "quality": "auto", "background": "opaque"}
    about["size"] = f"{settings.width}x{settings.height}"
    if tokens is not None:
        details = {"text_tokens": tokens, "image_tokens": 0}
        about["usage"] = {"input_tokens": tokens, "input_tokens_details": details, "output_tokens": 0}
        about["usage"]["total_tokens"] = tokens
    return about


def _encoded(image: Image.Image, asked: ImagesRequest, record: Mapping[str, Any] | None = None) -> bytes:
    """An image file in the format that was asked for."""
    return image_file(image, record, asked.output_format, asked.output_compression)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
