"""Many clients at once, and others that do not behave: benchmarks/load_server.py, shorter; all of it with -m slow."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

pytest.importorskip("psutil", reason="comes with pip install '.[test]'")

from benchmarks.load_server import Load, Running, drained, killed, under_load

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")


async def _all(server: Running, clients: int, seconds: float, idle: int) -> list[dict[str, Any]]:
    load = Load(server.address)
    return [await under_load(server, load, clients, seconds, idle), await drained(server, load)]


@pytest.mark.parametrize(
    ("clients", "seconds", "idle"), [(16, 3.0, 200), pytest.param(64, 60.0, 1000, marks=pytest.mark.slow)]
)
def test_every_reply_is_the_one_that_a_single_client_gets(clients, seconds, idle):
    """None is lost or mixed up and memory stays bounded; told to stop, the server finishes what it began."""
    with Running("--parallel", "4", "--queue", str(2 * clients)) as server:
        busy, ended = asyncio.run(_all(server, clients, seconds, idle))
    assert busy["lost"] == {}
    assert busy["mixed"] == 0
    assert busy["replies"] >= clients
    assert busy["sound"], busy
    assert ended["sound"], ended


def test_a_server_that_is_killed_leaves_nothing():
    with Running("--parallel", "2") as server:
        gone = asyncio.run(killed(server, Load(server.address)))
    assert gone["sound"], gone
