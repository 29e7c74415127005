"""A server as a process of its own: clients that people use, load, clients that leave, and its end."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from tests.serve.running import ROOT, Running, httpx
from toolchain.serve.connections import Impatient


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    running = Running()
    yield running
    running.stop()


def test_openai_python(server):
    openai = pytest.importorskip("openai", reason="the PyPI package openai is not installed")
    client = openai.OpenAI(base_url=f"{server.address}/v1", api_key="none")
    assert client.models.list().data[0].id
    messages = [{"role": "user", "content": "介绍北京"}]
    whole = client.chat.completions.create(model="", messages=messages, seed=1, max_tokens=20)
    stream = client.chat.completions.create(model="", messages=messages, seed=1, max_tokens=20, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole.choices[0].message.content
    scored = client.completions.create(model="", prompt="北京是", max_tokens=0, echo=True, logprobs=1)
    assert scored.choices[0].logprobs.token_logprobs[0] is None
    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        client.chat.completions.create(model="", messages=messages, tools=[])


def test_a_client_that_leaves_makes_room(server):
    before = server.metric("ggmlpy_cancelled_total")
    body = {"messages": [{"role": "user", "content": "讲一个故事"}], "stream": True, "logit_bias": {"2": -100}}
    with httpx.stream("POST", f"{server.address}/v1/chat/completions", json=body, timeout=60) as response:
        next(response.iter_lines())
    deadline = time.monotonic() + 30
    while server.metric("ggmlpy_cancelled_total") == before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.metric("ggmlpy_cancelled_total") == before + 1
    while server.metric("ggmlpy_working") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.metric("ggmlpy_working") == 0
    assert server.chat(1)


@contextlib.contextmanager
def connections_to(app: object) -> Iterator[tuple[uvicorn.Server, tuple[str, int]]]:
    """An application behind the server's own handling of connections, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=Impatient, log_level="error", lifespan="off", timeout_keep_alive=60)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield server, listener.getsockname()
        finally:
            server.should_exit = True
            thread.join(10)


def test_an_answer_is_one_packet(app):
    with connections_to(app) as (_, place), socket.create_connection(place) as connection:
        connection.settimeout(20)
        for _ in range(3):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head, _, body = connection.recv(4096).partition(b"\r\n\r\n")
            assert (head[:13], body) == (b"HTTP/1.1 200 ", b'{"status":"ok"}')


def healthy(connection: socket.socket) -> bool:
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = b""
    while not answer.endswith(b'"ok"}'):
        answer += connection.recv(4096)
    return answer.startswith(b"HTTP/1.1 200 ")


def test_small_packets_are_sent_at_once(app):
    """Else a part of a stream would wait, up to 40 ms, until the client has confirmed the one before it."""
    with connections_to(app) as (server, address), socket.create_connection(address, 10) as connection:
        assert healthy(connection)
        [one] = server.server_state.connections
        option = one.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert option == 1


def test_whoever_sends_no_whole_request_is_cut_off(app, monkeypatch):
    """Silence from the start, a head that never ends, and silence after an answer; who asks again stays."""
    monkeypatch.setattr(Impatient, "patience", 0.3)
    with connections_to(app) as (_, address):
        silent, dripping, talking = (socket.create_connection(address, 10) for _ in range(3))
        began = time.monotonic()
        for letter in (b"G", b"E", b"", b"", b"", b""):
            dripping.sendall(letter)
            assert healthy(talking)
            time.sleep(0.1)
        assert silent.recv(1) == dripping.recv(1) == b""
        assert talking.recv(1) == b"", "after its last request"
        assert time.monotonic() - began > 0.8


def test_whoever_waits_is_told_when_the_server_is_stopped_at_once():
    """Ctrl-C twice: no answer is finished, none looks whole, and nothing but that is said."""
    answers = {}

    def ask(stream: bool) -> None:
        body = {"prompt": "讲一个故事", "max_tokens": 1900, "logit_bias": {"2": -100}, "stream": stream}
        answers[stream] = httpx.post(f"{running.address}/v1/completions", json=body, timeout=60)

    with Running() as running:
        asking = [threading.Thread(target=ask, args=(stream,)) for stream in (False, True)]
        for each in asking:
            each.start()
        while running.metric("ggmlpy_working") < 2:
            time.sleep(0.01)
        running.process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        assert running.stop(signal.SIGINT) == 0
        for each in asking:
            each.join()
        assert len(running.said) <= 2, running.said
    assert (answers[False].status_code, answers[False].json()["error"]["code"]) == (503, "stopped")
    last = answers[True].text.strip().splitlines()[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopped"


def test_a_stranger_needs_a_key_and_a_taken_port_is_told(server):
    def said(*options: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "cli.py", "serve", *options], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stderr

    code, words = said("--host", "0.0.0.0", "--port", "0")
    assert code == 2
    assert "--api-key" in words
    for options, words in (
        (["--host", ""], "--host is empty"),
        (["--api-key", ""], "--api-key must be"),
        (["--api-key", "密钥"], "--api-key must be"),
        (["--host", "nonsense.invalid", "--api-key", "x"], "--host with an address of this machine"),
        (["--allow-host", "https://chat.example.org"], "takes a name alone"),
    ):
        code, told = said("--port", "0", *options)
        assert code == (3 if "cannot listen" in told else 2)
        assert words in told
    code, words = said("--port", server.address.rpartition(":")[2])
    assert code == 3
    assert "cannot listen there: Address already in use" in words
    assert "Traceback" not in words


def test_the_page_about_it_says_what_works(server, capsys):
    """The blocks of docs/serve.md, at the address of this server."""
    page = (ROOT / "docs" / "serve.md").read_text("utf-8").replace("http://127.0.0.1:8080", server.address)
    ran = 0
    for code in re.findall(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        package = re.match(r"from (\w+) import", code)[1]
        try:
            __import__(package)
        except ImportError:
            continue
        exec(compile(code, "serve.md", "exec"), {})
        assert "北京" in capsys.readouterr().out
        ran += 1
    curl = re.search(r"^(curl .*?)^```", page, re.MULTILINE | re.DOTALL)[1]
    if shutil.which("curl"):
        done = subprocess.run(["bash", "-c", curl], capture_output=True, check=True)
        assert "北京" in json.loads(done.stdout)["choices"][0]["message"]["content"]
        ran += 1
    if not ran:
        pytest.skip("neither openai nor langchain_openai nor curl is installed")
