"""What stands before every request: who may ask, from where, and how much.

=====================  ================================================================================================
danger                 what is done
=====================  ================================================================================================
a foreign page in the  ``Origin``, where a browser sends one, must be this server's own; there are no CORS headers
browser asks for text
DNS rebinding          ``Host`` must be a name that this server was given, or an address
strangers              beyond this machine a key is required (``Authorization: Bearer …``), compared in constant time
large bodies           refused by their announced length, and cut off while they are read
slow bodies            must have arrived within a time
many bodies            together they may take a certain memory while they arrive
=====================  ================================================================================================
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

__all__ = ["ApiError", "Guard", "error_body"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

OPEN_PATHS = ("/", "/health")  # without a key: the page itself, which asks for one, and what a load balancer asks
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
KINDS = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"x-frame-options": b"DENY",
}


class ApiError(Exception):
    """An answer in the shape of OpenAI's errors.

    Args:
        status: of HTTP.
        message: for a person.
        param: the field that is wrong.
        code: for a program.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def body(self) -> bytes:
        return error_body(self.status, self.message, self.param, self.code)


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> bytes:
    """``{"error": {"message", "type", "param", "code"}}``."""
    kind = KINDS.get(status, "invalid_request_error" if status < 500 and status != 429 else "server_error")
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


class Guard:
    """An ASGI application that lets through to another what is allowed.

    Args:
        hosts: names by which the server may be called, beside those of this machine.
        any_address: whether it may be called by any IP address: it listens on more than this machine's own.
        key: what must stand in ``Authorization: Bearer``; None asks for nothing.
        largest: bytes of a body.
        room: bytes of all bodies that are arriving.
        seconds: within which a body must have arrived.
    """

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        *,
        hosts: Collection[str] = (),
        any_address: bool = False,
        key: str | None = None,
        largest: int = 1 << 20,
        room: int = 64 << 20,
        seconds: float = 30.0,
    ) -> None:
        self.app = app
        self.hosts = {*LOCAL_NAMES, *(host.lower() for host in hosts)}
        self.any_address = any_address
        self.key = None if key is None else key.encode()
        self.largest, self.room = largest, room
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS.items()]
            await send(message)

        try:
            self._check(scope["path"], headers)
            body = await self._body(headers, receive)
        except ApiError as error:
            await _answer(error, send_guarded)
            return
        await self.app(scope, _replayed(body, receive), send_guarded)

    def _check(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        if not self._is_ours(headers.get(b"host", b"").decode("latin-1")):
            raise ApiError(403, "this server does not go by that name (serve --allow-host NAME)", code="host")
        origin = headers.get(b"origin")
        if origin is not None and not self._is_ours(urlsplit(origin.decode("latin-1")).netloc):
            raise ApiError(403, "pages of other servers may not ask this one", code="origin")
        if self.key is not None and path not in OPEN_PATHS:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self.key):
                raise ApiError(401, "a key is needed: Authorization: Bearer KEY", code="invalid_api_key")

    def _is_ours(self, place: str) -> bool:
        try:
            name = (urlsplit(f"//{place}").hostname or "").lower()
        except ValueError:
            return False
        return name in self.hosts or (self.any_address and _is_address(name))

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced[:20]) > self.largest:
            raise self._too_large()
        try:
            return await asyncio.wait_for(self._read(receive), self.seconds)
        except asyncio.TimeoutError as error:
            raise ApiError(408, "the body did not arrive in time", code="timeout") from error

    async def _read(self, receive: Receive) -> bytes:
        body = bytearray()
        more = True
        try:
            while more:
                message = await receive()
                more = message["type"] == "http.request" and bool(message.get("more_body"))
                part = message.get("body", b"")
                self.room -= len(part)
                body += part
                if len(body) > self.largest:
                    raise self._too_large()
                if self.room < 0:
                    raise ApiError(503, "too many bodies are arriving; try again later", code="busy")
            return bytes(body)
        finally:
            self.room += len(body)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self.largest} bytes", code="body_too_large")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body in one piece, then what comes after it."""
    given = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _answer(error: ApiError, send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(error.body)).encode())]
    if error.status in (408, 413, 503):
        headers.append((b"connection", b"close"))  # what is left of the body is not read
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": error.body})
