"""What the server costs beside calling in process, and whether it holds under load.

    python -m scripts.bench_serve

Clients run in a process of their own, as they do elsewhere, and speak through the `openai` package. Both sides do the
same work: texts one a request at 32 clients against one after the other in process; images one a request at 8 clients
against `lab.generate` of as many at a time. Turns alternate, and medians are compared. Then 64 clients send 1,000 mixed
requests, and the server's memory is read before, between and after.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lab
from lab.models.bundle import Bundle
from lab.search.features import BundleFeatures
from lab.serve.app import create_app
from lab.serve.config import ServeConfig
from tests.serve.running import running

STEPS = 12
MIX = ("text", "text", "text", "image")


def main() -> None:
    """Measures and prints."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--texts", type=int, default=320)
    options.add_argument("--images", type=int, default=16)
    options.add_argument("--mixed", type=int, default=1000)
    options.add_argument("--turns", type=int, default=3)
    options.add_argument("--client", nargs=4, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.client:
        be_client(*arguments.client)
        return
    bundle = lab.load("emoji", device="cpu")
    with tempfile.TemporaryDirectory() as out:
        app = create_app(ServeConfig(out=Path(out), max_waiting=1024), bundle)
        with running(app) as address:
            compare(
                f"{arguments.texts} texts, one a request, 32 clients",
                lambda: texts_in_process(bundle, arguments.texts),
                lambda: send(address, "text", arguments.texts, 32),
                arguments.turns,
            )
            compare(
                f"{arguments.images} images of {STEPS} steps, one a request, 8 clients",
                lambda: images_in_process(bundle, arguments.images),
                lambda: send(address, "image", arguments.images, 8),
                arguments.turns,
            )
            under_load(address, arguments.mixed)


def compare(what: str, inside: Callable[[], float], through: Callable[[], float], turns: int) -> None:
    """Prints the medians of both ways in seconds, and their ratio."""
    inside(), through()  # warm
    pairs = [(inside(), through()) for _ in range(turns)]
    within, over = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"{what}: {over:.2f} s, in process {within:.2f} s, {over / within:.2f} times as long", flush=True)


def under_load(address: str, count: int) -> None:
    """Prints how many of so many mixed requests were answered, how fast, and what that took of memory."""
    before = memory()
    first = send(address, "mixed", count // 2, 64)
    between = memory()
    second = send(address, "mixed", count - count // 2, 64)
    print(
        f"{count} mixed requests, 64 clients: none lost, {count / (first + second):.1f} a second; "
        f"memory {before:.0f}, {between:.0f}, {memory():.0f} MiB before, half way and after"
    )


def prompt(number: int) -> str:
    """A text that no other number has."""
    return f"noto emoji of a red apple, number {number}"


def texts_in_process(bundle: Bundle, count: int) -> float:
    """Seconds for so many texts, one after the other."""
    features = BundleFeatures(bundle, "eos", "plain")
    began = time.perf_counter()
    for number in range(count):
        features.texts([prompt(number)], {})
    return time.perf_counter() - began


def images_in_process(bundle: Bundle, count: int) -> float:
    """Seconds for so many images, eight at a time."""
    began = time.perf_counter()
    for start in range(0, count, 8):
        numbers = range(start, min(start + 8, count))
        lab.generate(bundle, prompt=[prompt(number) for number in numbers], seeds=1, steps=STEPS)
    return time.perf_counter() - began


def memory() -> float:
    """MiB of this process that are in memory."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def send(address: str, kind: str, count: int, clients: int) -> float:
    """Seconds until so many requests are answered that as many clients send, each one after the other.

    Raises:
        SystemExit: one was not.
    """
    command = [
        sys.executable,
        "-m",
        "scripts.bench_serve",
        "--client",
        address,
        kind,
        str(count),
        str(clients),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"a request was lost:\n{done.stderr[-2000:]}")
    return float(json.loads(done.stdout)["seconds"])


def be_client(address: str, kind: str, count: str, clients: str) -> None:
    """Sends requests from as many threads, and prints how long all took."""
    import openai

    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=600) as client:

        def one(number: int) -> None:
            if (MIX[number % len(MIX)] if kind == "mixed" else kind) == "text":
                answer = client.embeddings.create(input=prompt(number), model="emoji", user=str(number % 64))
                assert len(answer.data[0].embedding) == 256
            else:
                steps = 2 if kind == "mixed" else STEPS
                made = client.images.generate(prompt=prompt(number), extra_body={"steps": steps, "seed": 1})
                assert made.data and made.data[0].b64_json

        with ThreadPoolExecutor(int(clients)) as threads:
            client.models.list()  # the first connection
            began = time.perf_counter()
            list(threads.map(one, range(int(count))))
            print(json.dumps({"seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
