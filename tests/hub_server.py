"""A Hugging Face hub on this machine: the paths and headers that `huggingface_hub` uses, over real HTTP.

Files of over a thousand bytes are kept as the hub keeps large ones: the address of such a file leads to a storage
address, and the listing tells their sha256.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from lab.listening import Listener

LARGE = 1000


@dataclass
class Stored:
    """A repository: the contents of its files at each commit, and what its branches and tags stand for."""

    commits: dict[str, dict[str, bytes]]
    references: dict[str, str]
    gated: bool = False

    def put(self, revision: str, files: Mapping[str, bytes]) -> str:
        """Makes another commit, and returns it."""
        commit = hashlib.sha1(f"{revision} {len(self.commits)}".encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.references[revision] = commit
        return commit


@dataclass
class Request:
    """What a client asked for: HEAD or GET, the path, its Range header and its token."""

    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Hub:
    """The server's state, which a test may change at any time.

    Attributes:
        requests: All of them, in order.
        breaks: After how many bytes the next longer files from storage break off, one number an answer.
        status: What every request is answered by, instead of an answer.
        headers: Sent along with everything.
        seconds: How long every answer takes.
        page: Sent as a web page, instead of every answer.
    """

    endpoint: str = ""
    repositories: dict[str, Stored] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0
    page: bytes = b""

    def put(self, name: str, files: Mapping[str, bytes] | Path, revision: str = "main") -> str:
        """Stores files, or a folder of them, as a new commit of a repository."""
        if isinstance(files, Path):
            paths = [path for path in files.rglob("*") if path.is_file()]
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        return self.repositories.setdefault(name, Stored({}, {})).put(revision, files)

    def asked(self, part: str, method: str = "GET") -> list[Request]:
        """The requests of a method whose path has something in it."""
        return [each for each in self.requests if part in each.path and each.method == method]


class _RefusalError(Exception):
    def __init__(self, status: int, code: str = "", message: str = ""):
        super().__init__(message)
        self.status, self.code = status, code


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.requests.append(self._request())
            time.sleep(hub.seconds)
            try:
                if hub.status:
                    raise _RefusalError(hub.status, message="no")
                self._answer()
            except _RefusalError as refusal:
                said = {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)}
                self._send(json.dumps({"error": str(refusal)}).encode(), refusal.status, said)

        def _request(self) -> Request:
            asked = (self.headers.get(name) for name in ("Range", "Authorization"))
            return Request(self.command, self.path, *asked)

        do_HEAD = do_GET  # noqa: N815 (the name that http.server asks for)

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            query = parse_qs(urlsplit(self.path).query)
            if hub.page:
                self._send(hub.page, headers={"Content-Type": "text/html"})
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                self._json(_information(*self._find(match[1], match[2] or "main"), "blobs" in query))
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
                self._json(_tree(self._find(match[1], match[2])[1]))
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/refs", path):
                self._json(_references(self._repository(match[1])))
            elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._resolve(match[1], match[2], match[3])
            elif match := re.fullmatch(r"/storage/(.+)", path):
                self._send(_by_hash(hub, match[1]), breaks=True)
            else:
                raise _RefusalError(404)

        def _repository(self, name: str) -> Stored:
            if name not in hub.repositories:  # to people without a token, as if it were private
                raise _RefusalError(401, "RepoNotFound", "Invalid username or password.")
            return hub.repositories[name]

        def _find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
            repository = self._repository(name)
            commit = repository.references.get(revision, revision)
            if commit not in repository.commits:
                raise _RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return commit, repository.commits[commit]

        def _resolve(self, name: str, revision: str, file: str) -> None:
            commit, files = self._find(name, revision)
            if hub.repositories[name].gated:
                raise _RefusalError(401, "GatedRepo", f"Access to model {name} is restricted.")
            if file not in files:
                raise _RefusalError(404, "EntryNotFound", "Entry not found")
            data, headers = files[file], {"X-Repo-Commit": commit}
            if len(data) <= LARGE:
                self._send(data, headers=headers | {"ETag": f'"{_git(data)}"'})
                return
            sha256 = hashlib.sha256(data).hexdigest()
            headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data))}
            storage = hub.endpoint.replace("127.0.0.1", "localhost")  # another host, as the hub's storage is
            self._send(b"", 302, headers | {"Location": f"{storage}/storage/{sha256}"})

        def _json(self, value: object) -> None:
            self._send(json.dumps(value).encode(), headers={"Content-Type": "application/json"})

        def _send(
            self,
            data: bytes,
            status: int = 200,
            headers: Mapping[str, str] | None = None,
            breaks: bool = False,
        ) -> None:
            sent, more = data, dict(headers or {})
            if status == 200 and (start := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
                status, sent = 206, data[int(start[1]) :]
                more["Content-Range"] = f"bytes {start[1]}-{len(data) - 1}/{len(data)}"
            self.send_response(status)
            for name, value in (hub.headers | more | {"Content-Length": str(len(sent))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if breaks and hub.breaks and len(sent) > hub.breaks[0]:
                sent, self.close_connection = sent[: hub.breaks.pop(0)], True
            self.wfile.write(sent)

        def log_message(self, *_: object) -> None:
            """Prints nothing."""

    return Handler


def _git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _information(commit: str, files: Mapping[str, bytes], blobs: bool) -> dict[str, object]:
    siblings: list[dict[str, object]] = [{"rfilename": name} for name in sorted(files)]
    for sibling in siblings if blobs else []:
        data = files[str(sibling["rfilename"])]
        sibling |= {"size": len(data), "blobId": _git(data)}
        if len(data) > LARGE:
            sha256 = hashlib.sha256(data).hexdigest()
            sibling["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
    return {"_id": "1", "id": "org/name", "sha": commit, "siblings": siblings}


def _tree(files: Mapping[str, bytes]) -> list[dict[str, object]]:
    return [
        {"type": "file", "path": name, "size": len(data), "oid": _git(data)}
        | (
            {"lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}}
            if len(data) > LARGE
            else {}
        )
        for name, data in sorted(files.items())
    ]


def _references(repository: Stored) -> dict[str, list[dict[str, str]]]:
    branches = [
        {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
        for name, commit in repository.references.items()
    ]
    return {"branches": branches, "tags": [], "converts": []}


def _by_hash(hub: Hub, sha256: str) -> bytes:
    for repository in hub.repositories.values():
        for files in repository.commits.values():
            for data in files.values():
                if hashlib.sha256(data).hexdigest() == sha256:
                    return data
    raise _RefusalError(404)


@contextmanager
def serving(hub: Hub):
    """Runs the server on a free port, whose address becomes `hub.endpoint`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that has gone is no error
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that is asked instead of the real one, and an empty cache."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    with serving(Hub()) as running:
        addresses = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, running.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", addresses)
        monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("lab.hub.transfer.PAUSES", (0.0, 0.0))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        close_session()
        yield running
        close_session()


@pytest.fixture
def cut_off(monkeypatch):
    """Makes the hub unreachable from now on, with a function; its address is one where nothing listens."""
    from huggingface_hub import constants

    def cut() -> None:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")

    return cut


class Heard(Listener):
    """Keeps what it is told."""

    def __init__(self):
        self.notes, self.bars = [], []

    def note(self, line):
        self.notes.append(line)

    def progress(self, done, total, things="images"):
        self.bars.append((done, total, things))
