"""Start the server, say where it is, and stop it in order."""

from __future__ import annotations

import errno
import ipaddress
import re
import secrets
import signal
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import uvicorn
from sse_starlette.sse import AppStatus

from ggmlpy.files.bus_errors import survive_cut_files
from ggmlpy.files.errors import OutputError, UsageError

from .app import create_app
from .connections import MOST_CONNECTIONS, Impatient, make_room
from .guard import LOCAL_NAMES, Guard, is_host
from .work import Served

__all__ = ["Settings", "serve"]

OWN_ADDRESS = "an address of this machine, as 127.0.0.1 or 0.0.0.0"


@dataclass(frozen=True)
class Settings:
    """Where to listen, and to whom.

    Attributes:
        port: 0 takes one that is free.
        key: demanded from everyone; needed where ``host`` is more than this machine.
        hosts: further names by which the server may be called.
        seconds: how long an answer may take.
        drain: how long answers that are being written may go on after the server was told to stop.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    key: str | None = None
    hosts: Collection[str] = ()
    seconds: float = 600.0
    drain: int = 30
    verbose: bool = False


def serve(models: Sequence[Served], settings: Settings, started: Callable[[str], None]) -> None:
    """Serve until the process is told to stop (Ctrl-C, SIGTERM).

    Args:
        started: called with the address when requests can come.

    Raises:
        UsageError: it would listen to strangers without a key.
        OutputError: the address is taken.
    """
    _check(settings)
    local = _is_local(settings.host)
    if not local and not settings.key:
        raise UsageError(
            f"--host {settings.host} lets other machines ask; give a key that they must know: "
            f"--api-key {secrets.token_urlsafe(24)}"
        )
    make_room()
    survive_cut_files()
    listener = _listener(settings.host, settings.port)
    app = Guard(
        create_app(models, seconds=settings.seconds),
        hosts={settings.host, *settings.hosts} - ({*LOCAL_NAMES} - {*settings.hosts}),
        any_address=not local,
        key=settings.key,
    )
    config = uvicorn.Config(
        app,
        http=Impatient,
        log_level="info" if settings.verbose else "error",  # strangers' nonsense would fill the log
        access_log=settings.verbose,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=settings.drain,
        h11_max_incomplete_event_size=16384,
        server_header=False,
        ws="none",
        lifespan="off",
    )
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    for which in (signal.SIGINT, signal.SIGTERM):
        signal.signal(which, lambda *_: None)  # the server stops in order, and then sends itself the signal again
    AppStatus.disable_automatic_graceful_drain()  # or it would cut off streams that uvicorn waits for
    started(f"http://{host}:{listener.getsockname()[1]}")
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        for model in models:
            model.engine.close()


def _check(settings: Settings) -> None:
    if not settings.host:
        raise UsageError("--host is empty")
    if settings.key is not None and not re.fullmatch(r"[!-~]+", settings.key):
        raise UsageError("--api-key must be letters, digits and signs of ASCII: it stands in an HTTP header")
    for name in settings.hosts:
        if not is_host(name):
            raise UsageError(f"--allow-host takes a name alone, as chat.example.org, and not {name!r}")


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listener(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None) or 0  # of a name that is not known, less than 0
        other_host = number < 0 or number == errno.EADDRNOTAVAIL
        raise OutputError(
            f"cannot listen there: {_reason(error)}",
            path=f"{host}:{port}",
            next_step=f"--host with {OWN_ADDRESS}" if other_host else "another --port, or 0 for any that is free",
        ) from error


def _reason(error: Exception) -> str:
    """Without the address, which the message has already."""
    return re.sub(r" \(while attempting to bind.*", "", str(getattr(error, "strerror", None) or error))
