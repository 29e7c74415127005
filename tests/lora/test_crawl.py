"""The crawler against a server on this machine: patience, resuming, and where the key goes."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ggmlpy.files.errors import FormatError, UsageError
from lora.training import crawl as crawl_module
from lora.training.crawl import CrawlError, CrawlOptions, crawl
from lora.training.crawl_prompts import KINDS, TOPICS, prompt_for, read_template


def completion(content: str) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()


def records(number: int, count: int = 2) -> str:
    items = [{"instruction": f"问题{number}.{i}", "input": "", "output": f"回答{i}"} for i in range(count)]
    return json.dumps(items, ensure_ascii=False)


class Server(ThreadingHTTPServer):
    """Answers from a script of (status, headers, body); remembers what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[tuple[int, dict[str, str], bytes]] = []
        self.seen: list[tuple[str, dict[str, str], dict]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), body))
        status, headers, content = self.server.script.pop(0)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()


def ok(content: str) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, completion(content)


def test_asks_in_the_form_of_chat_completions(server: Server, tmp_path: Path) -> None:
    server.script = [ok(records(0))]
    crawl(tmp_path / "data.json", CrawlOptions(server.url + "/", "tiny", n_items=20, seed=7, temperature=0.5))
    path, _, body = server.seen[0]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": prompt_for(7, 0, 20)}],
        "temperature": 0.5,
    }
    assert "20条" in prompt_for(7, 0, 20)


def test_the_prompt_draws_as_the_original_does() -> None:
    assert (len(set(TOPICS)), len(set(KINDS))) == (82, 14)
    lines = prompt_for(1, 2, 20).splitlines()
    assert [line[:2] for line in lines if line[:1].isdigit()] == [f"{n}." for n in range(1, 7)]
    assert sum(topic in lines[1].removesuffix("等。").split("：")[1].split("、") for topic in TOPICS) == 10
    assert sum(kind in lines[2].removesuffix("等。").split("：")[1].split("、") for kind in KINDS) == 10
    assert "{" not in "".join(lines)


def test_a_template_of_ones_own(server: Server, tmp_path: Path) -> None:
    (tmp_path / "template.txt").write_text("{count}条，{topics}，{其他}", "utf-8")
    server.script = [ok(records(0))]
    template = read_template(tmp_path / "template.txt")
    crawl(tmp_path / "data.json", CrawlOptions(server.url, "tiny", n_items=3, template=template))
    assert server.seen[0][2]["messages"][0]["content"].startswith("3条，")
    assert server.seen[0][2]["messages"][0]["content"].endswith("，{其他}")
    with pytest.raises(FormatError, match="cannot read the template"):
        read_template(tmp_path / "nothing.txt")
    (tmp_path / "template.txt").write_text(" \n")
    with pytest.raises(FormatError, match="an empty template"):
        read_template(tmp_path / "template.txt")


def test_prompts_differ_in_topic_and_kind() -> None:
    assert len({prompt_for(0, number, 20) for number in range(50)}) > 40


def test_writes_the_records_of_all_replies_once(server: Server, tmp_path: Path) -> None:
    server.script = [ok(records(0)), ok("好的！\n```json\n" + records(0)[:-1] + ",]\n```"), ok(records(1))]
    report = crawl(tmp_path / "data.json", CrawlOptions(server.url, "tiny", n_requests=3))
    assert [r["instruction"] for r in json.loads((tmp_path / "data.json").read_text("utf-8"))] == [
        "问题0.0", "问题0.1", "问题1.0", "问题1.1",
    ]  # fmt: skip
    assert report.n_records == 4
    assert report.cleaning == {"trailing comma": 1, "words around": 2}


def test_waits_longer_and_longer(server: Server, tmp_path: Path) -> None:
    server.script = [(500, {}, b""), (429, {}, b""), (503, {}, b"busy"), ok(records(0))]
    waits: list[float] = []
    report = crawl(tmp_path / "data.json", CrawlOptions(server.url, "tiny", first_wait=1.0), sleep=waits.append)
    assert report.n_retries == 3
    assert [int(wait) for wait in waits] == [1, 2, 4]


def test_waits_as_long_as_it_is_told(server: Server, tmp_path: Path) -> None:
    server.script = [(429, {"Retry-After": "17"}, b""), ok(records(0))]
    waits: list[float] = []
    crawl(tmp_path / "data.json", CrawlOptions(server.url, "tiny"), sleep=waits.append)
    assert 17 <= waits[0] < 19


