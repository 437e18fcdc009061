"""The server as a plain ASGI app, which any ASGI server or engine runs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec

from fastapi import FastAPI
from starlette.responses import HTMLResponse
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from lab.models.bundle import Bundle
from lab.models.load import load_options
from lab.runs.pages import template
from lab.serve.a1111_api import a1111_router
from lab.serve.answers import say_errors
from lab.serve.config import ServeConfig
from lab.serve.guards import Guards
from lab.serve.jobs import Jobs
from lab.serve.jobs_api import jobs_router
from lab.serve.openai_api import openai_router
from lab.serve.openai_images import images_router
from lab.serve.service import Service


def create_app(config: ServeConfig = ServeConfig(), bundle: Bundle | None = None) -> FastAPI:
    """Makes the app with its own queue and threads; it shares nothing with another one, so that several can serve side
    by side, each with an `out` folder of its own.

    Args:
        bundle: The model; by default it is loaded as the config says.

    Raises:
        InputError: a model or embeddings that cannot be read.
    """
    service = Service(bundle or load_options(config), config)

    jobs = Jobs(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        jobs.close()
        service.close()

    app = FastAPI(
        title="The lab",
        summary="A text-conditioning lab for Stable Diffusion.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere, which an offline machine cannot
        redoc_url=None,
    )
    app.state.service, app.state.jobs = service, jobs
    say_errors(app, config)
    app.add_middleware(Guards, config=config)
    app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=["127.0.0.1", "::1", *config.allow_proxy])
    for router in (openai_router(service), images_router(service), a1111_router(service), jobs_router(jobs)):
        app.include_router(router)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(template("lab.serve", "docs.html").render(schema=app.openapi()))

    if config.page and find_spec("gradio"):
        from lab.serve.page.mount import mount_page  # takes seconds, which an API alone need not wait

        mount_page(app, service, jobs)
    return app
