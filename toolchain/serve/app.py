"""The server as an ASGI application: routes, and the way from a request to jobs and back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ggmlpy.files.errors import FormatError, UsageError
from llama_ref.text.chat_prompt import ChatPrompt
from llama_ref.text.sampling import SamplingOptions

from .answers import Choice, Envelope, chat_choice, chat_delta, completion_choice, completion_delta, usage
from .bodies import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    Generation,
    TokenizeRequest,
    checked_biases,
)
from .engine import Busy, Engine
from .guard import ApiError, error_body
from .jobs import Event, Failed, Finished, Job, Piece
from .metrics import Metrics

__all__ = ["Served", "create_app"]

B = TypeVar("B", bound=BaseModel)
#: the page is one file: nothing is fetched from elsewhere, and nothing that a model writes is run
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MOST_PROMPTS = 64  # of one request


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


def create_app(models: Sequence[Served], *, seconds: float = 600.0) -> Starlette:
    """The application.

    Args:
        models: the first answers requests that name none.
        seconds: how long an answer may take.
    """
    server = Server(models, seconds)
    routes = [
        Route("/", server.page),
        Route("/health", server.health),
        Route("/metrics", server.metrics_text),
        Route("/v1/models", server.list_models),
        Route("/v1/completions", server.completions, methods=["POST"]),
        Route("/v1/chat/completions", server.chat_completions, methods=["POST"]),
        Route("/tokenize", server.tokenize, methods=["POST"]),
        Route("/detokenize", server.detokenize, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {ApiError: server.refused, HTTPException: server.not_here}
    return Starlette(routes=routes, exception_handlers=handlers)


class Server:
    """The handlers of the routes."""

    def __init__(self, models: Sequence[Served], seconds: float) -> None:
        self.models = {model.name: model for model in models}
        self.first = models[0]
        self.seconds = seconds
        self.metrics = Metrics({model.name: model.engine for model in models})

    # ── what needs no model ──────────────────────────────────────────────────────────────────────────────────────────

    async def page(self, _: Request) -> Response:
        text = files(__package__).joinpath("page.html").read_text("utf-8")
        return HTMLResponse(text, headers={"content-security-policy": POLICY, "cache-control": "no-cache"})

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics_text(self, _: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def list_models(self, _: Request) -> Response:
        entries = [
            {
                "id": name,
                "object": "model",
                "created": 0,
                "owned_by": "local",
                "context_length": model.engine.model.n_ctx,
                "vocabulary": model.engine.model.n_vocab,
            }
            for name, model in self.models.items()
        ]
        return JSONResponse({"object": "list", "data": entries})

    async def tokenize(self, request: Request) -> Response:
        body = await self._body(request, TokenizeRequest)
        model = self._model(body.model)
        encode = model.engine.tokenizer.encode_first if body.add_special else model.engine.tokenizer.encode
        tokens = await asyncio.to_thread(encode, body.content)
        if not body.with_pieces:
            return self._json(request, {"tokens": tokens})
        pieces = [{"id": token, "piece": _text_or_bytes(model.piece(token))} for token in tokens]
        return self._json(request, {"tokens": pieces})

    async def detokenize(self, request: Request) -> Response:
        body = await self._body(request, DetokenizeRequest)
        model = self._model(body.model)
        _check_tokens(body.tokens, model)
        data = b"".join(map(model.piece, body.tokens))
        return self._json(request, {"content": data.decode("utf-8", "replace")})

    # ── completions ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def completions(self, request: Request) -> Response:
        body = await self._body(request, CompletionRequest)
        model = self._model(body.model)
        prompts = body.prompts()
        if len(prompts) * body.n > MOST_PROMPTS:
            raise ApiError(400, f"at most {MOST_PROMPTS} answers a request", "prompt")
        tokens = [await asyncio.to_thread(_prompt_tokens, prompt, model) for prompt in prompts for _ in range(body.n)]
        echoed = [_text_of(prompt, model) if body.echo else "" for prompt in prompts for _ in range(body.n)]
        work = Work(model, body, tokens, body.max_tokens, (), body.logprobs, body.echo and body.logprobs is not None)
        for choice, text in zip(work.choices, echoed, strict=True):
            choice.echoed = text
        envelope = Envelope.new("text_completion", model.name)
        if body.stream:
            if body.echo:
                raise ApiError(400, "echo and stream exclude each other here", "echo")
            offsets = [0] * len(work.choices)

            def delta(choice: Choice, event: Event) -> dict[str, Any]:
                made = completion_delta(choice, event, offsets[choice.index], body.logprobs)
                offsets[choice.index] += len(made["text"])
                return made

            return await self._streamed(request, work, envelope, delta, body)
        await self._collected(request, work)
        choices = [
            completion_choice(choice, job.prompt if body.echo else None, body.logprobs)
            for choice, job in zip(work.choices, work.jobs, strict=True)
        ]
        return self._json(request, envelope(choices, usage=usage(work.choices)))

    async def chat_completions(self, request: Request) -> Response:
        body = await self._body(request, ChatRequest)
        model = self._model(body.model)
        messages = [(message.speaker, message.text) for message in body.messages]
        try:
            tokens = await asyncio.to_thread(model.prompt.tokens, messages)
        except (UsageError, FormatError) as error:
            raise ApiError(400, str(error), "messages") from error
        room = model.engine.model.n_ctx - len(tokens)
        wanted = max(room, 0) if body.wanted_tokens is None else body.wanted_tokens
        logprobs = body.top_logprobs if body.logprobs else None
        work = Work(model, body, [tokens] * body.n, wanted, model.prompt.stops, logprobs, False)
        envelope = Envelope.new("chat.completion", model.name)
        if body.stream:
            return await self._streamed(
                request, work, envelope, lambda choice, event: chat_delta(choice, event, body.logprobs), body
            )
        await self._collected(request, work)
        choices = [chat_choice(choice, body.logprobs) for choice in work.choices]
        return self._json(request, envelope(choices, usage=usage(work.choices)))

    async def _collected(self, request: Request, work: Work) -> None:
        """Wait for all choices, or for the client to leave."""
        self._submit(work)
        collecting = asyncio.ensure_future(self._collect(work))
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({collecting, leaving}, timeout=self.seconds, return_when=asyncio.FIRST_COMPLETED)
            if collecting.done():
                collecting.result()
            elif not leaving.done():
                raise ApiError(504, f"the answer took more than {self.seconds:g} seconds", code="timeout")
        finally:
            work.cancel()
            collecting.cancel()
            leaving.cancel()

    async def _collect(self, work: Work) -> None:
        async for choice, event in work.events():
            self._count(event)
            choice.take(event)

    async def _streamed(
        self,
        request: Request,
        work: Work,
        envelope: Envelope,
        delta: Callable[[Choice, Event], dict[str, Any]],
        body: Generation,
    ) -> Response:
        self._submit(work)
        wants_usage = body.stream_options is not None and body.stream_options.include_usage

        async def chunks() -> AsyncIterator[dict[str, str]]:
            try:
                if envelope.kind.startswith("chat"):
                    roles = [
                        {"index": choice.index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
                        for choice in work.choices
                    ]
                    yield _sse(envelope(roles, chunk=True))
                async for choice, event in work.events():
                    self._count(event)
                    if isinstance(event, Piece | Finished):
                        choice.take(event)
                        made = delta(choice, event)
                        yield _sse(envelope([made], chunk=True))
                if wants_usage:
                    yield _sse(envelope([], chunk=True, usage=usage(work.choices)))
                yield {"data": "[DONE]"}
            except ApiError as error:
                yield {"data": error.body.decode()}
            finally:
                work.cancel()

        self.metrics.requests.labels(request.url.path, 200).inc()
        return EventSourceResponse(chunks(), sep="\n", send_timeout=self.seconds)

    def _submit(self, work: Work) -> None:
        try:
            work.model.engine.submit(*work.jobs)
        except Busy as error:
            raise ApiError(429, "the queue is full; try again later", code="busy") from error
        except UsageError as error:
            raise ApiError(400, str(error), "prompt", "context_length_exceeded") from error

    # ── helpers of all ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _body(self, request: Request, kind: type[B]) -> B:
        try:
            return kind.model_validate_json(await request.body())
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                raise ApiError(400, f"{place} is not supported", place, "unsupported_parameter") from error
            raise ApiError(400, f"{place}: {first['msg']}" if place else first["msg"], place or None) from error

    def _model(self, name: str) -> Served:
        if not name:
            return self.first
        if name not in self.models:
            raise ApiError(
                404, f"no model {name[:100]!r}; there is {', '.join(self.models)}", "model", "model_not_found"
            )
        return self.models[name]

    def _count(self, event: Event) -> None:
        if isinstance(event, Failed):
            raise ApiError(500, event.message)
        if isinstance(event, Finished):
            self.metrics.finished(event)

    def _json(self, request: Request, content: Any) -> Response:
        self.metrics.requests.labels(request.url.path, 200).inc()
        return JSONResponse(content)

    async def refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        self.metrics.requests.labels(request.url.path, error.status).inc()
        retry = {"retry-after": "1"} if error.status == 429 else None
        return Response(error.body, error.status, media_type="application/json", headers=retry)

    async def not_here(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        self.metrics.requests.labels("other", error.status_code).inc()
        words = {404: "no such path", 405: "another method is wanted here"}.get(error.status_code, error.detail)
        return Response(error_body(error.status_code, words), error.status_code, media_type="application/json")


class Work:
    """The jobs of one request, and their events as they come."""

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
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self.choices = [Choice(index, model.piece) for index in range(len(prompts))]
        self.jobs = [
            Job(
                tuple(prompt),
                self._teller(index),
                body.sampling(model.sampling, n_vocab, index),
                max_tokens,
                (*body.stop, *stops),
                bias,
                body.frequency_penalty,
                body.presence_penalty,
                logprobs,
                echo,
            )
            for index, prompt in enumerate(prompts)
        ]

    def _teller(self, index: int) -> Callable[[Event], None]:
        def tell(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody listens
                self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

        return tell

    async def events(self) -> AsyncIterator[tuple[Choice, Event]]:
        """Each event with its choice, until all choices have ended."""
        left = len(self.jobs)
        while left:
            index, event = await self._events.get()
            left -= isinstance(event, Finished | Failed)
            yield self.choices[index], event

    def cancel(self) -> None:
        for job in self.jobs:
            job.cancel()


def _sse(content: dict[str, Any]) -> dict[str, str]:
    return {"data": json.dumps(content, ensure_ascii=False)}


async def _left(request: Request) -> None:
    """Return when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _prompt_tokens(prompt: str | list[int], model: Served) -> list[int]:
    if isinstance(prompt, str):
        return list(model.engine.tokenizer.encode_first(prompt))
    _check_tokens(prompt, model)
    return prompt


def _check_tokens(tokens: Sequence[int], model: Served) -> None:
    n_vocab = model.engine.model.n_vocab
    if wrong := [token for token in tokens if not 0 <= token < n_vocab]:
        raise ApiError(400, f"token {wrong[0]} is outside the vocabulary of {n_vocab}", "prompt")


def _text_of(prompt: str | list[int], model: Served) -> str:
    return prompt if isinstance(prompt, str) else b"".join(map(model.piece, prompt)).decode("utf-8", "replace")


def _text_or_bytes(piece: bytes) -> str | list[int]:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return list(piece)
