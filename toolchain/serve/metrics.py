"""What Prometheus asks: counts, sizes and times."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .engine import Engine
from .jobs import Finished

__all__ = ["Metrics"]

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """The figures of one server."""

    def __init__(self, engines: dict[str, Engine]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ggmlpy_requests", "Requests by path and status", ("path", "status"), registry=self.registry
        )
        self.prompt_tokens = Counter("ggmlpy_prompt_tokens", "Tokens of prompts", registry=self.registry)
        self.reused_tokens = Counter(
            "ggmlpy_reused_tokens", "Tokens of prompts that a cache still held", registry=self.registry
        )
        self.generated_tokens = Counter("ggmlpy_generated_tokens", "Tokens generated", registry=self.registry)
        self.cancelled = Counter("ggmlpy_cancelled", "Answers that nobody waited for", registry=self.registry)
        self.seconds = Histogram(
            "ggmlpy_answer_seconds", "From a place to the last token", buckets=SECONDS, registry=self.registry
        )
        self._gauge("ggmlpy_queue", "Jobs that wait for a place", engines, lambda engine: engine.waiting)
        self._gauge("ggmlpy_working", "Jobs that are worked on", engines, lambda engine: engine.working)

    def _gauge(self, name: str, words: str, engines: dict[str, Engine], figure: Callable[[Engine], int]) -> None:
        gauge = Gauge(name, words, ("model",), registry=self.registry)
        for model, engine in engines.items():
            gauge.labels(model).set_function(partial(figure, engine))

    def finished(self, end: Finished) -> None:
        self.prompt_tokens.inc(end.prompt_tokens)
        self.reused_tokens.inc(end.reused_tokens)
        self.generated_tokens.inc(end.completion_tokens)
        self.seconds.observe(end.seconds)

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self.registry)
