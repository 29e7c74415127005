"""Events of the engine as the objects of OpenAI's API: completions, chat completions, and their chunks."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .jobs import Event, Finished, Piece, PromptScored, Scored

__all__ = [
    "Choice",
    "CompletionDeltas",
    "Envelope",
    "chat_choice",
    "chat_delta",
    "chat_opening",
    "completion_choice",
    "event_of",
    "usage",
]

NUMBERS = random.Random()  # names for answers, no secrets; asking the system each time would give Python's lock away
ENCODE = json.JSONEncoder(ensure_ascii=False).encode
LINE_ENDS = "\x85\u2028\u2029"
NEVER = -9999.0  # how the API writes the logarithm of nothing


@dataclass
class Choice:
    """One answer, as far as it has come.

    Attributes:
        piece: the bytes of a token.
        prompt: token ids.
        echoed: the text of the prompt, where it is wanted back.
    """

    index: int
    piece: Callable[[int], bytes]
    prompt: tuple[int, ...]
    echoed: str = ""
    texts: list[str] = field(default_factory=list)
    tokens: list[Scored | None] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    finished: Finished | None = None

    def take(self, event: Event) -> None:
        if isinstance(event, Piece):
            self.texts.append(event.text)
            self.tokens.append(event.token)
            self.ids.append(event.token.id)
        elif isinstance(event, PromptScored):
            self.tokens.extend(event.tokens)
            self.ids.extend(self.prompt)
        elif isinstance(event, Finished):
            self.texts.append(event.text)
            self.finished = event

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def start(self) -> int:
        """Where its first token begins in the text: before it, if the prompt's tokens have a space of their own."""
        return len(self.echoed) - _places(map(self.piece, self.prompt), 0)[1] if self.echoed else 0


@dataclass(frozen=True)
class Envelope:
    """What all objects of one answer have in common."""

    kind: str  # text_completion, chat.completion
    model: str
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def new(cls, kind: str, model: str) -> Envelope:
        prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
        return cls(kind, model, f"{prefix}-{NUMBERS.getrandbits(96):024x}")

    def __call__(self, choices: list[dict[str, Any]], *, chunk: bool = False, **more: Any) -> dict[str, Any]:
        kind = f"{self.kind}.chunk" if chunk and self.kind.startswith("chat") else self.kind
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
            "choices": choices,
            **more,
        }

    def chunks(self, **more: Any) -> Callable[[dict[str, Any]], bytes]:
        """Makes events of choices, one each; what they have in common is written once.

        >>> Envelope("text_completion", "m", "cmpl-1", created=0).chunks()({"text": "a"})[-31:]
        b', "choices": [{"text": "a"}]}\\n\\n'
        """
        before, after = event_of(self([], chunk=True, **more)).split(b'"choices": []')

        def chunk(choice: dict[str, Any]) -> bytes:
            return b'%b"choices": [%b]%b' % (before, json_of(choice), after)

        return chunk


def json_of(content: dict[str, Any]) -> bytes:
    """JSON on one line, for all who read it: some clients cut lines at these characters too."""
    text = ENCODE(content)
    for mark in LINE_ENDS:
        if mark in text:
            text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text.encode()


def event_of(content: dict[str, Any]) -> bytes:
    """An event of a stream (server-sent events, of the HTML standard)."""
    return b"data: %b\n\n" % json_of(content)


def usage(choices: list[Choice], n: int) -> dict[str, Any]:
    """Tokens read and written; a prompt that ``n`` choices share counts once."""
    ends = [choice.finished for choice in choices if choice.finished]
    read, written = sum(end.prompt_tokens for end in ends[::n]), sum(end.completion_tokens for end in ends)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": sum(end.reused_tokens for end in ends[::n])},
    }


def _reason(choice: Choice) -> str | None:
    return choice.finished.reason if choice.finished else None


