"""The chat page in a real browser (Debian's chromium, driven by selenium): a site, a scripted model, a person."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium", reason="the PyPI package selenium is not installed")

import uvicorn
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from toolchain.serve.page import page, policy_of

__all__ = ["Person", "Script", "Site", "chromium", "needs_browser"]

needs_browser = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="chromium and chromedriver (Debian's packages) are not installed",
)


class Site:
    """An application on a port of its own, in this process."""

    def __init__(self, app: Any) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}/"
        self.server = uvicorn.Server(
            uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        )
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],))
        self.thread.start()

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        self.listener.close()


class Script:
    """A model that says what a test wants, piece by piece."""

    def __init__(self) -> None:
        self.text, self.pause, self.asked = "", 0.0, list[dict[str, Any]]()

    async def answer(self, request: Request) -> Response:
        self.asked.append(await request.json())
        return StreamingResponse(self._chunks(), media_type="text/event-stream")

    async def _chunks(self) -> AsyncIterator[str]:
        for piece in [self.text[start : start + 3] for start in range(0, len(self.text), 3)]:
            score = {"token": piece, "logprob": -0.1, "top_logprobs": [{"token": piece, "logprob": -0.1}]}
            choice = {"index": 0, "delta": {"content": piece}, "logprobs": {"content": [score]}, "finish_reason": None}
            yield f"data: {json.dumps({'choices': [choice]}, ensure_ascii=False)}\n\n"
            await asyncio.sleep(self.pause)
        yield 'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'

    def app(self) -> Starlette:
        """The page, and this model behind it."""

        async def shown(_: Request) -> Response:
            return HTMLResponse(page(), headers={"content-security-policy": policy_of(page())})

        async def models(_: Request) -> Response:
            return JSONResponse({"data": [{"id": "script"}]})

        routes = [Route("/", shown), Route("/v1/models", models)]
        return Starlette(routes=[*routes, Route("/v1/chat/completions", self.answer, methods=["POST"])])


@contextmanager
def chromium(folder: Path) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "lang=en-US", f"user-data-dir={folder}"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


class Person:
    """What somebody does on the page, and sees."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def visit(self, site: Site, width: int = 1100) -> None:
        self.driver.set_window_size(width, 800)
        self.driver.get(site.address)
        self.driver.execute_script("localStorage.clear()")
        self.driver.get(site.address)
        self.until(lambda: self.text("#title") != "ggmlpy")

    def one(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def text(self, selector: str) -> str:
        return str(self.driver.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def texts(self, selector: str) -> list[str]:
        found = "return [...document.querySelectorAll(arguments[0])].map((each) => each.innerText)"
        return list(self.driver.execute_script(found, selector))

    def until(self, what: Any) -> None:
        WebDriverWait(self.driver, 30, 0.02, [StaleElementReferenceException]).until(lambda _: what())

    def click(self, selector: str) -> None:
        """The first of them; the page may be drawing it anew."""
        self.until(lambda: self.one(selector).click() or True)

    def ask(self, text: str) -> None:
        self.one("#text").send_keys(text, Keys.ENTER)

    def finished(self) -> bool:
        return self.text("#send") in ("Send", "发送")

    def press(self, name: str) -> None:
        """The button of that name that was drawn last."""

        def last() -> Any:
            return [each for each in self.all("button") if each.text == name and each.is_displayed()][-1]

        self.until(lambda: last().click() or True)

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
