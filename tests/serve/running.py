"""A server as a process of its own, and what it is asked."""

from __future__ import annotations

import re
import signal

import pytest

pytest.importorskip("httpx", reason="comes with pip install '.[test]'")
pytest.importorskip("psutil", reason="comes with pip install '.[test]'")

import httpx

from benchmarks import load_server

__all__ = ["ROOT", "Running", "httpx"]

ROOT = load_server.ROOT
PROMPTS = ["介绍北京", "怎么做披萨？", "讲一个故事", "如何保持健康？"]


class Running(load_server.Running):
    """A server that was started with some options."""

    def __init__(self, *options: str) -> None:
        super().__init__("-t", "1", *options)

    def chat(self, n: int, **more: object) -> str:
        body = {"messages": [{"role": "user", "content": PROMPTS[n % 4]}], "seed": n, "max_tokens": 24, **more}
        answer = httpx.post(f"{self.address}/v1/chat/completions", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.address}/metrics").text
        found = re.search(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
        assert found, name
        return float(found[1])

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(60)
