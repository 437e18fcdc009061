"""One model for many clients: batches, turns, and clients that go away."""

import json
from concurrent.futures import ThreadPoolExecutor
from gc import collect
from io import BytesIO
from socket import create_connection
from threading import Event
from time import monotonic, sleep
from weakref import ref

import httpx
import numpy as np
import pytest
from PIL import Image

import lab
from lab.search import features
from lab.serve import service as service_module
from lab.serve.page.studio import Studio
from lab.serve.service import Preview, Progress


@pytest.fixture
def service(app):
    return app.state.service


@pytest.fixture
def held(monkeypatch):
    """The numbers of images that are made together; nothing is begun before `held.go` is set."""

    class Held:
        def __init__(self):
            self.go = Event()
            self.together = []
            self.steps = 0

    state, run_jobs = Held(), service_module.run_jobs

    def holding(bundle, jobs, observer):
        state.go.wait(10)
        state.together.append(len(jobs))

        def counting(step):
            state.steps += 1
            observer(step)

        return run_jobs(bundle, jobs, observer=counting)

    monkeypatch.setattr(service_module, "run_jobs", holding)
    yield state
    state.go.set()


def until(what):
    end = monotonic() + 20
    while not what():
        assert monotonic() < end
        sleep(0.01)


def pixels(image):
    return np.asarray(image.convert("RGB"), dtype=int)


def test_images_of_two_clients_are_made_together_and_equal_those_made_alone(service, held, emoji):
    service.order_pictures("first", {"prompt": "a", "steps": 2})
    until(lambda: service.pictures.under_way)
    prompts = ["noto emoji of a red apple", "fluent emoji of a (blue:1.2) cat"]
    orders = [
        service.order_pictures(prompt, {"prompt": prompt, "seeds": seeds, "steps": 2})
        for prompt, seeds in zip(prompts, ([1, 2], [3]), strict=True)
    ]
    held.go.set()
    together = [picture for order in orders for picture in order.future.result(30)]
    assert held.together == [1, 3]
    alone = [*lab.generate(emoji, prompt=prompts[0], seeds=[1, 2], steps=2)]
    alone += lab.generate(emoji, prompt=prompts[1], seeds=3, steps=2)
    for one, other in zip(together, alone, strict=True):
        assert one.record == other.record
        assert np.abs(pixels(one.image) - pixels(other.image)).max() <= 1


def test_one_clients_mistake_is_not_anothers(service, held, monkeypatch):
    service.order_pictures("first", {"prompt": "a", "steps": 2})
    until(lambda: service.pictures.under_way)
    good = service.order_pictures("good", {"prompt": "a cat", "steps": 2})
    bad = service.order_pictures("bad", {"prompt": "a <negative>", "steps": 2})
    monkeypatch.setattr(service, "library", {})  # its file is taken away meanwhile
    held.go.set()
    assert len(good.future.result(30)) == 1
    with pytest.raises(lab.InputError, match="no embedding of that name"):
        bad.future.result(30)


def test_an_embedding_may_be_removed_while_an_image_is_made_with_it(service, monkeypatch):
    path = service.library["negative"].provenance.path
    order = service.order_pictures(
        "a",
        {"prompt": "a <negative>", "steps": 2},
        tell=lambda _: monkeypatch.setattr(service, "library", {}),  # as when its job is removed
    )
    assert order.future.result(30)[0].record["embedding"] == [f"{path.absolute()}=negative"]


def test_progress_and_a_look_at_what_is_under_way(service):
    told = []
    order = service.order_pictures("a", {"prompt": "a", "steps": 3}, tell=told.append, previews=1)
    order.look = True
    order.future.result(30)
    shares = [event.done for event in told if isinstance(event, Progress)]
    assert shares == sorted(shares) and 0 < shares[0] < 1
    assert [event.number for event in told if isinstance(event, Preview)] == [0]
    assert order.preview.size == (128, 128) and not order.look


def test_of_very_many_images_that_were_sent_the_last_are_kept(service, monkeypatch):
    monkeypatch.setattr("lab.serve.kept.MOST_KEPT", 2 - service.config.max_waiting)
    kept = []
    for colour in ("red", "green", "red", "blue"):
        file = BytesIO()
        Image.new("RGB", (8, 8), colour).save(file, "PNG")
        sleep(0.02)  # which file systems tell apart
        kept.append(service.images.take(file.getvalue()))
    assert kept[0] == kept[2] and [path.is_file() for path in kept] == [True, False, True, True]


def test_what_was_made_on_the_page_is_not_held_in_memory(service):
    studio = Studio(service)
    making = studio.make("0" * 32, {"prompt": "a", "steps": 1})
    assert studio.under_way("0" * 32) is making
    making.order.future.result(30)
    gone = ref(making)
    del making
    until(lambda: collect() is not None and gone() is None)


def send(address, seconds, **asked):
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{address}/v1/images/generations", json={"prompt": "a cat", **asked}, timeout=seconds)


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_client_does_not_wait_for_is_broken_off(service, held, address, stream):
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(send, address, 0.5, steps=30, n=4, stream=stream)
        until(lambda: service.pictures.under_way)
        waiting = threads.submit(send, address, 0.5, steps=29, stream=stream)
        until(lambda: service.pictures.waiting)
        running.result(), waiting.result()
    until(lambda: not service.pictures.orders)
    held.go.set()
    until(lambda: not service.pictures.under_way)
    assert held.steps <= 1 and held.together == [4]


def test_vectors_that_no_client_waits_for_are_broken_off(service, address, monkeypatch):
    go, batches = Event(), []

    def holding(*given, encode_chunks=features.encode_chunks, **how):
        batches.append(given)
        go.wait(10)
        return encode_chunks(*given, **how)

    monkeypatch.setattr(features, "encode_chunks", holding)
    asked = json.dumps({"model": "emoji", "input": ["a"] * 200})
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(asked)}\r\n"
    with create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as client:
        client.sendall(f"{head}Content-Type: application/json\r\n\r\n{asked}".encode())
        until(lambda: batches)
    until(lambda: not service.vectors.orders)
    go.set()
    until(lambda: not service.vectors.under_way)
    assert len(batches) == 1
