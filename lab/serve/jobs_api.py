"""The lab's own API: jobs with their progress and their files, and the images to learn from."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from lab.config import Config
from lab.errors import InputError
from lab.serve.answers import client_of, server_sent
from lab.serve.job import ENDED, Job
from lab.serve.job_kinds import CompareJob, GenerateJob, TrainJob
from lab.serve.jobs import Jobs

PING = 15.0
"""Seconds without news after which a stream of events shows that it is alive."""


def jobs_router(jobs: Jobs) -> APIRouter:
    """`/lab/v1`: jobs, and sets of images."""
    router = APIRouter(prefix="/lab/v1", tags=["The lab's jobs"])

    async def add(request: Request, kind: str, asked: Config) -> Response:
        job = await run_in_threadpool(jobs.add, client_of(request), kind, asked)
        return JSONResponse(job.describe(), 202)

    @router.post("/jobs/generate", status_code=202)
    async def start_generating(asked: GenerateJob, request: Request) -> Response:
        """Prompts x seeds into a run folder."""
        return await add(request, "generate", asked)

    @router.post("/jobs/compare", status_code=202)
    async def start_comparing(asked: CompareJob, request: Request) -> Response:
        """What variants change, how much, and how sure that is; `report.html` among its files shows it."""
        return await add(request, "compare", asked)

    @router.post("/jobs/train", status_code=202)
    async def start_training(asked: TrainJob, request: Request) -> Response:
        """An embedding learned from a set of images, or from words; texts may name it when it is done."""
        return await add(request, "train", asked)

    @router.get("/jobs")
    async def list_jobs() -> dict[str, Any]:
        """All jobs, the newest first."""
        return {"jobs": [job.describe() for job in jobs.all()]}

    @router.get("/jobs/{name}")
    async def show_job(name: str) -> dict[str, Any]:
        """One job: what it is, and how far."""
        return jobs.find(name).describe()

    @router.get("/jobs/{name}/events")
    async def follow_job(name: str, request: Request) -> Response:
        """The job as server-sent events, one whenever something changes, until it has ended."""
        return StreamingResponse(_events(jobs.find(name), request), media_type="text/event-stream")

    @router.post("/jobs/{name}/cancel")
    async def cancel_job(name: str) -> dict[str, Any]:
        """Ends a job that waits or runs; what it has made stays."""
        job = jobs.find(name)
        await run_in_threadpool(jobs.cancel, job)
        return job.describe()

    @router.delete("/jobs/{name}", status_code=204)
    async def remove_job(name: str) -> None:
        """Removes a job that has ended, with all that it has made, and the images that it alone learned from."""
        await run_in_threadpool(jobs.remove, jobs.find(name))

    @router.post("/jobs/{name}/resume", status_code=202)
    async def resume_job(name: str, request: Request) -> Response:
        """Goes on with a job that was broken off, from what it has made."""
        job = jobs.find(name)
        await run_in_threadpool(jobs.resume, job, client_of(request))
        return JSONResponse(job.describe(), 202)

    @router.get("/jobs/{name}/files")
    async def list_files(name: str) -> dict[str, Any]:
        """What the job has made so far."""
        files = await run_in_threadpool(jobs.find(name).files)
        return {"files": [{"name": file, "bytes": path.stat().st_size} for file, path in files.items()]}

    @router.get("/jobs/{name}/files/{file:path}")
    async def send_file(name: str, file: str) -> Response:
        """One of its files, by the name in the list."""
        files = await run_in_threadpool(jobs.find(name).files)
        if file not in files:
            raise HTTPException(404, "the job has no file of that name")
        return FileResponse(files[file])

    @router.post("/images", status_code=201, openapi_extra={"requestBody": _FILES})
    async def send_images(request: Request) -> dict[str, Any]:
        """Images to learn from, as files of a multipart form; `NAME.txt` among them has `NAME.png`'s captions. They
        stay for a day, or as long as a job that learned from them."""
        files: dict[str, bytes] = {}
        async with request.form(max_files=2000, max_fields=10) as form:
            for _, value in form.multi_items():
                if isinstance(value, UploadFile):
                    if value.filename in files:
                        raise InputError(f"images: two files are called '{str(value.filename)[:60]}'")
                    files[value.filename or ""] = await value.read()
        return {"id": await run_in_threadpool(jobs.keep_images, files)}

    return router


_FILES = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        }
    },
}


async def _events(job: Job, request: Request) -> AsyncIterator[bytes]:
    """The job as it is now, and again after every change, of which those in quick succession are told as one."""
    changed, loop = asyncio.Event(), asyncio.get_running_loop()
    unwatch = job.watch(lambda: loop.call_soon_threadsafe(changed.set))
    try:
        while not await request.is_disconnected():
            changed.clear()
            told = job.describe()
            yield server_sent(told, "job")
            if told["state"] in ENDED:
                return
            while not changed.is_set() and not await request.is_disconnected():
                try:
                    await asyncio.wait_for(changed.wait(), PING)
                except TimeoutError:
                    yield b": still here\n\n"
    finally:
        unwatch()