@pytest.mark.parametrize("reply", [b"<html>", completion(""), b'{"choices": []}'])
def test_asks_again_when_the_reply_is_none(server: Server, tmp_path: Path, reply: bytes) -> None:
    server.script = [(200, {}, reply), ok(records(0))]
    report = crawl(tmp_path / "data.json", CrawlOptions(server.url, "tiny"), sleep=lambda wait: None)
    assert report.n_retries == 1
    assert report.n_records == 2


def test_gives_up_and_says_what_to_do(server: Server, tmp_path: Path) -> None:
    server.script = [(500, {}, b"")] * 3
    with pytest.raises(CrawlError, match=r"no reply after 3 tries .*500.*goes on where it stopped"):
        crawl(tmp_path / "data.json", CrawlOptions(server.url, "tiny", attempts=3), sleep=lambda wait: None)


def test_resumes_behind_the_last_whole_reply(server: Server, tmp_path: Path) -> None:
    out, options = tmp_path / "data.json", CrawlOptions(server.url, "tiny", n_requests=3, attempts=1)
    server.script = [ok(records(0)), ok(records(1)), (500, {}, b"")]
    with pytest.raises(CrawlError):
        crawl(out, options)
    assert not out.exists()
    raw = tmp_path / "data.json.raw.jsonl"
    raw.write_bytes(raw.read_bytes()[:-10])  # killed while writing the second
    server.script = [ok(records(1)), ok(records(2))]
    report = crawl(out, options)
    assert (report.n_resumed, report.n_asked, report.n_records) == (1, 2, 6)
    assert [body["messages"][0]["content"] for _, _, body in server.seen[3:]] == [
        prompt_for(0, number, 20) for number in (1, 2)
    ]
    crawl(out, options)  # everything is there: nothing is asked
    assert len(server.seen) == 5


def test_key_goes_into_the_header_only(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "not-a-real-key")
    server.script = [ok(records(0)), (401, {}, b"bad key")]
    options = CrawlOptions(server.url, "tiny", n_requests=2, key_variable="MY_KEY")
    with pytest.raises(CrawlError, match="401") as refused:
        crawl(tmp_path / "data.json", options)
    assert server.seen[0][1]["Authorization"] == "Bearer not-a-real-key"
    assert "not-a-real-key" not in str(refused.value)
    assert "MY_KEY" in str(refused.value)
    assert all(b"not-a-real-key" not in path.read_bytes() for path in tmp_path.iterdir())


def test_sends_no_key_if_there_is_none(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server.script = [ok(records(0))]
    crawl(tmp_path / "data.json", CrawlOptions(server.url, "tiny"))
    assert "Authorization" not in server.seen[0][1]


def test_follows_no_redirect(server: Server, tmp_path: Path) -> None:
    server.script = [(302, {"Location": "http://127.0.0.1:9/elsewhere"}, b"")]
    with pytest.raises(CrawlError, match="302"):
        crawl(tmp_path / "data.json", CrawlOptions(server.url, "tiny"))


def test_refuses_what_is_no_endpoint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not an endpoint"):
        crawl(tmp_path / "data.json", CrawlOptions("file:///etc/passwd", "tiny"))
    with pytest.raises(UsageError, match="n_requests"):
        crawl(tmp_path / "data.json", CrawlOptions("http://127.0.0.1:9", "tiny", n_requests=0))


def test_refuses_replies_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "data.json.raw.jsonl").write_text("[1, 2]\n")
    with pytest.raises(FormatError, match="not the replies of a crawl"):
        crawl(tmp_path / "data.json", CrawlOptions("http://127.0.0.1:9", "tiny"))


def test_unreachable_endpoint(tmp_path: Path) -> None:
    with pytest.raises(CrawlError, match="cannot reach"):
        crawl(tmp_path / "data.json", CrawlOptions("http://127.0.0.1:9/v1", "tiny", attempts=1))


# ── servers that do not keep to the rules ────────────────────────────────────────────────────────────────────────────