def _number(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else NEVER


def _word(piece: bytes) -> str:
    r"""A token as text; one that is a part of a character as ``bytes:\xe4\xbd``.

    >>> _word("你".encode()), _word(b"\xe4\xbd")
    ('你', 'bytes:\\xe4\\xbd')
    """
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


# ── /v1/completions ──────────────────────────────────────────────────────────────────────────────────────────────────


def completion_choice(choice: Choice, logprobs: int | None) -> dict[str, Any]:
    """A whole answer."""
    scores = None if logprobs is None else _columns(choice, choice.ids, choice.tokens, choice.start)[0]
    return {
        "index": choice.index,
        "text": choice.echoed + choice.text,
        "logprobs": scores,
        "finish_reason": _reason(choice),
    }


class CompletionDeltas:
    """What each event adds to one answer, as a chunk."""

    def __init__(self, choice: Choice, logprobs: int | None) -> None:
        self.choice, self.logprobs = choice, logprobs
        self.offset = choice.start

    def opening(self) -> dict[str, Any]:
        """The prompt, where it is echoed and not scored."""
        return self._chunk(self.choice.echoed)

    def __call__(self, event: Event) -> dict[str, Any]:
        if isinstance(event, PromptScored):
            return self._chunk(self.choice.echoed, list(self.choice.prompt), list(event.tokens))
        if isinstance(event, Piece):
            return self._chunk(event.text, [event.token.id], [event.token])
        assert isinstance(event, Finished)
        return {**self._chunk(event.text), "finish_reason": event.reason}

    def _chunk(self, text: str, ids: Sequence[int] = (), tokens: Sequence[Scored | None] = ()) -> dict[str, Any]:
        wanted = self.logprobs is not None and bool(ids)
        scores = None
        if wanted:
            scores, self.offset = _columns(self.choice, ids, tokens, self.offset)
        return {"index": self.choice.index, "text": text, "logprobs": scores, "finish_reason": None}


def _places(pieces: Iterable[bytes], offset: int) -> tuple[list[int], int]:
    """Where each piece begins in a text, in characters, and where the last ends; parts of one begin where it begins.

    >>> _places([b"a", b"\\xe4", b"\\xbd\\xa0", b"b"], 0)
    ([0, 1, 1, 2], 3)
    """
    places = []
    for piece in pieces:
        begun = sum(byte & 0xC0 != 0x80 for byte in piece)
        goes_on = bool(piece) and piece[0] & 0xC0 == 0x80
        places.append(max(offset - goes_on, 0))
        offset += begun
    return places, offset


def _columns(
    choice: Choice, ids: Sequence[int], scores: Sequence[Scored | None], offset: int
) -> tuple[dict[str, Any], int]:
    """The four lists of the older API, whose offsets count characters of the text, and where the last token ends."""
    pieces = [choice.piece(token) for token in ids]
    offsets, end = _places(pieces, offset)
    columns = {
        "tokens": [_word(piece) for piece in pieces],
        "token_logprobs": [None if score is None else _number(score.logprob) for score in scores],
        "top_logprobs": [
            None if score is None else {_word(choice.piece(token)): _number(value) for token, value in score.best}
            for score in scores
        ],
        "text_offset": offsets,
    }
    return columns, end


# ── /v1/chat/completions ─────────────────────────────────────────────────────────────────────────────────────────────


def chat_choice(choice: Choice, logprobs: bool) -> dict[str, Any]:
    """A whole answer."""
    scores = {"content": [_entry(choice, token) for token in choice.tokens if token]} if logprobs else None
    message = {"role": "assistant", "content": choice.text, "refusal": None}
    return {"index": choice.index, "message": message, "logprobs": scores, "finish_reason": _reason(choice)}


def chat_opening(choice: Choice) -> dict[str, Any]:
    """Who speaks."""
    return {
        "index": choice.index,
        "delta": {"role": "assistant", "content": ""},
        "logprobs": None,
        "finish_reason": None,
    }


def chat_delta(choice: Choice, event: Event, logprobs: bool) -> dict[str, Any]:
    """What one event adds."""
    delta: dict[str, str] = {}
    scores = None
    if isinstance(event, Piece):
        delta = {"content": event.text}
        scores = {"content": [_entry(choice, event.token)]} if logprobs else None
    elif isinstance(event, Finished) and event.text:
        delta = {"content": event.text}
    reason = event.reason if isinstance(event, Finished) else None
    return {"index": choice.index, "delta": delta, "logprobs": scores, "finish_reason": reason}


def _entry(choice: Choice, score: Scored) -> dict[str, Any]:
    return {
        **_alternative(choice, score.id, score.logprob),
        "top_logprobs": [_alternative(choice, token, value) for token, value in score.best],
    }


def _alternative(choice: Choice, token: int, logprob: float) -> dict[str, Any]:
    piece = choice.piece(token)
    return {"token": _word(piece), "logprob": _number(logprob), "bytes": list(piece)}
