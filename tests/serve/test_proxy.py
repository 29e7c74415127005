"""The reverse proxy of docs/serve.md: its block as it stands, in nginx, with a certificate made for the test."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.running import ROOT, Running, httpx

NGINX, OPENSSL = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin"), shutil.which("openssl")
pytestmark = pytest.mark.skipif(not (NGINX and OPENSSL), reason="nginx or openssl is not installed")

NAME, KEY = "chat.example.org", "a-key"
AROUND = """
daemon off; error_log stderr; pid {folder}/pid; worker_processes 1;
events {{}}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    {block}
}}
"""
STORY = {"prompt": "讲一个故事", "stream": True, "max_tokens": 1500, "seed": 1, "logit_bias": {"2": -100}}


def certificate(folder: Path) -> tuple[Path, Path]:
    key, pem = folder / "key", folder / "pem"
    wanted = [
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        f"/CN={NAME}",
        "-addext",
        f"subjectAltName=DNS:{NAME}",
    ]
    command = [OPENSSL, "req", "-x509", *wanted, "-keyout", str(key), "-out", str(pem)]
    subprocess.run(command, check=True, capture_output=True)
    return key, pem


@contextlib.contextmanager
def running_nginx(folder: Path, block: str, port: int) -> Iterator[None]:
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder, block=block), "utf-8")
    proxy = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield
    finally:
        proxy.terminate()
        proxy.wait(20)


@pytest.fixture(scope="module")
def behind() -> Iterator[Running]:
    with Running("--allow-host", NAME, "--api-key", KEY) as server:
        yield server


@pytest.fixture(scope="module")
def outside(behind: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client that knows the server by the proxy's name."""
    folder = tmp_path_factory.mktemp("nginx")
    key, pem = certificate(folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    page = (ROOT / "docs" / "serve.md").read_text("utf-8")
    block = re.search(r"^```nginx\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1]
    for ours, theirs in (
        ("listen 443", f"listen 127.0.0.1:{port}"),
        (f"/etc/ssl/certs/{NAME}.pem", str(pem)),
        (f"/etc/ssl/private/{NAME}.key", str(key)),
        ("http://127.0.0.1:8080", behind.address),
    ):
        assert block.count(ours) == 1
        block = block.replace(ours, theirs)
    with running_nginx(folder, block, port):
        headers = {"host": NAME, "authorization": f"Bearer {KEY}"}
        with httpx.Client(
            base_url=f"https://127.0.0.1:{port}",
            headers=headers,
            verify=ssl.create_default_context(cafile=pem),
            timeout=60,
        ) as client:
            yield client


SNI = {"extensions": {"sni_hostname": NAME}}


def test_who_may_ask(outside):
    """The page and its own requests, with the key; no other name, no page of another, no metrics."""
    assert "<textarea" in outside.get("/", **SNI).text
    models = "/v1/models"
    assert outside.get(models, headers={"origin": f"https://{NAME}"}, **SNI).status_code == 200
    assert outside.get(models, headers={"authorization": "Bearer x"}, **SNI).status_code == 401
    assert outside.get(models, headers={"origin": "https://evil.example"}, **SNI).status_code == 403
    assert outside.get(models, headers={"host": "evil.example"}, **SNI).status_code == 403
    assert outside.get("/metrics", **SNI).status_code == 404


def test_large_bodies_are_refused(outside):
    assert outside.post("/v1/completions", content=b"x" * (1 << 21), **SNI).status_code == 413


def test_a_stream_comes_token_by_token_and_ends_when_its_reader_leaves(outside, behind):
    def cancelled() -> float:
        text = httpx.get(f"{behind.address}/metrics", headers={"authorization": f"Bearer {KEY}"}).text
        return float(re.search(r"^ggmlpy_cancelled_total (\S+)$", text, re.MULTILINE)[1])

    before = cancelled()
    with outside.stream("POST", "/v1/completions", json=STORY, **SNI) as response:
        assert response.status_code == 200
        parts = response.iter_raw()
        firsts = [next(parts) for _ in range(20)]
    assert sum(part.count(b"data: ") == 1 for part in firsts) > 10, "a buffer would pass on a dozen at a time"
    deadline = time.monotonic() + 20
    while cancelled() == before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert cancelled() == before + 1
