"""What `hostile_requests.py` sends to the page's own routes, which no schema lists: names that lead to files, uploads
of any size, and what the page's buttons would send, with anything in its place."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from hypothesis import strategies as st

CANARY = "a secret that lies beside what the page may serve"

JOIN = "/gradio_api/queue/join"

PLACES = [
    "/etc/passwd",
    "/proc/self/environ",
    "pyproject.toml",
    "../../../../etc/passwd",
    "//etc/passwd",
    "file:///etc/passwd",
    "http://127.0.0.1/docs",
    "C:\\Windows\\win.ini",
    "\\\\host\\share",
    "%00",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "a" * 3000,
]
"""Files that a page may not give away, and what is no file at all."""


def places(out: Path) -> list[str]:
    """Also those around the folder whose images the page serves; one of them is written there."""
    (out / "canary.txt").write_text(CANARY)
    ways = [
        "canary.txt",
        "page/../canary.txt",
        "page/%2e%2e/canary.txt",
        "page/..%2fcanary.txt",
        "page/./../canary.txt",
    ]
    return PLACES + [f"{out}/{way}" for way in ways]


def page_requests(
    page: Sequence[int], texts: st.SearchStrategy[str], wild: st.SearchStrategy[Any], out: Path
) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments of `httpx.Client.request` for the page's routes.

    Args:
        page: How many values each of the page's functions takes, in their order.
        texts: What stands for a name.
        wild: What stands for any JSON value.
        out: The server's folder.
    """
    api, names = "/gradio_api", st.sampled_from(places(out))
    get = st.fixed_dictionaries(
        {"method": st.just("GET"), "url": names.map(lambda name: f"{api}/file={name}")}
    )
    folders = st.sampled_from(
        ["/assets/", "/static/", "/svelte/", f"{api}/upload_progress?upload_id=", "/theme.css/"]
    )
    other = st.fixed_dictionaries(
        {"method": st.just("GET"), "url": st.builds(lambda folder, name: f"{folder}{name}", folders, names)}
    )
    joined = st.integers(-1, len(page)).flatmap(lambda number: _join(number, page, names, texts, wild))
    posts = st.sampled_from(["queue/join", "cancel", "reset", "run/predict", "api/predict", "upload"])
    broken = st.fixed_dictionaries(
        {
            "method": st.just("POST"),
            "url": posts.map(lambda name: f"{api}/{name}"),
            "content": st.one_of(wild.map(json.dumps).map(str.encode), st.binary(max_size=60)),
            "headers": st.sampled_from(["application/json", "multipart/form-data", "text/plain", ""]).map(
                lambda kind: {"Content-Type": kind}
            ),
        }
    )
    return st.one_of(get, other, joined, joined, broken, _upload(texts))


def _join(
    number: int, page: Sequence[int], names: st.SearchStrategy[str], texts: st.SearchStrategy[str], wild: Any
) -> st.SearchStrategy[dict[str, Any]]:
    """What a button sends: the number of its function, and values for it, among them files that nobody sent."""
    file = names.map(lambda name: {"path": name, "meta": {"_type": "gradio.FileData"}})
    count = page[number] if 0 <= number < len(page) else 2
    values = st.lists(st.one_of(wild, texts, file, st.integers(-1, 3)), min_size=count, max_size=count)
    session = st.one_of(st.uuids().map(str), st.uuids().map(str), texts)
    body = st.fixed_dictionaries(
        {"data": values, "fn_index": st.just(number), "session_hash": session},
        optional={"event_data": wild, "trigger_id": st.one_of(st.integers(-1, 300), wild)},
    )
    headers = {"Content-Type": "application/json"}
    whole = {"method": "POST", "url": JOIN, "headers": headers}
    return body.map(
        lambda sent: {**whole, "content": json.dumps(sent).encode(), "session": sent["session_hash"]}
    )


def _upload(texts: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Files of any name and of any size, also over what the server takes."""
    sizes = st.one_of(st.integers(0, 2000), st.sampled_from([2**21 - 1000, 2**21, 2**21 + 1, 3 * 2**20]))
    named = st.tuples(st.one_of(st.sampled_from(PLACES), texts.map(plain)), sizes.map(bytes))
    parts = st.lists(st.tuples(st.sampled_from(["files", "file", ""]), named), max_size=3)
    url = texts.map(lambda name: f"/gradio_api/upload?upload_id={name[:40]}")
    return st.fixed_dictionaries({"method": st.just("POST"), "url": url.map(plain), "files": parts})


def plain(value: Any) -> str:
    """A value as text that can be sent."""
    return str(value).encode("utf-8", "replace").decode()


def outcome(client: httpx.Client, session: str) -> bytes:
    """What the page's function answered to a request that was taken, up to its end."""
    told = b""
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": plain(session)}) as answer:
        for line in answer.iter_lines():
            told += line.encode()
            if "process_completed" in line or "close_stream" in line:
                break
    return told


def gives_away(told: bytes) -> bool:
    """Whether an answer holds what the page may not give away."""
    return any(sign in told for sign in (CANARY.encode(), b"root:x:0:", b"[tool.ruff]"))
