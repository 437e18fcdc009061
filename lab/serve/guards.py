"""What stands before every request, whichever API it is for: host, origin, key, size."""

import base64
import binascii
import hmac
import ipaddress
import json
import socket
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lab.serve.config import ServeConfig

Answer = tuple[int, str, Mapping[str, str]]

UPLOADS = ("/lab/v1/images", "/gradio_api/upload")
"""Where images to learn from are sent, many together."""


class Guards:
    """An ASGI middleware that lets pass what may come in.

    - A request calls the server by an address or by a name that is its own: a page whose name was made to point here
      (DNS rebinding) calls it by another.
    - A request that a web page sends (its `Origin`) is sent by the server's own page, or by one that is allowed.
    - Where there is a key, a request carries it, as a bearer token or as basic authentication's password.
    - Its body has no more bytes than the server takes, whatever it says of its length. What is sent beyond them is
      dropped as it comes: whoever is still sending when the connection is closed may never read why.
    """

    def __init__(self, app: ASGIApp, config: ServeConfig):
        self._app = app
        self._key = config.api_key.encode() if config.api_key is not None else None
        self._most = config.max_body
        self._most_files = max(config.max_body, config.max_upload)
        self._hosts = {"localhost", config.host.lower(), *map(str.lower, config.allow_host)}
        if not config.is_local:
            self._hosts.add(socket.gethostname().lower())
        self._origins = {origin.lower().rstrip("/") for origin in config.allow_origin}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers what may not pass, and passes on the rest."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        most = self._most_files if scope["path"] in UPLOADS else self._most
        refusal = self._refusal(Headers(scope=scope), most)
        if refusal is None:
            await self._app(scope, _bounded(receive, most), send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _refuse(send, *refusal)

    def _refusal(self, headers: Headers, most: int) -> Answer | None:
        host = headers.get("host", "")
        if not self._is_own(_name(host)):
            allow = "start it with --allow-host to be called so"
            return 421, f"host: this server does not answer to '{host[:100]}'; {allow}", {}
        origin = headers.get("origin", "").lower()
        if origin and not self._may_send(origin, host):
            allow = "start the server with --allow-origin to let it"
            return 403, f"origin: pages of '{origin[:100]}' may not send requests; {allow}", {}
        if not self._has_key(headers.get("authorization", "")):
            challenge = {"WWW-Authenticate": 'Basic realm="lab"'}
            return 401, "this server asks for its key, as 'Authorization: Bearer KEY'", challenge
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length[:20]) > most * 2**20:
            return 413, _too_large(most), {}
        return None

    def _is_own(self, name: str) -> bool:
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._hosts
        return True  # rebinding takes a name

    def _may_send(self, origin: str, host: str) -> bool:
        return origin in self._origins or origin in (f"http://{host.lower()}", f"https://{host.lower()}")

    def _has_key(self, authorization: str) -> bool:
        if self._key is None:
            return True
        kind, _, credentials = authorization.partition(" ")
        given = credentials.strip().encode("latin-1", "replace")
        if kind.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except binascii.Error:
                given = b""
        elif kind.lower() != "bearer":
            given = b""
        return hmac.compare_digest(given, self._key)


def _bounded(receive: Receive, most: int) -> Receive:
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > most * 2**20:
            raise HTTPException(413, _too_large(most))
        return message

    return bounded


def _too_large(most: int) -> str:
    return f"the request is over {most} MiB, the most that this server takes here"


def _name(host: str) -> str:
    """The name in a Host header, without the port and the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def error_body(status: int, message: str, param: str | None = None) -> dict[str, object]:
    """An error as OpenAI's API words it, with the same sentence where other clients look for it."""
    kind = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}.get(status)
    kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": None}, "detail": message}


async def _refuse(send: Send, status: int, message: str, more: Mapping[str, str]) -> None:
    body = json.dumps(error_body(status, message)).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **more}
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
