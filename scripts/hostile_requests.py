"""Requests that no client means well: none may be answered with a 5xx but 501, and none may keep the server.

    python -m scripts.hostile_requests --requests 10000

Every operation of the server's own OpenAPI schema gets bodies that follow it, that nearly do, and that do not: wild
JSON where a value belongs, other keys, no JSON at all, forms with broken images, names that lead elsewhere. They are
drawn by hypothesis, from a seed; the server has small bounds, so that what is valid costs little. Jobs that are let in
are given a moment, then cancelled; one that fails by the server's fault counts as a 5xx. The page's own routes get
theirs from `hostile_page.py`; what gives away a file of the machine counts as a 5xx, too.
"""

import argparse
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from lab.comparing.axes import AXES
from lab.models.load import load
from lab.serve.app import create_app
from lab.serve.config import ServeConfig
from scripts.hostile_page import gives_away, outcome, page_requests, plain
from tests.serve.running import running

SECONDS = 60
"""After which a request counts as lost."""

NAMES = ["../../etc/passwd", "/etc/passwd", "..%2f..", "%00", "CON", ".", "a" * 3000, "job.json", "é", "<n>"]
WORDS = [
    "((((",
    "[a:b:0.5]",
    "[[a|b]|c]",
    " AND ",
    "BREAK",
    "<negative>",
    "<lora:x:1>",
    "embedding:",
    "\0",
    "\ud83d",
]
WORDS += [
    "(a:1e999)",
    "(a:nan)",
    "{a|b}",
    "\\(",
    "💥",
    "🧑‍🚀",
    "a " * 2000,
    "hub:org/name",
    "file:/etc/passwd",
    "none",
]

numbers = st.one_of(
    st.integers(-3, 40), st.integers(), st.floats(), st.sampled_from([2**63, 2**64, 10**400, -1])
)
texts = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(WORDS), max_size=6).map("".join),
    st.sampled_from(NAMES),
    st.integers(0, 6000).map("a ".__mul__),
)
wild = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inside: st.one_of(st.lists(inside, max_size=4), st.dictionaries(texts, inside, max_size=3)),
    max_leaves=8,
)


FITTING: dict[str, st.SearchStrategy[Any]] = {
    "model": st.sampled_from(["emoji", "emoji:mean", "text-embedding-3-small"]),
    "steps": st.integers(1, 2),
    "size": st.sampled_from(["128x128", "64x64", "auto"]),
    "n": st.integers(1, 2),
    "seeds": st.sampled_from(["1", "1-2"]),
    "prompt": texts,
    "prompts": st.just(["a cat", "a dog"]),
    "name": st.sampled_from(["toy", "cat-toy"]),
    "axes": st.dictionaries(
        st.sampled_from(sorted(AXES)), st.lists(st.one_of(st.integers(0, 9), texts), max_size=3)
    ),
}
"""Values that are likely to be let in, of fields on which much depends."""

USUAL = ("steps", "prompt", "prompts", "axes", "name")
"""Fields that most requests have, where there are such."""


