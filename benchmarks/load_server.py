"""Many clients against one server: is every answer whole, right, and independent of all the others?

    python benchmarks/load_server.py                          # the demo model, 64 clients, 60 seconds
    python benchmarks/load_server.py --clients 16 --seconds 5
    python benchmarks/load_server.py -m model.bin --parallel 8      # other options are those of serve
    python benchmarks/load_server.py --beside 'llama-server -m model.gguf -t 2 --parallel 8 --port {port}' \\
        -m model.gguf -t 2 --parallel 8 --queue 128                 # the same model in both, in turns

Every question has a seed, and what a single client is told is what each client must be told. Meanwhile others read
slowly, leave in the middle, send nonsense and large bodies, and hold idle connections. The client is a few lines on
asyncio's streams, for it shares the machine with the server that it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ("介绍北京", "怎么做披萨？", "讲一个故事", "如何保持健康？", "The capital of France is", "12加7等于多少？")
QUESTIONS = 24
GROWTH = 96 << 20  # bytes that the server may grow by under all of this: buffers of connections, caches being filled


@dataclass(frozen=True)
class Question:
    """What is asked, number ``n`` of the list."""

    n: int
    max_tokens: int = 32
    stream: bool = False

    @property
    def body(self) -> bytes:
        prompt = f"### Instruction:\n\n{TEXTS[self.n % len(TEXTS)]}\n\n### Response:\n\n"
        return json.dumps(
            {"prompt": prompt, "seed": self.n, "max_tokens": self.max_tokens, "stream": self.stream}
        ).encode()


@dataclass
class Reply:
    status: int
    text: str
    tokens: int = 0


@dataclass
class Client:
    """One connection that is kept; answers come one after another."""

    host: str
    port: int
    reader: Any = None
    writer: Any = None
    last: bool = False  # whether the server closes the connection after its answer

    async def ask(self, question: Question) -> Reply:
        status, parts = await self.post("/v1/completions", question.body)
        body = b"".join([part async for part in parts]).decode()
        if self.last:
            self.leave()
        if status != 200:
            return Reply(status, body)
        if not question.stream:
            answer = json.loads(body)
            return Reply(status, answer["choices"][0]["text"], answer["usage"]["completion_tokens"])
        events = [line[6:] for line in body.splitlines() if line.startswith("data: ")]
        if events[-1:] != ["[DONE]"]:
            raise ConnectionError("the stream was cut")
        said = [json.loads(event)["choices"][0] for event in events[:-1]]
        return Reply(status, "".join(each["text"] for each in said), len(said) - 1)

    async def post(self, path: str, body: bytes) -> tuple[int, AsyncIterator[bytes]]:
        """The status, and the parts of the answer as they come."""
        if self.writer is None or self.writer.is_closing():
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        self.writer.write(f"{head}\r\n\r\n".encode() + body)
        return await self._answer()

    async def get(self, path: str) -> bytes:
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        _, parts = await self._answer()
        return b"".join([part async for part in parts])

    async def _answer(self) -> tuple[int, AsyncIterator[bytes]]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        status, self.last = int(head.split()[1]), "connection: close" in head
        length = re.search(r"content-length: (\d+)", head)
        return status, self._whole(int(length[1])) if length else self._chunked()

    async def _whole(self, length: int) -> AsyncIterator[bytes]:
        yield await self.reader.readexactly(length)

    async def _chunked(self) -> AsyncIterator[bytes]:
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readuntil(b"\r\n")

    def leave(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


@dataclass
class Tally:
    """What came of it."""

    replies: int = 0
    tokens: int = 0
    wrong: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def figures(self, took: float) -> dict[str, Any]:
        times = sorted(self.seconds) or [0.0]
        return {
            "seconds": round(took, 2),
            "replies": self.replies,
            "lost": dict(self.lost),
            "mixed": self.wrong,
            "tokens_per_second": round(self.tokens / took, 1),
            "median_seconds": round(times[len(times) // 2], 3),
            "slowest_seconds": round(times[-1], 3),
        }


class Load:
    """A server at an address, and what it must answer."""

    def __init__(self, address: str) -> None:
        host, port = re.fullmatch(r"http://([^:/]+):(\d+)/?", address).groups()  # type: ignore[union-attr]
        self.place = host, int(port)
        self.expected: dict[int, str] = {}

    def client(self) -> Client:
        return Client(*self.place)

    async def in_engine(self) -> float:
        """Answers that a server of ours is writing, or that wait for a place."""
        metrics = (await self.client().get("/metrics")).decode()
        return sum(map(float, re.findall(r"^ggmlpy_(?:working|queue)\{.*\} (\S+)$", metrics, re.MULTILINE)))

    async def learn(self) -> None:
        """What a single client is told."""
        client = self.client()
        for n in range(QUESTIONS):
            self.expected[n] = (await client.ask(Question(n))).text
        client.leave()

    async def clients(self, count: int, seconds: float, *, streams: bool = True) -> dict[str, Any]:
        """Clients that ask one question after another."""
        tally, began = Tally(), time.perf_counter()
        await asyncio.gather(*(self._asks(tally, began + seconds, number, streams) for number in range(count)))
        return {"clients": count, **tally.figures(time.perf_counter() - began)}

    async def _asks(self, tally: Tally, until: float, number: int, streams: bool) -> None:
        chance, client = random.Random(number), self.client()
        while (began := time.perf_counter()) < until:
            question = Question(chance.randrange(QUESTIONS), stream=streams and chance.random() < 0.5)
            try:
                reply = await asyncio.wait_for(client.ask(question), 120)
            except (OSError, EOFError, ValueError, asyncio.TimeoutError) as error:
                tally.lost[type(error).__name__] += 1
                client.leave()
                continue
            if reply.status != 200:
                tally.lost[str(reply.status)] += 1
                continue
            tally.replies += 1
            tally.tokens += reply.tokens
            tally.wrong += bool(self.expected) and reply.text != self.expected[question.n]
            tally.seconds.append(time.perf_counter() - began)
        client.leave()

    # ── those who do not behave ──────────────────────────────────────────────────────────────────────────────────────

    async def slow_reader(self) -> None:
        """Takes a few bytes a second of a long answer."""
        client = self.client()
        try:
            with suppress(OSError, EOFError):
                await client.post("/v1/completions", Question(2, max_tokens=200, stream=True).body)
                while await client.reader.read(64):
                    await asyncio.sleep(0.5)
        finally:
            client.leave()

    async def leaver(self) -> None:
        """Leaves at the first token, again and again."""
        while True:
            client = self.client()
            with suppress(OSError, EOFError):
                _, parts = await client.post("/v1/completions", Question(3, max_tokens=200, stream=True).body)
                await parts.__anext__()
            client.leave()
            await asyncio.sleep(0.05)

    async def babbler(self) -> None:
        """Sends what is not JSON, and what is not HTTP."""
        while True:
            client = self.client()
            with suppress(OSError, EOFError):
                status, _ = await client.post("/v1/completions", b'{"prompt": [[[')
                assert status == 400, status
            client.leave()
            with suppress(OSError, EOFError):
                reader, writer = await asyncio.open_connection(*self.place)
                writer.write(random.randbytes(400) + b"\r\n\r\n")
                await reader.read()
                writer.close()
            await asyncio.sleep(0.05)

    async def large_body(self) -> None:
        """Sends ten megabytes, announced and unannounced."""
        part = b"x" * 65536
        kinds = ((b"Content-Length: 10485760", part), (b"Transfer-Encoding: chunked", b"10000\r\n%b\r\n" % part))
        while True:
            for head, piece in kinds:
                with suppress(OSError, EOFError):
                    reader, writer = await asyncio.open_connection(*self.place)
                    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n" % head)
                    for _ in range(160):
                        writer.write(piece)
                        await writer.drain()
                    said = await reader.readline()
                    assert b" 413 " in said, said
                    writer.close()
            await asyncio.sleep(0.2)

    @asynccontextmanager
    async def mischief(self, idle: int) -> AsyncIterator[None]:
        """All of them at once, and connections that say nothing."""
        open_ones = await asyncio.gather(*(asyncio.open_connection(*self.place) for _ in range(idle)))
        kinds: Sequence[Callable[[], Awaitable[None]]] = (
            *[self.slow_reader] * 4, *[self.leaver] * 4, *[self.babbler] * 2, self.large_body,
        )  # fmt: skip
        tasks = [asyncio.ensure_future(kind()) for kind in kinds]
        try:
            yield
        finally:
            failed = [task for task in tasks if task.done() and task.exception()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for _, writer in open_ones:
                writer.close()
            for task in failed:
                raise task.exception()  # type: ignore[misc]


class Server:
    """A server that was started for this."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process, self.address = process, address

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def memory(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    @property
    def processor_seconds(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


class Running(Server):
    """A server of ours, on a port that is free."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, str(ROOT / "cli.py"), "serve", "--port", "0", *options]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = process.stderr
        assert said is not None
        line = ""
        while not (found := re.search(r"at (http://\S+)", line)):
            line = said.readline()
            if not line:
                sys.exit("the server did not start")
        super().__init__(process, found[1])
        self.said = [line]
        threading.Thread(target=self.said.extend, args=(said,), daemon=True).start()  # a full pipe would hold it


class Other(Server):
    """A server of someone else's, started by a command that has ``{port}`` where the number of the port belongs."""

    def __init__(self, command: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        words = [word.replace("{port}", str(port)) for word in shlex.split(command)]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
        super().__init__(process, f"http://127.0.0.1:{port}")
        while not asyncio.run(self._answers()):
            if process.poll() is not None:
                sys.exit(f"it ended with code {process.returncode}: {command}")
            time.sleep(0.1)

    async def _answers(self) -> bool:
        """Whether it listens, and its model is loaded."""
        try:
            return (await Load(self.address).client().ask(Question(0, max_tokens=1))).status == 200
        except (OSError, EOFError):
            return False


# ── what is measured ─────────────────────────────────────────────────────────────────────────────────────────────────


async def in_turns(servers: Mapping[str, Server], counts: Sequence[int], seconds: float, rounds: int) -> dict[str, Any]:
    """Some numbers of clients at each server, one after the other, several times over: the medians."""
    found: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    for _ in range(rounds):
        for count in counts:
            for name, server in servers.items():
                before = server.processor_seconds
                tally = await Load(server.address).clients(count, seconds, streams=False)
                if tally["lost"]:
                    sys.exit(f"{name} with {count} clients: {tally['lost']}")
                spent = server.processor_seconds - before
                figures = {key: tally[key] for key in ("tokens_per_second", "median_seconds", "slowest_seconds")}
                figures["tokens_per_processor_second"] = (
                    tally["tokens_per_second"] * tally["seconds"] / max(spent, 0.01)
                )
                found[name, count].append(figures)
    return {
        f"{name}, {count} clients": {key: round(median(each[key] for each in several), 3) for key in several[0]}
        for (name, count), several in found.items()
    }


async def under_load(server: Server, load: Load, clients: int, seconds: float, idle: int) -> dict[str, Any]:
    """Clients that behave, among those who do not: none may be lost or get another's answer, memory stays bounded."""
    await load.learn()
    before = server.memory
    async with load.mischief(idle):
        figures = await load.clients(clients, seconds)
    growth = server.memory - before
    figures["memory_growth_mb"] = round(growth / 1e6, 1)
    figures["sound"] = not figures["lost"] and not figures["mixed"] and figures["replies"] > 0 and growth < GROWTH
    return figures


async def drained(server: Server, load: Load, clients: int = 16) -> dict[str, Any]:
    """Asked to stop in the middle of answers, the server ends them and goes with code 0; later ones are refused."""
    asked = [asyncio.ensure_future(load.client().ask(Question(n, stream=bool(n % 2)))) for n in range(clients)]
    while await load.in_engine() + sum(task.done() for task in asked) < clients:
        await asyncio.sleep(0.005)
    server.process.send_signal(signal.SIGTERM)
    replies = await asyncio.gather(*asked, return_exceptions=True)
    code = await asyncio.to_thread(server.process.wait, 60)
    whole = sum(isinstance(reply, Reply) and reply.status == 200 for reply in replies)
    right = sum(isinstance(reply, Reply) and reply.text == load.expected[n] for n, reply in enumerate(replies))
    errors = Counter(repr(reply) for reply in replies if not (isinstance(reply, Reply) and reply.status == 200))
    figures = {"asked": clients, "whole": whole, "right": right, "errors": dict(errors), "code": code}
    return {**figures, "sound": right == clients and code == 0}


async def killed(server: Server, load: Load) -> dict[str, Any]:
    """kill -9 in the middle of answers: no process, no listener and no file of the server's is left."""
    process = psutil.Process(server.process.pid)
    files = {each.path for each in process.open_files()}
    asked = [asyncio.ensure_future(load.client().ask(Question(n))) for n in range(4)]
    await asyncio.sleep(0.05)
    family = [process, *process.children(recursive=True)]
    server.process.kill()
    await asyncio.gather(*asked, return_exceptions=True)
    server.process.wait()
    left = [each.pid for each in family[1:] if each.is_running()]
    try:
        await load.client().get("/health")
        listens = True
    except OSError:
        listens = False
    mine = sorted(path for path in files if path.startswith(tempfile.gettempdir()))
    return {"processes_left": left, "listens": listens, "files_left": mine, "sound": not (left or listens or mine)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--idle", type=int, default=1000, help="connections that say nothing")
    parser.add_argument("--beside", metavar="COMMAND", help="another server to measure in turns with ours, and no more")
    parser.add_argument("--rounds", type=int, default=5, help="how often each rate is measured")
    args, options = parser.parse_known_args()
    options = options or ["--parallel", "8", "--queue", str(2 * args.clients)]
    counts, seconds = dict.fromkeys((1, 8, args.clients)), min(args.seconds, 5.0)
    with Running(*options) as server:
        others = {"other": Other(args.beside)} if args.beside else {}
        with ExitStack() as stack:
            servers = {"ours": server, **{name: stack.enter_context(other) for name, other in others.items()}}
            report("rates", asyncio.run(in_turns(servers, list(counts), seconds, args.rounds)))
        if args.beside:
            return 0
        load = Load(server.address)
        held = report("load", asyncio.run(under_load(server, load, args.clients, args.seconds, args.idle)))
        ended = report("SIGTERM", asyncio.run(drained(server, load)))
    with Running(*options) as server:
        gone = report("kill -9", asyncio.run(killed(server, Load(server.address))))
    return 0 if held and ended and gone else 1


def report(name: str, figures: dict[str, Any]) -> bool:
    print(json.dumps({name: figures}, ensure_ascii=False), flush=True)
    return bool(figures.get("sound", True))


if __name__ == "__main__":
    sys.exit(main())
