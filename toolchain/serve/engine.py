"""One thread that evaluates a model for many clients: jobs take turns in places, each with its key/value cache.

In each round the oldest prompt that is still being read is read on by one batch, and every answer that is being written
gets its next token; these tokens are evaluated together, in one pass over the model's weights. A job's text does not
depend on what else goes on: its cache, its random numbers and its window of last tokens are its own, and the fast
arithmetic gives the same bits however tokens are batched.

A place that is free keeps its cache. A job gets the place whose tokens begin like its prompt for longest, and reads
only the rest; that too gives the same bits.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ggmlpy.files.errors import FormatError, UsageError
from llama_ref.text.conversation import Conversation
from llama_ref.text.model import Model
from llama_ref.text.sampling import Sampler
from llama_ref.text.stop_words import StopWords
from llama_ref.vocabulary.utf8 import Utf8Stream

from .jobs import Event, Failed, Finished, Job, Piece, PromptScored, Scored, adjusted, best_tokens

__all__ = ["Busy", "Engine"]

BATCH = 128  # tokens of a prompt that are read between two tokens of an answer


class Busy(Exception):
    """The queue is full; try again later."""


@dataclass
class Place:
    """A key/value cache, what it holds, and the job that uses it.

    Attributes:
        tokens: those whose keys and values the cache holds, one for each position.
    """

    conversation: Conversation
    tokens: list[int] = field(default_factory=list)
    job: Job | None = None
    unread: list[int] = field(default_factory=list)
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
    def writes(self) -> bool:
        """Whether its prompt has been read."""
        return self.job is not None and not self.unread and self.logits is not None


class Engine:
    """Evaluates jobs, several at a time.

    Args:
        model: is closed with the engine.
        places: how many jobs are worked on at a time.
        queue: how many more may wait.
    """

    def __init__(self, model: Model, *, places: int = 4, queue: int = 64) -> None:
        self.model = model
        self.places = [Place(Conversation(model)) for _ in range(places)]
        self.tokenizer = self.places[0].conversation.tokenizer
        self.era = self.places[0].conversation.sampler.era
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
        place.unread = list(job.prompt[place.reused :])
        place.job, place.logits, place.made, place.scores = job, None, 0, []
        place.counts, place.stream, place.words = Counter(), Utf8Stream(), StopWords(job.stop)
        place.began = time.perf_counter()
        conversation = place.conversation
        conversation.sampler = Sampler(job.sampling, self.era)
        conversation.recent = [0] * self.model.n_ctx
        conversation.remember(job.prompt)

    def _round(self) -> None:
        """One batch of the oldest prompt, and one token of every answer."""
        for place in self.places:
            if place.job is not None and place.job.cancelled:
                self._end(place, "cancelled")
        reading = [place for place in self.places if place.unread]
        if reading:
            self._guarded(min(reading, key=lambda place: place.began), self._read)
        writing = [place for place in self.places if place.writes]
        chosen = [(place, self._guarded(place, self._write)) for place in writing]
        self._evaluate_each([(place, token) for place, token in chosen if token is not None])

    def _guarded(self, place: Place, step: Callable[[Place, Job], int | None]) -> int | None:
        """A model whose file was cut off, or a mistake of ours, ends one job and not the server."""
        job = place.job
        assert job is not None
        try:
            return step(place, job)
        except Exception as error:
            self._fail(place, error)
            return None

    def _fail(self, place: Place, error: Exception) -> None:
        job = place.job
        if job is not None:
            self._leave(place)
            place.tokens = []
            known = isinstance(error, FormatError | UsageError | MemoryError)
            whose = "" if known else f"a mistake of the server: {type(error).__name__}: "
            short = error.problem if isinstance(error, FormatError) else error
            self._tell(job, Failed(f"{whose}{error}", f"{whose}{short}"))

    def _evaluate_each(self, chosen: list[tuple[Place, int]]) -> None:
        """The next token of several answers."""
        if not chosen:
            return
        self._deliver()
        steps = [(token, len(place.tokens), place.conversation.cache) for place, token in chosen]
        try:
            rows = self.model.evaluate_each(steps)
        except Exception as error:
            for place, _ in chosen:
                self._fail(place, error)
            return
        for (place, token), row in zip(chosen, rows, strict=True):
            place.logits = row
            place.tokens.append(token)

    def _read(self, place: Place, job: Job) -> None:
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

    def _write(self, place: Place, job: Job) -> int | None:
        """Choose a token and say what became whole with it; the token, if it is to be evaluated."""
        if place.made >= job.max_tokens or len(place.tokens) >= self.model.n_ctx:
            self._end(place, "length")
            return None
        assert place.logits is not None
        conversation = place.conversation
        sample = conversation.sampler.choose(adjusted(place.logits, job, place.counts), conversation.recent)
        token = sample.token
        if token in self.tokenizer.ends:
            self._end(place, "stop")
            return None
        conversation.remember([token])
        place.counts[token] += 1
        place.made += 1
        text = place.stream.feed(self.tokenizer.piece(token)).decode("utf-8", "replace")
        shown = place.words.feed(text)
        scored = Scored(token) if job.logprobs is None else best_tokens(place.logits, token, job.logprobs)
        self._tell(job, Piece(shown, scored))
        if place.words.found:
            self._end(place, "stop")
            return None
        if place.made < job.max_tokens and len(place.tokens) < self.model.n_ctx:
            return token
        return None

    def _evaluate(self, place: Place, tokens: Sequence[int], *, last_only: bool) -> np.ndarray:
        cache = place.conversation.cache
        logits = self.model.evaluate(tokens, len(place.tokens), last_only=last_only, cache=cache)
        place.tokens.extend(tokens)
        return logits

    def _end(self, place: Place, reason: str) -> None:
        job = place.job
        assert job is not None
        seconds = time.perf_counter() - place.began
        self._leave(place)
        self._tell(job, Finished(reason, len(job.prompt), place.made, place.words.rest(), place.reused, seconds))

    def _leave(self, place: Place) -> None:
        place.job, place.unread, place.logits, place.used = None, [], None, time.perf_counter()


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens at the beginning are the same."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
