"""Images for programs that speak to the A1111 web UI: from what is asked for to the answer, and how far they are."""

import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from time import monotonic
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.concurrency import run_in_threadpool

from lab.errors import InputError
from lab.models.schedulers import SCHEDULERS
from lab.sample.record import parameters_text, save_result
from lab.serve.a1111_lists import clip_skip_of, options
from lab.serve.a1111_requests import TextToImage
from lab.serve.answers import client_of, image_file, wait_for
from lab.serve.service import Picture, PictureOrder, Service
from lab.text import counted


@dataclass
class Task:
    """A request for images that is being worked at.

    Attributes:
        name: What the web UI calls such a job.
        address: The machine that it comes from.
        orders: One an iteration.
        begun: When it was queued, on the monotonic clock (seconds).
        timestamp: The same for people.
    """

    name: str
    address: str
    orders: Sequence[PictureOrder]
    begun: float
    timestamp: str
    skipped: bool = False
    interrupted: bool = False

    @property
    def current(self) -> int:
        """Which of its orders is being worked at."""
        ended = [order.future.done() for order in self.orders]
        return ended.index(False) if False in ended else len(ended) - 1

    @property
    def progress(self) -> float:
        """The share that is done, never 0."""
        shares = [1.0 if order.future.done() else order.done / len(order.pieces) for order in self.orders]
        return min(max(sum(shares) / len(shares), 0.01), 1.0)

    @property
    def started(self) -> bool:
        """Whether anything of it is done or under way."""
        return any(order.done or order.future.done() for order in self.orders)

    def state(self) -> dict[str, Any]:
        """The task in the web UI's words."""
        order = self.orders[self.current]
        steps, share = order.settings.steps_run, order.done / len(order.pieces)
        return {
            "skipped": self.skipped,
            "interrupted": self.interrupted,
            "stopping_generation": False,
            "job": self.name,
            "job_count": len(self.orders),
            "job_timestamp": self.timestamp,
            "job_no": self.current,
            "sampling_step": min(int(share * (steps + 1)), steps),  # decoding takes a share, too
            "sampling_steps": steps,
        }


_IDLE = dict.fromkeys(("skipped", "interrupted", "stopping_generation"), False) | {
    "job": "",
    "job_count": 0,
    "job_timestamp": "0",
    "job_no": 0,
    "sampling_step": 0,
    "sampling_steps": 0,
}


