"""One tiny model, served, for all tests of the server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Queue
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from tests.serve.browsing import Person, Script, Site


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


# ── the page in a browser: selenium is imported where it is asked for ────────────────────────────────────────────────


@pytest.fixture(scope="module")
def real(served: Served) -> Iterator[Site]:
    """The demo model, and itself under another name to compare with."""
    from tests.serve.browsing import Site

    twin = Served("twin", served.engine, served.prompt, served.sampling)
    site = Site(Guard(create_app([served, twin])))
    yield site
    site.close()


@pytest.fixture(scope="module")
def script() -> Script:
    from tests.serve.browsing import Script

    return Script()


@pytest.fixture(scope="module")
def scripted(script: Script) -> Iterator[Site]:
    from tests.serve.browsing import Site

    site = Site(script.app())
    yield site
    site.close()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from tests.serve.browsing import chromium

    with chromium(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture
def person(browser: Any) -> Iterator[Person]:
    from tests.serve.browsing import Person

    person = Person(browser)
    person.complaints()
    yield person
    assert person.complaints() == [], "of the browser's console, where violations of the policy stand too"


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
