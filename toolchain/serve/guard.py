"""What stands before every request: who may ask, from where, and how much.

=====================  ================================================================================================
danger                 what is done
=====================  ================================================================================================
a foreign page in the  ``Origin``, where a browser sends one, must be this server's own, with its port; there are no
browser asks for text  CORS headers
DNS rebinding          ``Host`` must be a name that this server was given, or an address
strangers              beyond this machine a key is required (``Authorization: Bearer …``), compared in constant time
large bodies           refused by their announced length, or while they are read; some of what is left of them is passed
                       over, or most clients would see a broken connection in place of the refusal
slow bodies            must have arrived within a time
many bodies            together they may take a certain memory while they arrive
=====================  ================================================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any

__all__ = ["LOCAL_NAMES", "ApiError", "Guard", "error_body", "is_host"]

Place = tuple[str, str]  # a name and a port, as text; no port: ""
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

OPEN_PATHS = ("/", "/health")  # without a key: the page itself, which asks for one, and what a load balancer asks
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
MOST_PASSED_OVER = 32 << 20  # bytes of a body that is refused
PLACE = re.compile(
    r"(?:\[([0-9a-f:.]+)\]|([^\s:/?#@\[\],]+?)\.?)(?::(\d{1,5}))?", re.IGNORECASE
)  # name, or address; port
ORIGIN = re.compile(r"(https?)://(.*)", re.IGNORECASE)
USUAL_PORTS = {"http": "80", "https": "443"}
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
        self.told = {host.lower().rstrip(".") for host in hosts}
        self.hosts = {*LOCAL_NAMES, *self.told}
        self.any_address = any_address
        self.key = None if key is None else key.encode()
        self.largest, self.room = largest, room
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        answer = Answer(send)
        try:
            self._check(scope["path"], headers)
            body = await self._body(headers, receive)
            await self.app(scope, _replayed(body, receive), answer.send)
        except ApiError as error:
            await answer.refuse(error)
        except asyncio.CancelledError:  # the server does not wait for answers any longer
            stopped = ApiError(503, "the server was stopped before the answer was whole", code="stopped")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(answer.refuse(stopped), 1)

    def _check(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        host = _place(headers.get(b"host", b""))
        if not self._is_ours(host):
            raise ApiError(403, "this server does not go by that name (serve --allow-host NAME)", code="host")
        if b"origin" in headers and not self._is_own_page(headers[b"origin"], host):
            raise ApiError(403, "pages of other servers may not ask this one", code="origin")
        if self.key is not None and path not in OPEN_PATHS:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self.key):
                raise ApiError(401, "a key is needed: Authorization: Bearer KEY", code="invalid_api_key")
        if (coding := headers.get(b"content-encoding", b"identity")) != b"identity":
            raise ApiError(415, f"content-encoding {coding.decode('latin-1')!r:.40} is not supported; send it plain")

    def _is_ours(self, place: Place) -> bool:
        return place[0] in self.hosts or (self.any_address and _is_address(place[0]))

    def _is_own_page(self, origin: bytes, host: Place) -> bool:
        """Whether a page is of this server: another port of this machine is another server's."""
        found = ORIGIN.fullmatch(origin.decode("latin-1"))
        if found is None:
            return False
        name, port = _place(found[2].encode("latin-1"))
        if name in self.told:  # a proxy stands before them, at a port of its own
            return True
        usual = USUAL_PORTS[found[1].lower()]
        return self._is_ours((name, port)) and (port or usual) == (host[1] or usual)

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        announced = headers.get(b"content-length", b"0")
        try:
            if announced.isdigit() and int(announced[:20]) > self.largest:
                raise self._too_large()
            return await asyncio.wait_for(self._read(receive), self.seconds)
        except asyncio.TimeoutError as error:
            raise ApiError(408, "the body did not arrive in time", code="timeout") from error
        except ApiError as error:
            if error.status == 413 and b"expect" not in headers:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(_passed_over(receive), min(self.seconds, 10))
            raise

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


def _place(text: bytes) -> Place:
    """A name in small letters and a port, of a Host header; no name where it is not of that form.

    >>> _place(b"LocalHost:8080"), _place(b"[::1]"), _place(b"localhost."), _place(b"me@localhost")
    (('localhost', '8080'), ('::1', ''), ('localhost', ''), ('', ''))
    """
    found = PLACE.fullmatch(text.decode("latin-1"))
    return ((found[1] or found[2]).lower(), found[3] or "") if found else ("", "")


def is_host(name: str) -> bool:
    """Whether it is a name or an address alone."""
    return bool(_place(name.encode())[0]) and not _place(name.encode())[1]


async def _passed_over(receive: Receive) -> None:
    """Read what is left of a body, for some megabytes."""
    left = MOST_PASSED_OVER
    while left > 0:
        message = await receive()
        if not message.get("more_body"):
            return
        left -= len(message["body"])


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


class Answer:
    """The way back to the client: headers for all, and refusals at any time."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._kind: bytes | None = None  # content type of an answer that has begun

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            self._kind = dict(headers).get(b"content-type", b"")
            message["headers"] = [*headers, *HEADERS.items()]
        await self._send(message)

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error; in a stream that has begun it is the last event."""
        body = error.body
        if self._kind is None:
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            if error.status in (408, 413, 503):
                headers.append((b"connection", b"close"))  # what is left of the body is not read
            await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        else:
            body = b"data: %b\n\n" % body if self._kind.startswith(b"text/event-stream") else b""
        await self._send({"type": "http.response.body", "body": body})
