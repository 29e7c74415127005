"""A model that is served, and the jobs of one request with their events as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from llama_ref.text.chat_prompt import ChatPrompt
from llama_ref.text.sampling import SamplingOptions
from llama_ref.vocabulary.gguf_tokenizer import GgufTokenizer

from .answers import Choice
from .bodies import Generation, TokenizeRequest, checked_biases
from .engine import Engine
from .guard import ApiError
from .jobs import Event, Failed, Finished, Job

__all__ = ["Served", "Work"]


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


class Work:
    """The jobs of one request: one for each prompt and choice.

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
        self._each = body.stream  # whether each event is passed on as it comes, or all of them with the end
        self._left = len(prompts) * body.n
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
            if self._each or isinstance(event, Finished | Failed):
                with contextlib.suppress(RuntimeError):  # the loop has ended: nobody listens
                    self._loop.call_soon_threadsafe(self._more.set)

        return tell

    async def events(self, seconds: float) -> AsyncIterator[tuple[Choice, Event]]:
        """Each event with its choice, until all choices have ended.

        Raises:
            ApiError: that takes longer than it may.
        """
        end = self._loop.time() + seconds
        timer = self._loop.call_at(end, self._more.set)
        try:
            while self._left:
                await self._more.wait()
                self._more.clear()
                while self._news:
                    index, event = self._news.popleft()
                    self._left -= isinstance(event, Finished | Failed)
                    yield self.choices[index], event
                if self._left and self._loop.time() >= end:
                    raise ApiError(504, f"the answer took more than {seconds:g} seconds", code="timeout")
        finally:
            timer.cancel()

    def cancel(self) -> int:
        """Nobody waits any longer; how many jobs that ended."""
        for job in self.jobs:
            job.cancel()
        left, self._left = self._left, 0
        return left
