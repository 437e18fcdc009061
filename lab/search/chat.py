"""Prompts that a chat server writes: what it is asked by OpenAI's API, and what of its answer are prompts.

Imports no torch.
"""

import json
import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from lab.errors import InputError
from lab.search.config import ComposeConfig
from lab.text import shortened

if TYPE_CHECKING:
    from openai import OpenAI

ROLE = "an artist who writes prompts for text-to-image models"

MOST_BYTES = 2**20
"""Of an answer; what is longer is no list of prompts."""

MOST_CHARACTERS = 600
"""Of a prompt: longer ones are cut between words."""

JSON_BEGINNINGS = 8
"""Brackets of an answer at which a JSON list may begin; it stands near the front."""

_MARK = re.compile(
    r"\s*(?:[-*+•–]|\(?\d{1,4}\s*[.):]|\d{1,4}\s+[-–]|prompt\s*#?\d+\s*[:.)-])\s+", re.IGNORECASE
)
"""What stands in front of an entry of a list: `1.`, `(2)`, `-`, `Prompt 3:`."""

_THOUGHTS = re.compile(
    r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)|\A(?:(?!<think).)*?</think(?:ing)?>",
    re.DOTALL | re.IGNORECASE,
)
"""What a model thought first, also where the server has put the beginning mark into what it was asked."""

_QUOTES = "\"'“”„«»‘’`*_ "
_FOREIGN_OPTIONS = re.compile(r"\s+--[a-z]\w*(?:\s.*)?$", re.IGNORECASE)
"""Of Midjourney's prompts, such as ` --ar 16:9`."""


def check_chat(config: ComposeConfig) -> None:
    """Refuses what keeps a chat server from being asked, before it is.

    Raises:
        InputError: the openai client is not installed, or the key's variable is not set.
    """
    if find_spec("openai") is None:
        raise InputError(
            "chat_url: needs the openai client; install it with pip install 'text-conditioning-lab[chat]'"
        )
    if config.chat_key_env is not None and not os.environ.get(config.chat_key_env, "").strip():
        raise InputError(f"chat_key_env: the environment has no {config.chat_key_env}; set it to the key")


def messages(config: ComposeConfig) -> list[dict[str, str]]:
    """What is asked, as a system and a user message."""
    languages = " and in ".join(config.language or ["English"])
    asked = [
        f"Write {config.count} different prompts for a text-to-image model, in {languages}.",
        f"Keywords that all of them are about: {', '.join(config.keyword)}.",
    ]
    if config.about:
        asked.append(f"Each says something about: {', '.join(config.about)}.")
    if config.condition:
        asked += ["Conditions:", *(f"- {each}" for each in config.condition)]
    asked.append("Answer with the prompts alone, one a line, numbered.")
    return [
        {"role": "system", "content": f"You are {config.role or ROLE}."},
        {"role": "user", "content": "\n".join(asked)},
    ]


def ask(config: ComposeConfig) -> list[str]:
    """The prompts that the chat server writes, in its order, none twice.

    Raises:
        InputError: it cannot be reached or asked, refuses, takes too long, or answers without a prompt.
    """
    check_chat(config)
    import openai

    url, seconds = str(config.chat_url), config.chat_timeout
    key = os.environ[config.chat_key_env].strip() if config.chat_key_env else "none"
    try:
        with openai.OpenAI(base_url=base_address(url), api_key=key, timeout=seconds, max_retries=0) as client:
            answer = _answer(client, config)
    except InputError:
        raise
    except Exception as error:  # the client's own, and those of what it reads answers with
        raise InputError(f"{url}: {_reason(error, config)}") from None
    prompts = prompts_in(answer)
    if not prompts:
        said = f"'{shortened(' '.join(answer.split()))}'" if answer.strip() else "nothing"
        raise InputError(f"{url}: answered without a prompt: {said}; ask again, or another --chat-model")
    return prompts


def base_address(url: str) -> str:
    """The address of the API: also of a server's own address, and of the one that chats are sent to."""
    base = url.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    return base if re.search(r"://[^/]+/", base) else f"{base}/v1"


