"""The server behind an engine for many machines: Ray Serve, with replicas that know nothing of each other.

    pip install "ray[serve]"
    python -m scripts.ray_serve --replicas 2

`create_app` makes a plain ASGI app, which Ray Serve takes as it is. Each replica has model, queues and `out` folder
of its own, so what is found again by a name (jobs, images asked for as URLs) is found on its replica alone: behind more
than one, ask for images as `b64_json`, and send jobs to a server of their own. The script asks through the `openai`
client and says which replicas answered, and that their answers are the same.
"""

import argparse
import base64
import os
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import openai
import ray
from fastapi import FastAPI
from PIL import Image
from ray import serve
from starlette.middleware.base import RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response

from lab.serve.app import create_app
from lab.serve.config import ServeConfig

PORT = 8017


def main() -> None:
    """Starts the replicas, asks, and prints who answered what."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--replicas", type=int, default=2)
    options.add_argument("--requests", type=int, default=40)
    arguments = options.parse_args()
    ray.init(num_cpus=arguments.replicas + 1, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    try:
        serve.run(replicated(arguments.replicas))
        with openai.OpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key="none", timeout=300) as client:
            ask(client, arguments.requests)
    finally:
        serve.shutdown()
        ray.shutdown()


def replicated(replicas: int) -> serve.Application:
    """The server as a deployment of Ray Serve."""

    class Lab:
        """Ray's name for the app."""

    deployment = serve.deployment(
        num_replicas=replicas, ray_actor_options={"num_cpus": 1}, max_ongoing_requests=64
    )
    return deployment(serve.ingress(replica)(Lab)).bind()


def replica() -> FastAPI:
    """The app of one replica, which signs its answers."""
    app = create_app(ServeConfig(device="cpu", out=Path(tempfile.mkdtemp(prefix="lab-replica-"))))

    @app.middleware("http")
    async def sign(request: Request, answer: RequestResponseEndpoint) -> Response:
        response = await answer(request)
        response.headers["x-replica"] = str(os.getpid())
        return response

    return app


def ask(client: openai.OpenAI, count: int) -> None:
    """Asks for the same vector and the same image again and again, side by side."""

    def one(number: int) -> tuple[str, np.ndarray]:
        if number % 4:
            vector = client.embeddings.with_raw_response.create(input="a red apple", model="emoji")
            return vector.headers["x-replica"], np.array(vector.parse().data[0].embedding)
        image = client.images.with_raw_response.generate(
            prompt="a red apple", extra_body={"seed": 1, "steps": 2}
        )
        made = (image.parse().data or [])[0].b64_json
        file = BytesIO(base64.b64decode(made or ""))
        return image.headers["x-replica"], np.asarray(Image.open(file), dtype=float)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(one, range(count)))
    print(f"{count} requests, answered by replica: {dict(Counter(who for who, _ in answers))}")
    vectors = np.array([found for number, (_, found) in enumerate(answers) if number % 4])
    images = np.array([found for number, (_, found) in enumerate(answers) if not number % 4])
    print(
        f"vectors differ by {np.ptp(vectors, axis=0).max():.1e} at most, pixels by {np.ptp(images, axis=0).max():.0f}"
    )


if __name__ == "__main__":
    main()
