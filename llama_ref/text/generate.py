"""llama.cpp's ``main`` of 2023-03-31: prompt, generation, interaction, byte for byte on stdout.

:class:`MainLoop` follows examples/main/main.cpp of commit 352589927 in what it writes and when: the prompt is echoed
batch by batch, colours are sent only when they change, user input is not echoed, an end of text ends the program or
becomes a new line. What ``main`` says on stderr is said in our own words.

stdout belongs to a :class:`Console`, which lets whole characters through as soon as they are complete and never
changes a byte.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, Protocol

import numpy as np

from ggmlpy.files.errors import MissingFileError, OutputError, UsageError
from ggmlpy.formats.eras import era_of
from llama_ref.vocabulary.tokenizer import EOS, GreedyTokenizer, Tokenizer
from llama_ref.vocabulary.utf8 import Utf8Stream, printable

from .conversation import Conversation, Timings, Token
from .sampling import Mt19937, Sample

__all__ = [
    "INSTRUCTION_PREFIX",
    "INSTRUCTION_SUFFIX",
    "Console",
    "LineSource",
    "MainLoop",
    "MainOptions",
    "PromptTooLongError",
    "lines_of",
    "prompt_table",
    "random_prompt",
    "read_prompt",
    "real_seed",
    "timings_text",
    "trace_sampling",
]

INSTRUCTION_PREFIX = b"\n\n### Instruction:\n\n"
INSTRUCTION_SUFFIX = b"\n\n### Response:\n\n"
RANDOM_PROMPTS = ("So", "Once upon a time", "When", "The", "After", "If", "import", "He", "She", "They")
COLORS = {"default": b"\x1b[0m", "prompt": b"\x1b[33m", "user": b"\x1b[1m\x1b[32m"}


class PromptTooLongError(UsageError):
    """The prompt leaves no room in the context; ``main`` ends with exit code 1."""


def read_prompt(parts: Iterable[tuple[str, str]], stdin: BinaryIO) -> bytes:
    """The prompt that ``-p`` and ``-f`` make together: ("PROMPT", text) and ("FILE", path), "-" being stdin.

    Texts and files are joined; after a file, one new line at the end is dropped, as ``main`` does.

    Raises:
        MissingFileError: a file cannot be read.
    """
    prompt = b""
    for kind, value in parts:
        if kind == "PROMPT":
            prompt += os.fsencode(value)
        else:
            prompt = (prompt + _read(value, stdin)).removesuffix(b"\n")
    return prompt


def _read(path: str, stdin: BinaryIO) -> bytes:
    try:
        return stdin.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise MissingFileError(
            f"the prompt cannot be read: {error.strerror}",
            path=path,
            next_step="check the name, or give the text with -p",
        ) from error


def real_seed(seed: int, era: str) -> int:
    """The seed that is used: the time instead of 0 (not at 2023-03-19) and of negative numbers.

    Raises:
        UsageError: it is no 32-bit number.
    """
    if not -(2**31) <= seed < 2**31:
        raise UsageError(f"the seed must be between {-(2**31)} and {2**31 - 1}, not {seed}")
    means_time = seed < 0 if era_of(era).pin == "p0" else seed <= 0
    return int(time.time()) if means_time else seed


def random_prompt(seed: int) -> str:
    """What ``--random-prompt`` begins with, chosen by the first draw of the seed.

    >>> random_prompt(42)
    'When'
    """
    return RANDOM_PROMPTS[Mt19937(seed).draw() % len(RANDOM_PROMPTS)]


# ---------------------------------------------------------------------------------------------------- the console


class LineSource(Protocol):
    """Where a person's lines come from."""

    def __call__(self, prompt: bytes) -> bytes | None:
        """The next line without its end, None at the end of input. ``prompt`` has been written already."""
        ...


class Console:
    """stdout of a generation.

    Args:
        out: a binary stream.
        read_line: asks for a line of user input.
        use_color: send ANSI colours.
    """

    def __init__(self, out: BinaryIO, read_line: LineSource, *, use_color: bool = False) -> None:
        self._out = out
        self._read_line = read_line
        self._use_color = use_color
        self._color = "default"
        self._stream = Utf8Stream()

    def text(self, data: bytes) -> None:
        """Generated text, held back to whole characters."""
        self._out.write(self._stream.feed(data))
        self._out.flush()

    def raw(self, data: bytes) -> None:
        """Anything else: what is held goes out first."""
        self._out.write(self._stream.flush() + data)
        self._out.flush()

    def color(self, name: str) -> None:
        """Switch to "default", "prompt" or "user"; sent only if it changes."""
        if self._use_color and name != self._color:
            self.raw(COLORS[name])
        self._color = name

    def close(self) -> None:
        """Leave a terminal as it was found: at the start of a line, without colour."""
        self.color("default")
        self.raw(b"\n")

    def read_line(self, prompt: bytes) -> bytes | None:
        """Show ``prompt`` and wait for a line."""
        self.raw(b"")
        return self._read_line(prompt)


def lines_of(stream: BinaryIO, out: BinaryIO) -> LineSource:
    """Lines of a binary stream; the end of the file may end the last one."""

    def read_line(prompt: bytes) -> bytes | None:
        out.write(prompt)
        out.flush()
        line = stream.readline()
        return line.removesuffix(os.linesep.encode()).removesuffix(b"\n") if line else None

    return read_line


