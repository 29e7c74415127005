"""The crawler against a server on this machine: patience, resuming, and where the key goes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ggmlpy.files.errors import FormatError, UsageError
from lora.training.crawl import CrawlError, CrawlOptions, crawl, prompt_for


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
