"""llama.cpp's ``main`` of 2023-03-31: prompt, generation, interaction, byte for byte on stdout.

:class:`MainLoop` follows examples/main/main.cpp of commit 352589927 in what it writes and when: the prompt is echoed
batch by batch, colors are sent only when they change, user input is not echoed, an end of text ends the program or
becomes a newline. Where the text goes and where a person's lines come from is up to the :class:`Console`.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any, Protocol

from ggmlpy.files.errors import UsageError
from llama_ref.vocabulary.prompts import INSTRUCTION_PREFIX, RESPONSE_SUFFIX, REVERSE_PROMPT
from llama_ref.vocabulary.tokenizer import GreedyTokenizer
from llama_ref.vocabulary.utf8 import Utf8Stream

from .conversation import Conversation, Token
from .main_words import prompt_table

__all__ = ["Console", "MainLoop", "MainOptions"]

GREEDY_FAILURE = b"failed to tokenize string!\n"  # 2023-03-19 writes this on stdout and goes on


class Console(Protocol):
    """Where ``main`` writes and reads."""

    def text(self, data: bytes) -> None:
        """Write generated text, which may end in the middle of a character."""

    def raw(self, data: bytes) -> None:
        """Write anything else."""

    def color(self, name: str) -> None:
        """Switch to the color of "default", "prompt" or "user"."""

    def read_line(self, prompt: bytes) -> bytes | None:
        """Show ``prompt``, wait for a line, and return it without its end; None at the end of input."""


@dataclass(frozen=True, kw_only=True)
class MainOptions:
    """What ``main`` was asked to do, beyond sampling and the model; its defaults.

    Attributes:
        prompt: without the space that ``main`` puts in front.
        n_predict: how many tokens to make; negative: until the context is full, or without end where a person is asked.
        n_keep: how many tokens of the prompt survive a context swap; negative: all.
        interactive: give the person a turn now and then.
        interactive_first: give the person the first turn.
        instruct: wrap each turn in the Alpaca template.
        reverse_prompts: texts that give the turn to the person when the model writes them.
        input_prefix: put in front of each turn.
    """

    prompt: bytes = b""
    n_predict: int = 128
    n_keep: int = 0
    interactive: bool = False
    interactive_first: bool = False
    instruct: bool = False
    reverse_prompts: tuple[bytes, ...] = ()
    input_prefix: bytes = b""


@dataclass
class MainLoop:
    """``main``'s loop over one conversation.

    Args:
        conversation: fresh; its ``n_keep`` is set from the options.
        options: what to do.
        console: where text goes and lines come from.
        note: talks to the person (stderr).
        on_turn: called with the tokens of each user turn as the model sees them, template included.
        collect: keep the tokens that were made in ``generated``.
    """

    conversation: Conversation
    options: MainOptions
    console: Console
    note: Callable[[str], None] = lambda text: None
    on_turn: Callable[[Sequence[int]], None] = lambda tokens: None
    collect: bool = False
    generated: list[Token] = field(default_factory=list)
    ended_by: str = "length"

    def __post_init__(self) -> None:
        options, n_ctx = self.options, self.conversation.model.n_ctx
        self.prompt_tokens = self._encode_first(options.prompt)
        if len(self.prompt_tokens) > n_ctx - 4:
            words = f"prompt is too long ({len(self.prompt_tokens)} tokens, max {n_ctx - 4})"
            raise UsageError(f"{words}; shorten it, or take a larger context: -c {_context_for(self)}")
        keep_all = options.n_keep < 0 or options.n_keep > len(self.prompt_tokens) or options.instruct
        self.conversation.n_keep = len(self.prompt_tokens) if keep_all else options.n_keep
        self.reverse_prompts = list(options.reverse_prompts)
        if options.instruct:
            self.reverse_prompts.append(REVERSE_PROMPT.encode())
        starts_with_person = options.interactive_first or options.instruct
        self.interactive = options.interactive or starts_with_person or bool(self.reverse_prompts)
        self.persons_turn = self.interactive and starts_with_person
        self._queue: deque[int] = deque(self.prompt_tokens)
        self._limit = self._limit_of(options.n_predict)
        self._remaining = self._limit
        self._echo = True
        self._interrupted = False
        self._stream = Utf8Stream()

    def _limit_of(self, n_predict: int) -> int:
        """``n_predict``; without one, what the context holds, for nobody could end a text that never does.

        At 2023-03-19 a context was never swapped, and so it was the limit of every text.
        """
        room = self.conversation.model.n_ctx - len(self.prompt_tokens)
        if getattr(self.conversation.era, "pin", "") == "p0":
            return min(n_predict, room) if n_predict >= 0 else room
        if n_predict >= 0:
            return n_predict
        return -1 if self.interactive else room

    def _encode_first(self, prompt: bytes) -> list[int]:
        tokenizer = self.conversation.tokenizer
        if isinstance(tokenizer, GreedyTokenizer):
            return self._encode(b" " + prompt, bos=True)
        return tokenizer.encode_first(prompt)

    def _encode(self, text: bytes, *, bos: bool = False) -> list[int]:
        tokenizer = self.conversation.tokenizer
        if isinstance(tokenizer, GreedyTokenizer):
            return tokenizer.encode(text, bos=bos, on_failure=lambda lost: self.console.raw(GREEDY_FAILURE))
        return tokenizer.encode(text, bos=bos)

    def settings_words(self) -> str:
        """Everything that decides the text, in words."""
        conversation, options = self.conversation, self.options
        chosen = ", ".join(f"{name} = {value}" for name, value in asdict(conversation.sampling).items())
        lines = [
            f"sampling: {chosen}",
            f"generate: n_ctx = {conversation.model.n_ctx}, n_batch = {conversation.n_batch}, "
            f"n_predict = {options.n_predict}, n_keep = {conversation.n_keep}",
        ]
        if conversation.sampling.repeat_last_n > conversation.model.n_ctx:
            lines.append("warning: only n_ctx last tokens are remembered (main reads past its memory here)")
        lines += [f"reverse prompt: {_shown(text)!r}" for text in self.reverse_prompts]
        if self.interactive:
            lines.append(
                "interactive: press Ctrl-C to interrupt and type, again to quit; Return hands the turn back; "
                "a final \\ continues the line"
            )
        return "\n".join(lines) + "\n"

    def prompt_words(self) -> str:
        """The prompt and its tokens, as ``--verbose-prompt`` shows them."""
        tokenizer, n_keep = self.conversation.tokenizer, self.conversation.n_keep
        lines = [
            f"prompt: '{_shown(b' ' + self.options.prompt)}'",
            f"number of tokens in prompt = {len(self.prompt_tokens)}",
            prompt_table(self.prompt_tokens, tokenizer),
        ]
        if n_keep > 0:
            lines.append(f"static prompt based on n_keep: '{_shown(tokenizer.decode(self.prompt_tokens[:n_keep]))}'")
        return "\n".join(lines) + "\n"

    def as_record(self) -> dict[str, Any]:
        """The finished generation for JSON: what went in, what came out, and why it stopped."""
        text = b"".join(token.bytes for token in self.generated)
        timings = self.conversation.timings
        return {
            "prompt": _shown(self.options.prompt),
            "prompt_tokens": self.prompt_tokens,
            "text": _shown(text),
            "tokens": [{**asdict(token), "bytes": token.bytes.hex()} for token in self.generated],
            "ended_by": self.ended_by,
            "sampling": asdict(self.conversation.sampling),
            "timings": asdict(timings),
        }

    def run(self) -> None:
        """Until the length is reached, the text ends, or the input does."""
        self.console.color("prompt")
        with self._interruptible():
            while self._remaining != 0 or self.interactive:
                self.conversation.evaluate()
                self._show(self._next_tokens())
                if self.interactive and not self._queue and not self._interact():
                    self.ended_by = "end of input"
                    return
                if self._text_has_ended():
                    self.ended_by = "end of text"
                    break
                if self.interactive and self._remaining <= 0 and self._limit != -1:
                    self._remaining = self._limit
                    self.persons_turn = True
        if self.options.n_predict < 0 and self.ended_by == "length":
            self.ended_by = "context"
            n_ctx = self.conversation.model.n_ctx
            self.note(
                f"\nnote: the context of {n_ctx} tokens is full, which ends a text without a length; -c N is larger"
            )
        self.console.color("default")
        self.console.raw(b"")

    def _next_tokens(self) -> list[int]:
        """A new token if it is the model's turn, else the next batch of what was given to it."""
        conversation = self.conversation
        if not self._queue and not self.persons_turn:
            token = self._sample()
            conversation.waiting.append(token)
            self._echo = True
            self._remaining -= 1
            return [token]
        batch = [self._queue.popleft() for _ in range(min(conversation.n_batch, len(self._queue)))]
        conversation.take(batch)
        return batch

    def _sample(self) -> int:
        conversation = self.conversation
        token = conversation.sample()
        if token in self.conversation.tokenizer.ends and self.interactive and not self.options.instruct:
            token = self._encode(b"\n")[0]
            if self.reverse_prompts:
                self._queue.extend(self._encode(self.reverse_prompts[0]))
        if self.collect:
            self.generated.append(conversation.describe(token, self._stream))
        return token

    def _show(self, tokens: Sequence[int]) -> None:
        if self._interrupted:
            self._interrupted = False
            self.console.color("default")
            self.console.raw(b"\n")
        if self._echo:
            self.console.text(self.conversation.tokenizer.decode(tokens))
            if not self._queue:
                self.console.color("default")

    # ── the person's turn ─────────────────────────────────────────────────────────────────────────────────────────────

    def _interact(self) -> bool:
        """Give the person a turn if it is time; False at the end of input."""
        reversed_ = self._reverse_prompt_reached()
        if reversed_:
            self.persons_turn = True
            self.console.color("user")
        if self.conversation.n_past == 0:
            return True
        if self.persons_turn:
            self.console.color("user")
            text = self._read_input()
            if text is None:
                return False
            self.console.color("default")
            if len(text) > 1:
                self._queue_turn(text, with_prefix=self.options.instruct and not reversed_)
            self._echo = False
        self.persons_turn = False
        return True

    def _reverse_prompt_reached(self) -> bool:
        longest = max(map(len, self.reverse_prompts), default=-1)
        if longest < 0:
            return False
        tail = b""
        for token in reversed(self.conversation.recent):
            if len(tail) >= longest:
                break
            tail = self.conversation.tokenizer.decode([token]) + tail
        return any(tail.endswith(prompt) for prompt in self.reverse_prompts)

    def _read_input(self) -> bytes | None:
        """The person's text with a new line after each line; a final backslash continues it on the next line."""
        if self.options.instruct:
            self.console.raw(b"\n")
        text, prompt = self.options.input_prefix, (b"> " if self.options.instruct else b"") + self.options.input_prefix
        more = True
        while more:
            line = self.console.read_line(prompt)
            if line is None:
                return None
            more, prompt = line.endswith(b"\\"), b""
            text += line.removesuffix(b"\\") + b"\n"
        return text

    def _queue_turn(self, text: bytes, *, with_prefix: bool) -> None:
        line = self._encode(text)
        turn = self._encode(INSTRUCTION_PREFIX.encode(), bos=True) if with_prefix else []
        turn += line
        if self.options.instruct:
            turn += self._encode(RESPONSE_SUFFIX.encode())
        self._queue.extend(turn)
        self._remaining -= len(line)
        if self._remaining <= 0 < self._limit:
            self.note(
                f"note: no tokens are left for an answer: the {len(line)} of this turn count, too, and -n is "
                f"{self._limit}; a larger -n, or -n -1, leaves room"
            )
        self.on_turn(turn)

    def _text_has_ended(self) -> bool:
        if not self.conversation.has_ended:
            return False
        if self.options.instruct:
            self.persons_turn = True
            return False
        self.note(" [end of text]")
        return True

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """The first Ctrl-C gives the person the turn after the current token, the next one quits."""

        def interrupt(signum: int, frame: FrameType | None) -> None:
            if self.persons_turn:
                raise KeyboardInterrupt
            self.persons_turn = self._interrupted = True

        if not self.interactive:
            yield
            return
        try:
            before = signal.signal(signal.SIGINT, interrupt)
        except ValueError:  # only the main thread may
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _context_for(loop: MainLoop) -> int:
    """A power of two that holds the prompt and 128 tokens more."""
    return 1 << (len(loop.prompt_tokens) + 128).bit_length()


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")