# ---------------------------------------------------------------------------------------------------- the loop


@dataclass(frozen=True, kw_only=True)
class MainOptions:
    """What ``main`` was asked to do, beyond sampling and the model; its defaults.

    Attributes:
        prompt: without the space that ``main`` puts in front.
        n_predict: how many tokens to make; negative: no limit.
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
        self.prompt_tokens = self._encode(b" " + options.prompt, bos=True)
        if len(self.prompt_tokens) > n_ctx - 4:
            words = f"prompt is too long ({len(self.prompt_tokens)} tokens, max {n_ctx - 4})"
            raise PromptTooLongError(f"{words}; shorten it, or take a larger context: -c {_context_for(self)}")
        keep_all = options.n_keep < 0 or options.n_keep > len(self.prompt_tokens) or options.instruct
        self.conversation.n_keep = len(self.prompt_tokens) if keep_all else options.n_keep
        self.reverse_prompts = list(options.reverse_prompts)
        if options.instruct:
            self.reverse_prompts.append(INSTRUCTION_PREFIX.lstrip(b"\n"))
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
        """``n_predict``; at 2023-03-19 a context was never swapped, and so the context was the limit."""
        if getattr(self.conversation.era, "pin", "") != "p0":
            return n_predict
        return max(0, min(n_predict, self.conversation.model.n_ctx - len(self.prompt_tokens)))

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
                "interactive: Ctrl-C takes the turn, once more quits; Return gives it back; a final \\ continues a line"
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
        if token == EOS and self.interactive and not self.options.instruct:
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

    # ------------------------------------------------------------------------------------------- the person's turn

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
        turn = self._encode(INSTRUCTION_PREFIX, bos=True) if with_prefix else []
        turn += line
        if self.options.instruct:
            turn += self._encode(INSTRUCTION_SUFFIX)
        self._queue.extend(turn)
        self._remaining -= len(line)
        self.on_turn(turn)

    def _text_has_ended(self) -> bool:
        if self.conversation.waiting[-1:] != [EOS]:
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


GREEDY_FAILURE = b"failed to tokenize string!\n"  # 2023-03-19 says so on stdout and goes on


# ---------------------------------------------------------------------------------------------------- what is told


def prompt_table(tokens: Sequence[int], tokenizer: Tokenizer) -> str:
    """The tokens of a prompt, one a line, as ``--verbose-prompt`` shows them."""
    return "\n".join(f"{token:6d} -> '{printable(tokenizer.piece(token))}'" for token in tokens)


def timings_text(load_seconds: float, timings: Timings, total_seconds: float) -> str:
    """Where the time went, for stderr."""

    def line(what: str, tokens: int, seconds: float) -> str:
        rate = f"{tokens / seconds:.2f} tokens/s" if tokens and seconds else "-"
        return f"timings: {what:<10} {seconds * 1000:10.2f} ms  {tokens:6d} tokens  {rate}"

    return "\n".join(
        [
            f"timings: {'load':<10} {load_seconds * 1000:10.2f} ms",
            line("prompt", timings.prompt_tokens, timings.prompt_seconds),
            line("generation", timings.generation_tokens, timings.generation_seconds),
            line("sampling", timings.samples, timings.sampling_seconds),
            f"timings: {'total':<10} {total_seconds * 1000:10.2f} ms",
        ]
    )


@contextmanager
def trace_sampling(path: str | None, pieces: Sequence[bytes]) -> Iterator[Callable[..., None] | None]:
    """A callback that writes one JSON line a token: candidates, their probabilities, and the draw that decided.

    Args:
        path: the file; None: nothing is traced, and None is yielded.
        pieces: the vocabulary.
    """
    if path is None:
        yield None
        return
    try:
        file = open(path, "wb", buffering=0)  # noqa: SIM115
    except OSError as error:
        words, step = f"the trace cannot be written: {error.strerror}", "name a file in a directory that exists"
        raise OutputError(words, path=path, next_step=step) from error
    with file:
        yield _tracer(file, pieces)


def _tracer(file: FileIO, pieces: Sequence[bytes]) -> Callable[[Sample, np.ndarray], None]:
    count = 0

    def trace(sample: Sample, logits: np.ndarray) -> None:
        nonlocal count
        record: dict[str, Any] = {
            "n": count,
            "token": sample.token,
            "text": _shown(pieces[sample.token]),
            "draw": sample.draw,
            "candidates": [
                {"id": int(token), "text": _shown(pieces[int(token)]), "logit": _number(logits[token]),
                 "p": _number(p)}
                for token, p in zip(sample.candidates, sample.probabilities)
            ],
        }  # fmt: skip
        line = memoryview(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        try:
            while line:
                line = line[file.write(line) :]
        except OSError as error:
            raise OutputError(f"the trace cannot be written: {error.strerror}", path=str(file.name)) from error
        count += 1

    return trace


def _shown(piece: bytes) -> str:
    return piece.decode("utf-8", "backslashreplace")


def _number(value: Any) -> float | None:
    """JSON has no NaN and no infinity."""
    return float(value) if np.isfinite(value) else None
