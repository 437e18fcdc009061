"""Requests to the Hugging Face hub: answers in time, files that go on where they broke off, errors in a line.

They go out with the client, token and settings of `huggingface_hub`. Its own downloads are not used: they start a
broken-off file from the beginning, retry for half a minute before they give up, and print while they do.
"""

import hashlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

PAUSES = (1.0, 3.0)
"""Seconds to wait before a download that brought nothing more is tried again; after the last it is given up."""

LOG_IN = "log in with `hf auth login`"

_Answer = TypeVar("_Answer")


class Trouble(NamedTuple):
    """Why a request failed, and what to do about it; `refused` if the hub did answer, and would say so again."""

    what: str
    advice: str
    refused: bool = False


def answer(request: Callable[[float], _Answer]) -> _Answer:
    """What a request brings, within `HF_HUB_ETAG_TIMEOUT` (10) seconds for all of it.

    A client's own limit begins again with each address of the hub that it tries, and with each byte.

    Args:
        request: Is given the seconds. It runs on a thread of its own, which is left behind when they are over.

    Raises:
        TimeoutError: they are over.
        Exception: whatever the request raises.
    """
    from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT

    answered: Future[_Answer] = Future()

    def run() -> None:
        try:
            answered.set_result(request(HF_HUB_ETAG_TIMEOUT))
        except Exception as error:
            answered.set_exception(error)

    with quiet_hub():
        threading.Thread(target=run, daemon=True).start()
        return answered.result(timeout=HF_HUB_ETAG_TIMEOUT)


def download(url: str, size: int, into: Path, heard: Callable[[int], None]) -> None:
    """Brings a file into place, whole or not at all, and goes on where an earlier try broke off.

    What has come so far lies beside it, with `.incomplete` behind its name.

    Args:
        size: In bytes.
        into: Where it is to lie. If it is called by a sha256, that has to be the contents' own.
        heard: Is told how many bytes there are.

    Raises:
        Exception: the line's last error, once `PAUSES` are used up, or the hub's refusal.
        OSError: the file cannot be written.
    """
    from huggingface_hub.errors import HTTPError  # the base class of the client's errors, httpx or httpx2

    part = into.with_name(f"{into.name}.incomplete")
    part.touch()
    failures = 0
    while (have := part.stat().st_size) != size:
        error: Exception = ValueError(f"{url}: other contents than listed")
        try:
            _append(url, part, have if have < size else 0, heard)
        except HTTPError as raised:
            error = raised
        failures = 0 if have < part.stat().st_size <= size else failures + 1
        if failures and (failures > len(PAUSES) or explain(error, "").refused):
            raise error
        if failures:
            time.sleep(PAUSES[failures - 1])
    if len(into.name) == 64 and _sha256(part) != into.name:
        part.unlink()
        raise ValueError(f"{url}: other contents than listed")
    part.replace(into)


def _append(url: str, part: Path, have: int, heard: Callable[[int], None]) -> None:
    """One request for all that comes after the first `have` bytes, written as it comes."""
    from huggingface_hub import get_session
    from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    headers = build_hf_headers() | {
        "Accept-Encoding": "identity"
    }  # a range of what was packed would be no use
    if have:
        headers["Range"] = f"bytes={have}-"
    request = get_session().stream(
        "GET", url, headers=headers, timeout=HF_HUB_DOWNLOAD_TIMEOUT, follow_redirects=True
    )
    with request as response:
        hf_raise_for_status(response)
        with part.open("r+b") as file:
            file.seek(have if response.status_code == 206 else 0)  # 200: everything comes again
            file.truncate()
            for chunk in response.iter_bytes():
                file.write(chunk)
                heard(file.tell())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def explain(error: Exception, repository: str) -> Trouble:
    """Says what went wrong with a request about a repository, `org/name`."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    status = getattr(getattr(error, "response", None), "status_code", 0)
    bases = {base.__name__ for base in type(error).__mro__}  # by name: the client is httpx or httpx2
    if isinstance(error, errors.OfflineModeIsEnabled):
        return Trouble("HF_HUB_OFFLINE is set", "unset it")
    if isinstance(error, errors.GatedRepoError):
        return Trouble("gated", f"ask for access at {hub}/{repository}, and {LOG_IN}", refused=True)
    if isinstance(error, errors.RevisionNotFoundError):
        return Trouble("the repository has no such revision", "check its name", refused=True)
    if isinstance(error, errors.EntryNotFoundError):
        return Trouble("the hub does not have it, though it is listed", "try again later", refused=True)
    if isinstance(error, errors.DisabledRepoError):
        return Trouble("the hub has disabled the repository", "take another", refused=True)
    if "Invalid credentials" in str(error):
        return Trouble("the hub does not take your token", f"{LOG_IN} again", refused=True)
    if status in (401, 404):
        advice = f"check the name, or {LOG_IN}"
        return Trouble("no such repository, or a private one", advice, refused=True)
    if status == 403:
        return Trouble("your token gives no access", f"{LOG_IN} with one that may read it", refused=True)
    if status == 429:
        seconds = _seconds_to_wait(error)
        advice = f"try again in {f'{seconds} seconds' if seconds else 'some minutes'}, or {LOG_IN}"
        return Trouble("too many requests for the hub", advice, refused=True)
    if status:
        return Trouble(f"the hub answers {status}", "try again later", refused=status < 500)
    if bases & {"TimeoutError", "TimeoutException"}:
        advice = (
            "try again later, or set HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT to more than 10 seconds"
        )
        return Trouble("the hub does not answer in time", advice)
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if bases & {"ReadError", "RemoteProtocolError"}:
        return Trouble("the connection broke off", "check it")
    if bases & {"HTTPError", "OSError"}:
        return Trouble(f"the hub is out of reach ({hub}: {reason})", "check the connection")
    advice = "check HF_ENDPOINT, and whether the network wants a login"
    return Trouble(f"what answers at {hub} is not the hub ({reason})", advice)


def _seconds_to_wait(error: Exception) -> int | None:
    """What the answer to too many requests says about when to come again."""
    headers = error.response.headers  # type: ignore[attr-defined]  # an error with a status has one
    limit = re.search(r"\bt\s*=\s*(\d+)", headers.get("RateLimit", ""))  # "api";r=0;t=55
    seconds = limit[1] if limit else headers.get("Retry-After", "")
    return int(seconds) if seconds.isdigit() else None


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Keeps `huggingface_hub` from printing: warnings of its own, and those that the hub sends along."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
