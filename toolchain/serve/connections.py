"""Connections that say nothing are closed, answers are sent at once, and there is room for as many as may be open."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

__all__ = ["MOST_CONNECTIONS", "Impatient", "make_room"]

MOST_CONNECTIONS = 2048  # beyond them requests are answered with 503


class Joined:
    """A transport that writes in one packet what is written in one go: the head of an answer and its body.

    Each packet is a system call, after which the thread has to wait until it gets Python's lock back.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts:
            self._transport.write(b"".join(parts))


class Impatient(H11Protocol):
    """HTTP/1.1 for clients that have something to ask: whoever sends no whole head of a request is cut off.

    uvicorn itself watches only the time that follows an answer. And it leaves small packets waiting, up to 40 ms, for
    the client's confirmation of what went before (asyncio changes that only for sockets that say they speak TCP).

    Attributes:
        patience: seconds within which a request must begin; checked as rarely.
    """

    patience = 30.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Joined(transport, self.loop))  # type: ignore[arg-type]
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.loop.call_later(self.patience, self._look, None)

    def _look(self, last: RequestResponseCycle | None) -> None:
        """Close the connection if there is no more to see than at the last look."""
        if self.transport.is_closing():
            return
        answers = self.cycle is not None and not self.cycle.response_complete
        if answers or self.cycle is not last:
            self.loop.call_later(self.patience, self._look, self.cycle)
        else:
            self.transport.close()


def make_room() -> None:
    """Let this process have a file for each connection, as far as the system allows it; many allow 1,024 by default."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = MOST_CONNECTIONS + 256
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
