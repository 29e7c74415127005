"""One thread that evaluates a model for many clients: jobs take turns in places, each with its key/value cache.

In each round the oldest prompt that is still being read is read on by one batch, and every answer that is being written
gets its next token; these tokens are chosen together, in one call of compiled code, and evaluated together, in one pass
over the model's weights. So is the last token of a prompt. A job's text does not depend on what else goes on: its
cache, its random numbers and its window of last tokens are its own, and the fast arithmetic gives the same bits however
tokens are batched.

A place that is free keeps its cache. A job gets the place whose tokens begin like its prompt for longest, and reads
only the rest; that too gives the same bits.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.formats.eras import era_of
from llama_ref.text.conversation import Conversation
from llama_ref.text.model import Model
from llama_ref.text.samplers import Samplers
from llama_ref.text.stop_words import StopWords
from llama_ref.vocabulary.utf8 import Utf8Stream

from .jobs import Event, Failed, Finished, Job, Piece, PromptScored, Scored, adjusted, best_tokens

if TYPE_CHECKING:
    from llama_ref.arithmetic.transformer import KVCache

__all__ = ["Busy", "Engine"]

BATCH = 128  # tokens of a prompt that are read between two tokens of an answer


class Busy(Exception):
    """The queue is full; try again later."""


@dataclass
class Place:
    """A key/value cache, what it holds, and the job that uses it.

    Attributes:
        tokens: those whose keys and values the cache holds, one for each position.
        unread: tokens of the prompt that are read next, by batches.
        next: the token that is evaluated next, together with those of other places.
        logits: of the last token, once there is nothing else to evaluate.
    """

    number: int
    cache: KVCache
    tokens: list[int] = field(default_factory=list)
    job: Job | None = None
    unread: list[int] = field(default_factory=list)
    next: int | None = None
    counts: Counter[int] = field(default_factory=Counter)
    scores: list[Scored | None] = field(default_factory=list)
    logits: np.ndarray | None = None
    words: StopWords = field(default_factory=lambda: StopWords(()))
    stream: Utf8Stream = field(default_factory=Utf8Stream)
    made: int = 0
    reused: int = 0
    began: float = 0.0
    used: float = 0.0

    @property
    def choice(self) -> tuple[Place, Job, np.ndarray] | None:
        """What a token is to be chosen from, if that comes next."""
        if self.job is None or self.unread or self.next is not None or self.logits is None:
            return None
        return self, self.job, self.logits


class Engine:
    """Evaluates jobs, several at a time.

    Args:
        model: is closed with the engine.
        places: how many jobs are worked on at a time.
        queue: how many more may wait.
    """

    def __init__(self, model: Model, *, places: int = 4, queue: int = 64) -> None:
        self.model = model
        usual = Conversation(model)
        self.tokenizer = usual.tokenizer
        self.places = [Place(number, model.new_cache()) for number in range(places)]
        self._samplers = Samplers(places, n_vocab=model.n_vocab, n_ctx=model.n_ctx, era=era_of(usual.sampler.era))
        self._most = queue
        self._waiting: deque[Job] = deque()
        self._news: list[tuple[Job, Event]] = []  # of this round
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs that no place works on yet."""
        return len(self._waiting)

    @property
    def working(self) -> int:
        """Jobs that are worked on."""
        return sum(place.job is not None for place in self.places)

    def submit(self, *jobs: Job) -> None:
        """Put jobs into the queue, all or none.

        Raises:
            Busy: there are too many already.
            UsageError: a prompt is empty or leaves no room in the context.
        """
        for job in jobs:
            if not job.prompt:
                raise UsageError("the prompt is empty")
            if len(job.prompt) + bool(job.max_tokens) > self.model.n_ctx:
                raise UsageError(f"the prompt has {len(job.prompt)} tokens, the context {self.model.n_ctx}")
        with self._wake:
            self._waiting = deque(job for job in self._waiting if not job.cancelled)
            if self._stopping or len(self._waiting) + len(jobs) > self._most:
                raise Busy
            self._waiting.extend(jobs)
            self._wake.notify()

    def close(self) -> None:
        """Cancel what is left, and close the model."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()
        self.model.close()

    # ── the engine's thread ──────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._waiting or self.working)
                if self._stopping:
                    break
                self._admit()
            self._round()
            self._deliver()
        for job in [*self._waiting, *(place.job for place in self.places if place.job)]:
            self._tell(job, Finished("cancelled", len(job.prompt), 0))
        self._deliver()

    def _tell(self, job: Job, event: Event) -> None:
        self._news.append((job, event))

    def _deliver(self) -> None:
        """Wake those who wait, all at once: they pass the news on while compiled code evaluates the next tokens."""
        news, self._news = self._news, []
        for job, event in news:
            job.tell(event)

    def _admit(self) -> None:
        """Give free places to the jobs that have waited longest."""
        while self._waiting and any(place.job is None for place in self.places):
            job = self._waiting.popleft()
            if job.cancelled:
                continue
            free = [place for place in self.places if place.job is None]
            self._begin(max(free, key=lambda place: (_common(place.tokens, job.prompt), -place.used)), job)

    def _begin(self, place: Place, job: Job) -> None:
        # the last token is always evaluated, for its logits; to score a prompt, all of them are
        place.reused = 0 if job.echo else min(_common(place.tokens, job.prompt), len(job.prompt) - 1)
        place.tokens = place.tokens[: place.reused]
        place.job, place.logits, place.made, place.scores = job, None, 0, []
        place.unread, place.next = list(job.prompt[place.reused :]), None
        if len(place.unread) == 1 and not job.echo:
            place.next = place.unread.pop()
        place.counts, place.stream, place.words = Counter(), Utf8Stream(), StopWords(job.stop)
        place.began = time.perf_counter()
        self._samplers.begin(place.number, job.sampling, job.prompt)

    def _round(self) -> None:
        """One batch of the oldest prompt, and one token of every answer."""
        for place in self.places:
            if place.job is not None and place.job.cancelled:
                self._end(place, "cancelled")
        reading = [place for place in self.places if place.unread]
        if reading:
            oldest = min(reading, key=lambda place: place.began)
            self._guarded([oldest], self._read, oldest)
        writing = [each for place in self.places if (each := place.choice) and self._goes_on(*each[:2])]
        if writing:
            self._guarded([place for place, _, _ in writing], self._write, writing)
        ready = [(place, place.next) for place in self.places if place.next is not None]
        if ready:
            self._deliver()
            self._guarded([place for place, _ in ready], self._evaluate_each, ready)

    def _guarded(self, places: list[Place], step: Callable[..., None], *what: Any) -> None:
        """A model whose file was cut off, or a mistake of ours, ends the jobs that it concerns and not the server."""
        try:
            step(*what)
        except Exception as error:
            for place in places:
                self._fail(place, error)

    def _fail(self, place: Place, error: Exception) -> None:
        job = place.job
        if job is not None:
            self._leave(place)
            place.tokens = []
            known = isinstance(error, FormatError | UsageError | MemoryError)
            whose = "" if known else f"a mistake of the server: {type(error).__name__}: "
            short = error.problem if isinstance(error, FormatError) else error
            self._tell(job, Failed(f"{whose}{error}", f"{whose}{short}"))

    def _evaluate_each(self, ready: list[tuple[Place, int]]) -> None:
        """The next token of several texts."""
        rows = self.model.evaluate_each([(token, len(place.tokens), place.cache) for place, token in ready])
        for (place, token), row in zip(ready, rows, strict=True):
            place.tokens.append(token)
            place.next, place.logits = None, row

    def _read(self, place: Place) -> None:
        """The next batch of a prompt."""
        job = place.job
        assert job is not None
        batch, place.unread = place.unread[:BATCH], place.unread[BATCH:]
        if not job.echo:
            place.logits = self._evaluate(place, batch, last_only=True)
            return
        before, logits = place.logits, self._evaluate(place, batch, last_only=False)
        rows = [before, *logits[:-1]]
        for token, row in zip(batch, rows, strict=True):
            place.scores.append(None if row is None else best_tokens(row, token, job.logprobs or 0))
        place.logits = logits[-1]
        if not place.unread:
            self._tell(job, PromptScored(tuple(place.scores)))

    def _goes_on(self, place: Place, job: Job) -> bool:
        """Whether there may be another token; else that is the end."""
        if place.made < job.max_tokens and len(place.tokens) < self.model.n_ctx:
            return True
        self._end(place, "length")
        return False

    def _write(self, writing: list[tuple[Place, Job, np.ndarray]]) -> None:
        """Choose the next tokens of several answers, and say what became whole with them."""
        logits = [adjusted(logits, job, place.counts) for place, job, logits in writing]
        tokens = self._samplers.choose([place.number for place, _, _ in writing], logits)
        for each, token in zip(writing, tokens, strict=True):
            if token in self.tokenizer.ends:
                self._end(each[0], "stop")
            else:
                self._guarded([each[0]], self._add, *each, token)

    def _add(self, place: Place, job: Job, logits: np.ndarray, token: int) -> None:
        place.made += 1
        place.counts[token] += 1
        shown = place.words.feed(place.stream.feed(self.tokenizer.piece(token)).decode("utf-8", "replace"))
        scored = Scored(token) if job.logprobs is None else best_tokens(logits, token, job.logprobs)
        self._tell(job, Piece(shown, scored))
        if place.words.found:
            self._end(place, "stop")
        elif self._goes_on(place, job):
            place.next = token

    def _evaluate(self, place: Place, tokens: Sequence[int], *, last_only: bool) -> np.ndarray:
        logits = self.model.evaluate(tokens, len(place.tokens), last_only=last_only, cache=place.cache)
        place.tokens.extend(tokens)
        return logits

    def _end(self, place: Place, reason: str) -> None:
        job = place.job
        assert job is not None
        seconds = time.perf_counter() - place.began
        self._leave(place)
        self._tell(job, Finished(reason, len(job.prompt), place.made, place.words.rest(), place.reused, seconds))

    def _leave(self, place: Place) -> None:
        place.job, place.unread, place.next, place.logits = None, [], None, None
        place.used = time.perf_counter()


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens at the beginning are the same."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
