"""A server as a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

httpx = pytest.importorskip("httpx", reason="comes with pip install '.[test]'")
ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ["介绍北京", "怎么做披萨？", "讲一个故事", "如何保持健康？"]


class Running:
    """A server that was started with some options."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "cli.py", "serve", "--port", "0", "-t", "1", *options]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        line = ""
        while not (found := re.search(r"at (http://\S+)", line)):
            line = self.process.stderr.readline()
            assert line, "the server did not start"
        self.address = found[1]

    def chat(self, n: int, **more: object) -> str:
        body = {"messages": [{"role": "user", "content": PROMPTS[n % 4]}], "seed": n, "max_tokens": 24, **more}
        answer = httpx.post(f"{self.address}/v1/chat/completions", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["message"]["content"]

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.address}/metrics").text
        return float(re.search(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)[1])

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(60)