def values(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a field's schema allows, and a few that it does not."""
    if "anyOf" in schema:
        fitting = st.one_of(*map(values, schema["anyOf"]))
    elif "enum" in schema:
        fitting = st.sampled_from(schema["enum"])
    elif "const" in schema:
        fitting = st.just(schema["const"])
    elif schema.get("type") == "array":
        fitting = st.lists(values(schema.get("items", {})), max_size=3)
    else:
        kinds: dict[Any, st.SearchStrategy[Any]] = {
            "string": texts,
            "integer": st.integers(schema.get("minimum", -2), schema.get("maximum", 40)),
            "number": st.floats(schema.get("minimum", -2), schema.get("maximum", 40)),
            "boolean": st.booleans(),
            "null": st.none(),
            "object": st.dictionaries(texts, wild, max_size=3),
        }
        fitting = kinds.get(schema.get("type"), wild)
    return st.one_of(fitting, fitting, fitting, fitting, wild)


def bodies(schema: Mapping[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of a schema's fields, the required ones mostly among them, and now and then another."""
    fields = {name: values(field) for name, field in schema.get("properties", {}).items()}
    fields |= {
        name: st.one_of(kind, kind, kind, fields[name]) for name, kind in FITTING.items() if name in fields
    }
    required = {name: fields[name] for name in (*schema.get("required", ()), *USUAL) if name in fields}
    some = st.sets(st.sampled_from(sorted(fields) or ["x"]), max_size=4).flatmap(
        lambda names: st.fixed_dictionaries({name: fields.get(name, wild) for name in names})
    )
    whole = st.builds(lambda one, other: {**one, **other}, some, st.fixed_dictionaries(required))
    odd = st.builds(lambda body, key, value: {**body, key: value}, whole, texts, wild)
    return st.one_of(whole, whole, whole, some, odd)


def picture() -> bytes:
    """A small PNG."""
    file = BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, "PNG")
    return file.getvalue()


PICTURE = picture()
files = st.one_of(
    st.binary(max_size=200),
    st.integers(0, len(PICTURE)).map(lambda at: PICTURE[:at]),
    st.tuples(st.integers(0, len(PICTURE) - 1), st.integers(0, 255)).map(
        lambda change: PICTURE[: change[0]] + bytes([change[1]]) + PICTURE[change[0] + 1 :]
    ),
)


def requests(openapi: Mapping[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments of `httpx.Client.request` for the operations of an OpenAPI schema."""

    def drawn(path: str, method: str, operation: Mapping[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
        names = re.findall(r"\{(\w+)", path)
        places = st.fixed_dictionaries(dict.fromkeys(names, texts))
        urls = places.map(lambda given: re.sub(r"\{(\w+)[^}]*\}", lambda name: _quoted(given[name[1]]), path))
        whole = {"method": st.just(method.upper()), "url": urls}
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            schema = content.get("schema", {})
            name = schema.get("$ref", "").rpartition("/")[2]
            schema = openapi["components"]["schemas"][name] if name else schema
            return _with_body(whole, kind, schema)
        return st.fixed_dictionaries(whole)

    operations = [
        drawn(path, method, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    return st.one_of(*operations)


def _quoted(text: str) -> str:
    return quote(text.encode("utf-8", "replace"), safe="/.%")


def _with_body(
    whole: dict[str, Any], kind: str, schema: Mapping[str, Any]
) -> st.SearchStrategy[dict[str, Any]]:
    if kind.startswith("multipart"):
        fields = bodies(schema).map(lambda body: {plain(key): plain(value) for key, value in body.items()})
        parts = st.lists(
            st.tuples(
                st.sampled_from(["image", "image[]", "mask", "files"]),
                st.tuples(st.sampled_from(["a.png", "b.txt", *NAMES]), files),
            ),
            max_size=3,
        )
        return st.fixed_dictionaries({**whole, "data": fields, "files": parts})
    good = bodies(schema).map(lambda body: json.dumps(body).encode())
    broken = st.one_of(
        wild.map(json.dumps).map(str.encode), st.binary(max_size=60), good.map(lambda body: body[:-2])
    )
    deep = st.one_of(
        st.integers(1, 100_000).map(b"[".__mul__),
        st.integers(1, 5000).map(b'{"a":'.__mul__),
        st.integers(0, 10**6).map(lambda length: b'"' + b"a" * length + b'"'),
    )
    types = st.sampled_from(
        ["application/json"] * 6
        + ["text/plain", "", "multipart/form-data", "application/json; charset=utf-7"]
    )
    headers = types.map(lambda kind: {"Content-Type": kind})
    return st.fixed_dictionaries(
        {**whole, "content": st.one_of(good, good, good, good, broken, deep), "headers": headers}
    )


def send(client: httpx.Client, request: Mapping[str, Any]) -> int | str:
    """The status of the answer, or what went wrong instead of one."""
    try:
        told, session = b"", request.get("session", "")
        with client.stream(**{name: value for name, value in request.items() if name != "session"}) as answer:
            for piece in answer.iter_raw():
                told += piece[: 10**6 - len(told)]
            status = answer.status_code
        if session and status == 200:
            told += outcome(client, session)
        return "a file of the machine" if gives_away(told) else status
    except httpx.InvalidURL:
        return "not sent"
    except httpx.HTTPError as error:
        return type(error).__name__


SMALL = {
    "max_images": 2,
    "max_steps": 30,
    "max_pixels": 128 * 128,
    "max_waiting": 16,
    "max_body": 2,
    "max_upload": 4,
}
"""Bounds under which what is valid costs little."""


def main() -> None:
    """Sends the requests and prints how they were answered."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--requests", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as out:
        app = create_app(ServeConfig(out=Path(out), **SMALL), load("emoji", device="cpu"))
        with running(app) as address, httpx.Client(base_url=address, timeout=SECONDS) as client:
            statuses, bad = attack(client, app, arguments.requests, arguments.seed)
            alive = client.get("/v1/models").status_code == 200
    print(f"{statuses.total():,} requests: {dict(sorted(statuses.items(), key=str))}; alive: {alive}")
    print(f"{len(bad)} were answered with a 5xx or not at all")


def attack(client: httpx.Client, app: FastAPI, count: int, chance: int) -> tuple[Counter[Any], list[str]]:
    """Sends so many requests, and returns their statuses and what there must not be."""
    functions = client.get("/config").json()["dependencies"]
    to_page = page_requests(
        [len(one["inputs"]) for one in functions], texts, wild, app.state.service.config.out.absolute()
    )
    made = client.post("/lab/v1/jobs/generate", json={"prompt": "a cat", "steps": 1}).json()["id"]
    statuses: Counter[Any] = Counter()
    bad: list[str] = []

    @seed(chance)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(requests(app.openapi()), requests(app.openapi()), to_page), st.booleans())
    def one(request: dict[str, Any], known: bool) -> None:
        if known and request["method"] == "GET":  # about a job that there is
            request["url"] = re.sub("/jobs/[^/]+", f"/jobs/{made}", request["url"])
        began = time.perf_counter()
        status = send(client, request)
        statuses[status] += 1
        if statuses.total() % 500 == 0:
            print(f"{statuses.total():,} so far, {len(bad)} of them bad", flush=True)
        if status not in ("not sent", 501) and (isinstance(status, str) or status >= 500):
            bad.append(f"{status} after {time.perf_counter() - began:.1f} s: {str(request)[:600]}")
            print(bad[-1], flush=True)
        for job in app.state.jobs.all():
            app.state.jobs.cancel(job)
            if "the server failed" in job.record.message:
                bad.append(f"job: {job.record}")
                print(bad[-1], flush=True)
                job.record = job.record.model_copy(update={"message": ""})

    one()
    return statuses, bad


if __name__ == "__main__":
    main()