def _answer(client: "OpenAI", config: ComposeConfig) -> str:
    """The text of the answer, of which no more is read than can be one."""
    model = config.chat_model or next((each.id for each in client.models.list().data or []), None)
    if model is None:
        raise InputError(f"{config.chat_url}: lists no model; say which with --chat-model")
    ends, data = monotonic() + config.chat_timeout, b""
    asked: Any = messages(config)
    with client.chat.completions.with_streaming_response.create(model=model, messages=asked) as response:
        for piece in response.iter_bytes():
            data += piece
            if len(data) > MOST_BYTES:
                raise InputError(
                    f"{config.chat_url}: its answer is over {MOST_BYTES // 2**20} MiB, no list of prompts"
                )
            if monotonic() > ends:
                raise TimeoutError
    return _content(data, str(config.chat_url))


def _content(data: bytes, url: str) -> str:
    try:
        content = json.loads(data)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        shown = shortened(data.decode(errors="replace"))
        raise InputError(f"{url}: answers as no chat server does: '{shown}'; is that its address?") from None
    if isinstance(content, list):  # in parts, as texts and images are
        content = "\n".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _reason(error: Exception, config: ComposeConfig) -> str:
    """What went wrong, and what to do about it."""
    import openai

    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        name = config.chat_key_env
        return f"refuses the key in {name}" if name else "wants a key; name its variable with --chat-key-env"
    if isinstance(error, openai.APIStatusError):
        told = shortened(" ".join(str(error.message).split()), 120)
        return f"refuses with status {error.status_code}: {told}"
    if isinstance(error, TimeoutError | openai.APITimeoutError) or "Timeout" in type(error).__name__:
        return f"no answer within {config.chat_timeout:g} seconds; give it more with --chat-timeout"
    if isinstance(error, openai.APIConnectionError):
        return "cannot be reached; does the server run, and is that its address?"
    return f"the answer broke off ({type(error).__name__}); ask again"


def prompts_in(answer: str) -> list[str]:
    """The prompts of an answer: of a JSON list, of a numbered or bulleted one, or else its lines; none twice."""
    text = _THOUGHTS.sub("", answer)
    found = _in_json(text) or list(_in_lines(text))
    cleaned = dict.fromkeys(map(_cleaned, found))
    return [prompt for prompt in cleaned if prompt]


def _in_json(text: str) -> list[str]:
    """The texts of the first JSON list or object in an answer; none if there is no such thing."""
    for place in islice((match.start() for match in re.finditer(r"[\[{]", text)), JSON_BEGINNINGS):
        try:
            value, _ = json.JSONDecoder().raw_decode(text, place)
        except (ValueError, RecursionError):
            continue
        found = list(_texts(value))
        if found:
            return found
    return []


def _texts(value: object) -> Iterator[str]:
    """Of lists their texts; of objects what lies in lists in them, else their `prompt`, `text` or first text."""
    if isinstance(value, list):
        for each in value:
            if isinstance(each, str):
                yield each
            else:
                yield from _texts(each)
    elif isinstance(value, dict):
        inner = [each for each in value.values() if isinstance(each, list | dict)]
        texts = [value.get("prompt"), value.get("text"), *value.values()]
        if inner:
            yield from (text for each in inner for text in _texts(each))
        else:
            yield from [text for text in texts if isinstance(text, str)][:1]


def _in_lines(text: str) -> Iterator[str]:
    """Entries of a list, if lines are marked as such, with what is indented below; else all lines but headings."""
    lines = [line for line in text.splitlines() if line.strip() and not line.strip().startswith("```")]
    marked = [bool(_MARK.match(line)) for line in lines]
    if not any(marked):
        yield from (line for line in lines if not re.match(r"\s*#|.*:\s*$", line))
        return
    entry: str | None = None
    for line, begins in zip(lines, marked, strict=True):
        if begins:
            if entry is not None:
                yield entry
            entry = _MARK.sub("", line, count=1)
        elif entry is not None and line[0].isspace():
            entry += f" {line}"
    if entry is not None:
        yield entry


def _cleaned(text: str) -> str:
    """A prompt as `lab generate` takes it: one line, without quotes and marks around it, or options of other tools."""
    text = text.encode(errors="ignore").decode()
    text = _MARK.sub("", " ".join(re.sub(r"[\x00-\x20\x7f]+", " ", text).split()), count=1)
    text = _FOREIGN_OPTIONS.sub("", text.replace("<", " ").replace(">", " ").replace("**", "").strip(_QUOTES))
    text = " ".join(text.strip(_QUOTES).lstrip("# ").split())
    if len(text) > MOST_CHARACTERS:
        text = text[:MOST_CHARACTERS].rpartition(" ")[0] or text[:MOST_CHARACTERS]
    return text.rstrip(" ,;")
