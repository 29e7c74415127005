"""The server as an ASGI application: routes, and the way from a request to jobs and back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ggmlpy.files.errors import FormatError, UsageError
from toolchain.terminal.talk import remark

from .answers import (
    Choice,
    CompletionDeltas,
    Envelope,
    chat_choice,
    chat_delta,
    chat_opening,
    completion_choice,
    event_of,
    usage,
)
from .bodies import ChatRequest, CompletionRequest, DetokenizeRequest, Generation, TokenizeRequest
from .engine import Busy
from .guard import ApiError, error_body
from .jobs import Event, Failed, Finished
from .metrics import Metrics
from .page import page, policy_of
from .work import Served, Work

__all__ = ["create_app"]

B = TypeVar("B", bound=BaseModel)
T = TypeVar("T")
SLOWEST_READER = 60.0  # seconds for which a client may take nothing of what is sent
SHORT = 1024  # characters that become tokens in a millisecond or so
MOST_ANSWERS = 64  # of one request
MOST_SCORES = 1 << 20  # log-probabilities of prompts in one answer


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
        Route("/v1/models/{name:path}", server.one_model),
        Route("/v1/completions", server.completions, methods=["POST"]),
        Route("/v1/chat/completions", server.chat_completions, methods=["POST"]),
        Route("/tokenize", server.tokenize, methods=["POST"]),
        Route("/detokenize", server.detokenize, methods=["POST"]),
        Route("/tokenizer_info", server.tokenizer_info),
    ]
    handlers: dict[Any, Any] = {ApiError: server.refused, HTTPException: server.not_here, Exception: server.failed}
    return Starlette(routes=routes, exception_handlers=handlers)


class Server:
    """The handlers of the routes."""

    def __init__(self, models: Sequence[Served], seconds: float) -> None:
        self.models = {model.name: model for model in models}
        self.first = models[0]
        self.seconds = seconds
        self.told = ""  # the last failure: it is told once, and not again for each request
        self.metrics = Metrics({model.name: model.engine for model in models})

    # ── what needs no model ──────────────────────────────────────────────────────────────────────────────────────────

    async def page(self, _: Request) -> Response:
        headers = {"content-security-policy": policy_of(page()), "cache-control": "no-cache"}
        return HTMLResponse(page(), headers=headers)

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics_text(self, _: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def list_models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [*map(_described, self.models.values())]})

    async def one_model(self, request: Request) -> Response:
        return JSONResponse(_described(self._model(request.path_params["name"])))

    async def tokenize(self, request: Request) -> Response:
        body = await self._body(request, TokenizeRequest)
        model = self._model(body.model)
        field = "prompt" if body.content is None else "content"
        tokens = await _cut(len(body.content or body.prompt or ""), model.tokens, body, model, field)
        shown = [{"id": token, "piece": _text_or_bytes(model.piece(token))} for token in tokens]
        content = {"tokens": shown if body.with_pieces else tokens, "count": len(tokens)}
        return self._json(request, {**content, "max_model_len": model.engine.model.n_ctx})

    async def detokenize(self, request: Request) -> Response:
        body = await self._body(request, DetokenizeRequest)
        model = self._model(body.model)
        _check_tokens(body.tokens, model, "tokens")
        text = b"".join(map(model.piece, body.tokens)).decode("utf-8", "replace")
        return self._json(request, {"content": text, "prompt": text})

    async def tokenizer_info(self, request: Request) -> Response:
        """What evaluation harnesses ask to use this server's own tokenizer."""
        bos, eos = self.first.specials
        return self._json(
            request, {"bos_token": bos, "eos_token": eos, "model_max_length": self.first.engine.model.n_ctx}
        )

    # ── completions ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def completions(self, request: Request) -> Response:
        body = await self._body(request, CompletionRequest)
        model = self._model(body.model)
        prompts: list[str | list[int]] = body.prompt
        if not 1 <= len(prompts) * body.n <= MOST_ANSWERS:
            raise ApiError(400, f"a request may ask for 1 to {MOST_ANSWERS} answers", "prompt")
        tokens = [await _prompt_tokens(prompt, model) for prompt in prompts]
        scored = body.echo and body.logprobs is not None
        if scored and sum(map(len, tokens)) * body.n * (1 + (body.logprobs or 0)) > MOST_SCORES:
            words = f"that is more than {MOST_SCORES:,} log-probabilities; send fewer prompts at a time"
            raise ApiError(400, words, "prompt")
        work = Work(model, body, tokens, body.max_tokens, (), body.logprobs, scored)
        if body.echo:
            for choice in work.choices:
                choice.echoed = _text_of(prompts[choice.index // body.n], model)
        envelope = Envelope.new("text_completion", model.name)
        if body.stream:
            deltas = [CompletionDeltas(choice, body.logprobs) for choice in work.choices]
            openings = [deltas[choice.index].opening() for choice in work.choices if body.echo and not scored]
            return await self._streamed(
                request, work, envelope, openings, lambda choice, event: deltas[choice.index](event), body
            )
        await self._collected(request, work)
        choices = [completion_choice(choice, body.logprobs) for choice in work.choices]
        return self._json(request, envelope(choices, usage=usage(work.choices, body.n)))

    async def chat_completions(self, request: Request) -> Response:
        body = await self._body(request, ChatRequest)
        model = self._model(body.model)
        messages = [(message.speaker, message.content) for message in body.messages]
        size = sum(len(text) for _, text in messages)
        _check_length(size, model)
        tokens = await _cut(size, model.prompt.tokens, messages, model, "messages")
        room = model.engine.model.n_ctx - len(tokens)
        wanted = max(room, 0) if body.wanted_tokens is None else body.wanted_tokens
        logprobs = body.top_logprobs if body.logprobs else None
        work = Work(model, body, [tokens], wanted, model.prompt.stops, logprobs, False)
        envelope = Envelope.new("chat.completion", model.name)
        if body.stream:
            openings = [chat_opening(choice) for choice in work.choices]
            return await self._streamed(
                request, work, envelope, openings, lambda choice, event: chat_delta(choice, event, body.logprobs), body
            )
        await self._collected(request, work)
        choices = [chat_choice(choice, body.logprobs) for choice in work.choices]
        return self._json(request, envelope(choices, usage=usage(work.choices, body.n)))

    async def _collected(self, request: Request, work: Work) -> None:
        """Wait for all choices, or for the client to leave."""
        self._submit(work)
        collecting = asyncio.ensure_future(self._collect(work))
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if collecting.done():
                collecting.result()
        finally:
            self.metrics.cancelled.inc(work.cancel())
            collecting.cancel()
            leaving.cancel()

    async def _collect(self, work: Work) -> None:
        async for batch in work.batches(self.seconds):
            for choice, event in batch:
                self._count(event)
                choice.take(event)

    async def _streamed(
        self,
        request: Request,
        work: Work,
        envelope: Envelope,
        openings: Sequence[dict[str, Any]],
        delta: Callable[[Choice, Event], dict[str, Any]],
        body: Generation,
    ) -> Response:
        self._submit(work)
        wants_usage = body.stream_options is not None and body.stream_options.include_usage
        chunk = envelope.chunks(usage=None) if wants_usage else envelope.chunks()

        async def chunks() -> AsyncIterator[bytes]:
            try:
                for opening in openings:
                    yield chunk(opening)
                async for batch in work.batches(self.seconds):
                    said = []
                    for choice, event in batch:
                        self._count(event)
                        choice.take(event)
                        said.append(chunk(delta(choice, event)))
                    if not work.left and wants_usage:
                        said.append(event_of(envelope([], chunk=True, usage=usage(work.choices, body.n))))
                    if not work.left:
                        said.append(b"data: [DONE]\n\n")
                    yield b"".join(said)
            except ApiError as error:
                yield b"data: %b\n\n" % error.body
            finally:
                self.metrics.cancelled.inc(work.cancel())

        self.metrics.requests.labels(request.scope["path"], 200).inc()
        return Stream(chunks(), send_timeout=SLOWEST_READER)

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
            words = first["msg"].removeprefix("Value error, ")
            raise ApiError(400, f"{place}: {words}" if place else words, place or None) from error

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
            if event.message != self.told:
                self.told = event.message
                remark(event.message)
            raise ApiError(500, event.for_clients)
        if isinstance(event, Finished):
            self.metrics.finished(event)

    def _json(self, request: Request, content: Any) -> Response:
        self.metrics.requests.labels(request.scope["path"], 200).inc()
        return JSONResponse(content)

    async def refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        self.metrics.requests.labels(request.scope["path"], error.status).inc()
        retry = {"retry-after": "1"} if error.status == 429 else None
        return Response(error.body, error.status, media_type="application/json", headers=retry)

    async def not_here(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        self.metrics.requests.labels("other", error.status_code).inc()
        words = {404: "no such path", 405: "another method is wanted here"}.get(error.status_code, error.detail)
        body = error_body(error.status_code, words)
        return Response(body, error.status_code, media_type="application/json", headers=error.headers)

    async def failed(self, _: Request, error: Exception) -> Response:
        """A mistake of ours; Starlette raises it again, for whoever runs the server."""
        self.metrics.requests.labels("other", 500).inc()
        body = error_body(500, f"a mistake of the server: {type(error).__name__}")
        return Response(body, 500, media_type="application/json")


class Stream(EventSourceResponse):
    """Ends where the client does not read on; that is no mistake of the server."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(SendTimeoutError):
            await super().__call__(scope, receive, send)


def _described(model: Served) -> dict[str, Any]:
    shape = model.engine.model
    about = {"context_length": shape.n_ctx, "vocabulary": shape.n_vocab}
    return {"id": model.name, "object": "model", "created": 0, "owned_by": "local", **about}


async def _left(request: Request) -> None:
    """Return when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _prompt_tokens(prompt: str | list[int], model: Served) -> list[int]:
    if isinstance(prompt, str):
        _check_length(len(prompt), model)
        return await _cut(len(prompt), model.engine.tokenizer.encode_first, prompt, model, "prompt")
    _check_tokens(prompt, model, "prompt")
    return prompt


async def _cut(characters: int, cut: Callable[[T], Sequence[int]], text: T, model: Served, field: str) -> list[int]:
    """A text as tokens. A long one is cut in another thread, so that others are answered meanwhile."""
    try:
        tokens = cut(text) if characters <= SHORT else await asyncio.to_thread(cut, text)
    except (UsageError, FormatError) as error:
        words = error.problem if isinstance(error, FormatError) else str(error)
        raise ApiError(400, words, field) from error
    n_vocab = model.engine.model.n_vocab
    if beyond := [token for token in tokens if not 0 <= token < n_vocab]:
        words = f"this model's vocabulary of {n_vocab} pieces cannot write the text: a byte of it would be token"
        raise ApiError(400, f"{words} {beyond[0]}; send token ids, or other characters", field)
    return list(tokens)


def _check_length(characters: int, model: Served) -> None:
    """What cannot fit the context is not even cut into tokens, which would take long."""
    n_ctx = model.engine.model.n_ctx
    if characters > n_ctx * model.longest_piece:
        words = f"the prompt has {characters} characters, far more tokens than the context {n_ctx}"
        raise ApiError(400, words, "prompt", "context_length_exceeded")


def _check_tokens(tokens: Sequence[int], model: Served, field: str) -> None:
    n_vocab = model.engine.model.n_vocab
    if wrong := [token for token in tokens if not 0 <= token < n_vocab]:
        raise ApiError(400, f"token {wrong[0]} is outside the vocabulary of {n_vocab}", field)


def _text_of(prompt: str | list[int], model: Served) -> str:
    return prompt if isinstance(prompt, str) else b"".join(map(model.piece, prompt)).decode("utf-8", "replace")


def _text_or_bytes(piece: bytes) -> str | list[int]:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return list(piece)
