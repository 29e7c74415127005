"""One tiny model, served, for all tests of the server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Queue

import pytest

pytest.importorskip("starlette", reason="the server comes with pip install '.[serve]'")
pytest.importorskip("prometheus_client", reason="the server comes with pip install '.[serve]'")

from llama_ref.text.chat_prompt import AlpacaPrompt
from llama_ref.text.model import Model
from llama_ref.text.sampling import SamplingOptions
from toolchain.demo.default import default_model
from toolchain.serve.app import create_app
from toolchain.serve.engine import Engine
from toolchain.serve.guard import Guard
from toolchain.serve.jobs import Failed, Finished, Job, Piece, PromptScored
from toolchain.serve.work import Served


@pytest.fixture(scope="session")
def path() -> str:
    return str(default_model(lambda *_: None))


@pytest.fixture(scope="session")
def engine(path: str) -> Iterator[Engine]:
    engine = Engine(Model.from_file(path, n_ctx=256, n_threads=1), places=3, queue=32)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def served(engine: Engine) -> Served:
    return Served("demo", engine, AlpacaPrompt(engine.tokenizer), SamplingOptions())


@pytest.fixture(scope="session")
def app(served: Served) -> Guard:
    return Guard(create_app([served]), largest=100_000)


class Heard:
    """A job, and what its client was told."""

    def __init__(self, prompt: list[int], **options: object) -> None:
        self.events: Queue[object] = Queue()
        self.text = ""
        self.pieces: list[Piece] = []
        self.scored: PromptScored | None = None
        self.first = threading.Event()
        self.job = Job(tuple(prompt), self._take, **options)  # type: ignore[arg-type]

    def _take(self, event: object) -> None:
        self.events.put(event)
        self.first.set()

    def end(self) -> Finished | Failed:
        """Wait for the end."""
        while True:
            event = self.events.get(timeout=60)
            if isinstance(event, Piece):
                self.pieces.append(event)
                self.text += event.text
            elif isinstance(event, PromptScored):
                self.scored = event
            else:
                self.text += getattr(event, "text", "")
                return event


@pytest.fixture(scope="session")
def heard() -> type[Heard]:
    return Heard