OK = b"HTTP/1.1 200 OK\r\n"
REPLY = completion(records(0))
BAD_REPLIES = {
    "a chunk that is cut off": OK + b'Transfer-Encoding: chunked\r\n\r\n10\r\n{"choices":',
    "a body that is cut off": OK + b"Content-Length: 1000\r\n\r\n" + REPLY[:10],
    "too many headers": OK + b"X: y\r\n" * 200 + b"\r\n",
    "a header without end": OK + b"X: " + b"y" * 70_000,
    "no HTTP": b"\x1b]0;title\x07 hello\r\n\r\n",
    "a status that is none": b"HTTP/1.1 abc OK\r\n\r\n",
    "nothing": b"",
    "a chunk of no size": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.fixture
def raw_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[bytes], list[float]]]:
    """Sends bytes as they are; a pause in seconds after each byte if one is given."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    script: list[bytes] = []
    pauses: list[float] = []

    class Raw(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            length = 0
            while (line := self.rfile.readline().strip()) != b"":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            self.rfile.read(length)
            answer = script.pop(0)
            with contextlib.suppress(OSError):
                for part in [answer[i : i + 1] for i in range(len(answer))] if pauses else [answer]:
                    self.wfile.write(part)
                    time.sleep(pauses[0] if pauses else 0)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Raw) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}/v1", script, pauses
        running.shutdown()


@pytest.mark.parametrize("name", BAD_REPLIES)
def test_every_failure_of_http_is_tried_again(
    raw_server: tuple[str, list[bytes], list[float]], tmp_path: Path, name: str
) -> None:
    url, script, _ = raw_server
    script += [BAD_REPLIES[name], OK + b"Content-Length: %d\r\n\r\n" % len(REPLY) + REPLY]
    report = crawl(tmp_path / "data.json", CrawlOptions(url, "tiny"), sleep=lambda wait: None)
    assert (report.n_retries, report.n_records) == (1, 2)
    script += [BAD_REPLIES[name]]
    with pytest.raises(CrawlError, match="no reply after 1 tries") as caught:
        crawl(tmp_path / "other.json", CrawlOptions(url, "tiny", attempts=1))
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("where", ["headers", "body"])
def test_a_reply_that_comes_a_byte_at_a_time_has_a_deadline(
    raw_server: tuple[str, list[bytes], list[float]], tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, script, pauses = raw_server
    monkeypatch.setattr(crawl_module, "GRACE", 0.1)
    script.append(OK + (b"X: " if where == "headers" else b"\r\n") + b"y" * 1000)
    pauses.append(0.02)
    with pytest.raises(CrawlError, match=r"no whole reply within 0\.5 seconds"):
        crawl(tmp_path / "data.json", CrawlOptions(url, "tiny", attempts=1, timeout=0.5))


@pytest.mark.parametrize("key", ["sk-SECRET\nsecond", "sk-SECRET second", "“sk-SECRET”", "sk-SECRET\x1b[31m"])
def test_a_key_that_is_none_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(UsageError, match="variable MY_KEY does not hold a key") as caught:
        crawl(tmp_path / "data.json", CrawlOptions("http://127.0.0.1:9/v1", "tiny", key_variable="MY_KEY"))
    assert "SECRET" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_key_that_the_server_repeats_is_kept_out(
    raw_server: tuple[str, list[bytes], list[float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-SECRET")
    url, script, _ = raw_server
    body = completion(records(0).replace("问题", "sk-SECRET"))
    script += [
        OK + b"Content-Length: 20\r\n\r\nBad key: sk-SECRET!!",
        OK + b"Content-Length: %d\r\n\r\n" % len(body) + body,
        b"HTTP/1.1 401 bad key sk-SECRET\r\nContent-Length: 0\r\n\r\n",
    ]
    options = CrawlOptions(url, "tiny", n_requests=2)
    with pytest.raises(CrawlError, match=r"bad key \*\*\*") as caught:
        crawl(tmp_path / "data.json", options, sleep=lambda wait: None)
    assert "SECRET" not in str(caught.value)
    assert all(b"SECRET" not in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1/",
        "http://例え.テスト/v1",
        "http://host/a b",
        "http://host/\x1b[31m",
        "http://host\n/v1",
        "http://host:port/v1",
        "http://host:99999/v1",
        "http://",
        "http:///v1",
        "api.openai.com/v1",
        "http://host/v1?key=SECRET",
        "http://user:SECRET@host/v1",
        "http://SECRET@host/v1",
        "",
    ],
)
def test_odd_urls_are_wrong_usage(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="not an endpoint") as caught:
        crawl(tmp_path / "data.json", CrawlOptions(url, "tiny"))
    assert "SECRET" not in str(caught.value)
    assert str(caught.value).isprintable()