class WebUI:
    """What the web UI keeps for all, kept for each machine that requests come from: one does not see or stop what
    another asked for, and its options are its own."""

    def __init__(self, service: Service):
        self._service = service
        self._tasks: list[Task] = []
        self._clip_skips: dict[str, int] = {}
        self._version = f"lab {version('text-conditioning-lab')}"

    def task(self, request: Request) -> Task | None:
        """The oldest task of a request's machine."""
        return next((task for task in self._tasks if task.address == _address(request)), None)

    def clip_skip(self, request: Request) -> int:
        """The clip skip that a request's machine set, as the web UI counts."""
        return self._clip_skips.get(_address(request), 1)

    def options(self, request: Request) -> dict[str, Any]:
        """The options as they are for a request's machine."""
        return options(self._service, self.clip_skip(request))

    def set_options(self, request: Request, given: Mapping[str, Any]) -> None:
        """Keeps options for a request's machine; takes what `clip_skip_of` takes."""
        self._clip_skips[_address(request)] = clip_skip_of(self._service, given, self.clip_skip(request))

    def progress(self, request: Request, with_image: bool) -> dict[str, Any]:
        """How far the oldest task of a request's machine is: 0, and no job, where there is none."""
        task = self.task(request)
        if task is None:
            return {
                "progress": 0.0,
                "eta_relative": 0.0,
                "state": _IDLE,
                "current_image": None,
                "textinfo": None,
            }
        elapsed, order = monotonic() - task.begun, task.orders[task.current]
        order.look |= with_image  # after the next step
        image = _png(order.preview) if with_image and order.preview else None
        made = sum(len(order.results) for order in task.orders)
        count = sum(len(order.pieces) for order in task.orders)
        return {
            "progress": task.progress,
            "eta_relative": elapsed / task.progress - elapsed,
            "state": task.state(),
            "current_image": image,
            "textinfo": f"{made} of {counted(count, 'image')}" if task.started else "waiting for its turn",
        }

    def stop(self, request: Request, whole: bool) -> None:
        """Ends the oldest task of a request's machine with what is finished, or its current iteration alone."""
        task = self.task(request)
        if task is None:
            return
        task.interrupted, task.skipped = task.interrupted or whole, task.skipped or not whole
        for order in task.orders[task.current :] if whole else [task.orders[task.current]]:
            order.settle()

    async def make(self, asked: TextToImage, request: Request, name: str) -> Response:
        """The answer to a request for images."""
        task = await run_in_threadpool(self._begin, asked, request, name)
        self._tasks.append(task)
        pictures: list[Picture] = []
        try:
            for order in task.orders:
                pictures += await wait_for(request, order)
        finally:
            self._tasks.remove(task)
            for order in task.orders:
                order.cancel()
        return await run_in_threadpool(self._answer, asked, task, pictures)

    def _begin(self, asked: TextToImage, request: Request, name: str) -> Task:
        """Queues an order an iteration; they are done together where they fit."""
        asked.check()
        if asked.count > (most := self._service.config.max_images):
            raise InputError(f"batch_size: {asked.count} images are over {most} in a request; ask for fewer")
        before = asked.clip_skip or self.clip_skip(request)
        settings = asked.lab_settings(
            self._service, clip_skip_of(self._service, asked.override_settings, before)
        )
        seeds, orders = asked.seeds(), []
        try:
            for first in range(0, asked.count, asked.batch_size):
                some = settings | {"seeds": seeds[first : first + asked.batch_size]}
                orders.append(self._service.order_pictures(client_of(request), some))
        except BaseException:
            for order in orders:
                order.cancel()
            raise
        if not asked.override_settings_restore_afterwards:
            self.set_options(request, asked.override_settings)
        return Task(name, _address(request), orders, monotonic(), f"{datetime.now():%Y%m%d%H%M%S}")

    def _answer(self, asked: TextToImage, task: Task, pictures: Sequence[Picture]) -> Response:
        if asked.save_images:
            for number, picture in enumerate(pictures):
                self._save(task, number, picture)
        images = [_png(picture.image, picture.record) for picture in pictures] if asked.send_images else []
        info = json.dumps(self._info(asked, task, [picture.record for picture in pictures]))
        return JSONResponse({"images": images, "parameters": asked.echo(), "info": info})

    def _save(self, task: Task, number: int, picture: Picture) -> None:
        name = f"{task.timestamp}-{secrets.token_hex(4)}-{number:03d}-seed{picture.record['seed']}.png"
        save_result(self._service.config.out / "saved" / name, picture.image, picture.record)

    def _info(self, asked: TextToImage, task: Task, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What the web UI tells of images; after an interruption, of those that were finished."""
        order = task.orders[0]
        settings, options = order.settings, order.pieces[0].options
        seed = order.pieces[0].seed
        return {
            "prompt": asked.prompt,
            "all_prompts": [record["prompt"] for record in records],
            "negative_prompt": asked.negative_prompt,
            "all_negative_prompts": [record["negative_prompt"] for record in records],
            "seed": seed,
            "all_seeds": [record["seed"] for record in records],
            "subseed": -1,
            "all_subseeds": [-1] * len(records),
            "subseed_strength": 0,
            "width": settings.width,
            "height": settings.height,
            "sampler_name": SCHEDULERS[settings.scheduler].a1111,
            "cfg_scale": settings.guidance,
            "steps": settings.steps,
            "batch_size": asked.batch_size,
            "restore_faces": False,
            "face_restoration_model": None,
            "sd_model_name": self._service.name,
            "sd_model_hash": self._service.bundle.short_hash,
            "sd_vae_name": None,
            "sd_vae_hash": None,
            "seed_resize_from_w": -1,
            "seed_resize_from_h": -1,
            "denoising_strength": settings.strength,
            "extra_generation_params": {"Schedule type": "Karras" if settings.karras else "Automatic"},
            "index_of_first_image": 0,
            "infotexts": [parameters_text(record) for record in records],
            "styles": [],
            "job_timestamp": task.timestamp,
            "clip_skip": options.clip_skip + 1,
            "is_using_inpainting_conditioning": False,
            "version": self._version,
        }


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _png(image: Image.Image, record: Mapping[str, Any] | None = None) -> str:
    """A PNG in base64, with the record in it if there is one."""
    return base64.b64encode(image_file(image, record)).decode()
