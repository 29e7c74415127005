"""A model that is served, and the jobs of one request with their events as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary, ref

from llama_ref.text.chat_prompt import ChatPrompt
from llama_ref.text.sampling import SamplingOptions
from llama_ref.vocabulary.gguf_tokenizer import GgufTokenizer

from .answers import Choice
from .bodies import Generation, TokenizeRequest, checked_biases
from .engine import Engine
from .guard import ApiError
from .jobs import Event, Failed, Finished, Job

__all__ = ["Served", "Work"]

PAUSE = 0.01  # seconds between two packets of a stream where several answers are written


@dataclass(frozen=True)
class Served:
    """A model that is served.

    Attributes:
        name: as clients call it.
        sampling: how tokens are chosen where a request does not say.
    """

    name: str
    engine: Engine
    prompt: ChatPrompt
    sampling: SamplingOptions

    def piece(self, token: int) -> bytes:
        return bytes(self.engine.tokenizer.piece(token))

    @cached_property
    def specials(self) -> dict[str, int]:
        """The tokens that begin and end a text, by name."""
        tokenizer = self.engine.tokenizer
        if isinstance(tokenizer, GgufTokenizer):
            return {
                tokenizer.texts[token].decode("utf-8", "replace"): token for token in (tokenizer.bos, tokenizer.eos)
            }
        return {"<s>": tokenizer.bos, "</s>": tokenizer.eos}

    def tokens(self, body: TokenizeRequest) -> list[int]:
        """A text as tokens: as it stands, or as it would begin; the name of a special token is that token."""
        tokenizer = self.engine.tokenizer
        if body.content is not None:
            return list((tokenizer.encode_first if body.add_special else tokenizer.encode)(body.content))
        text = body.prompt or ""
        if text in self.specials:
            return [self.specials[text]]
        return list(tokenizer.encode_first(text) if body.add_special_tokens else tokenizer.spaced(text))

    @cached_property
    def longest_piece(self) -> int:
        """Bytes: a text of more characters than n of these has more than n tokens."""
        return max(len(self.piece(token)) for token in range(self.engine.model.n_vocab))


class Post:
    """Wakes those who wait for events of other threads: all of one round of an engine at once.

    Waking a loop costs a system call, and then its thread wants Python's lock, which the engine has.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)
        self._due: deque[asyncio.Event] = deque()
        self._called = False

    def wake(self, event: asyncio.Event) -> None:
        """Set an event of the loop, from another thread."""
        self._due.append(event)
        loop = self._loop()
        if loop is not None and not self._called:
            self._called = True
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody listens
                loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._called = False
        while self._due:
            self._due.popleft().set()


_POSTS: WeakKeyDictionary[asyncio.AbstractEventLoop, Post] = WeakKeyDictionary()


def _post_of(loop: asyncio.AbstractEventLoop) -> Post:
    return _POSTS.setdefault(loop, Post(loop))


class Work:
    """The jobs of one request: one for each prompt and choice.

    Attributes:
        left: how many of them have not ended.

    Args:
        prompts: token ids; each is continued ``body.n`` times.
        stops: of the template, beside those of the request.
        logprobs: how many alternatives to name at each token; None: no log-probabilities.
        echo: score the prompts too.
    """

    def __init__(
        self,
        model: Served,
        body: Generation,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        stops: tuple[str, ...],
        logprobs: int | None,
        echo: bool,
    ) -> None:
        n_vocab = model.engine.model.n_vocab
        try:
            bias = checked_biases(body.biases, n_vocab)
        except ValueError as error:
            raise ApiError(400, str(error), "logit_bias") from error
        self.model = model
        self._loop = asyncio.get_running_loop()
        self._news: deque[tuple[int, Event]] = deque()
        self._more = asyncio.Event()
        self._post = _post_of(self._loop)
        self._each = body.stream  # whether each event is passed on as it comes, or all of them with the end
        self._listens = self._each  # whether it is, at this moment
        self.left = len(prompts) * body.n
        each = [tuple(prompt) for prompt in prompts for _ in range(body.n)]
        self.choices = [Choice(index, model.piece, prompt) for index, prompt in enumerate(each)]
        self.jobs = [
            Job(
                choice.prompt,
                self._teller(choice.index),
                body.sampling(model.sampling, n_vocab, choice.index % body.n),
                max_tokens,
                (*body.stop, *stops),
                bias,
                body.frequency_penalty,
                body.presence_penalty,
                logprobs,
                echo,
            )
            for choice in self.choices
        ]

    def _teller(self, index: int) -> Callable[[Event], None]:
        """Takes the events of a job, in the engine's thread."""

        def tell(event: Event) -> None:
            self._news.append((index, event))
            if self._listens or isinstance(event, Finished | Failed):
                self._post.wake(self._more)

        return tell

    async def batches(self, seconds: float) -> AsyncIterator[list[tuple[Choice, Event]]]:
        """The events that came since the last batch, each with its choice, until all choices have ended.

        While several answers are written, what comes within ``PAUSE`` of a batch waits for the next; an end does not.

        Raises:
            ApiError: that takes longer than it may.
        """
        end = self._loop.time() + seconds
        timers = [self._loop.call_at(end, self._more.set)]
        try:
            while self.left:
                await self._more.wait()
                self._more.clear()
                self._listens = False
                if batch := self._arrived():
                    yield batch
                if self.left and self._loop.time() >= end:
                    raise ApiError(504, f"the answer took more than {seconds:g} seconds", code="timeout")
                if self._each and self.model.engine.working > 1:
                    timers[1:] = [self._loop.call_later(PAUSE, self._listen)]
                else:
                    self._listen()
        finally:
            for timer in timers:
                timer.cancel()

    def _arrived(self) -> list[tuple[Choice, Event]]:
        batch = []
        while self._news:
            index, event = self._news.popleft()
            self.left -= isinstance(event, Finished | Failed)
            batch.append((self.choices[index], event))
        return batch

    def _listen(self) -> None:
        self._listens = self._each
        if self._each and self._news:
            self._more.set()

    def cancel(self) -> int:
        """Nobody waits any longer; how many jobs that ended."""
        for job in self.jobs:
            job.cancel()
        left, self.left = self.left, 0
        return left
