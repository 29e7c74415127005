"""What two models make of the same prompts, side by side: original against Chinese, q4_0 against f16.

>>> rows = [Row("Hi", [Answer("there", 1, 0.5), Answer("hello", 2, 0.5)])]
>>> print(as_markdown(rows, ["a.bin", "b|.bin"]))
| prompt | a.bin | b\\|.bin |
|---|---|---|
| Hi | there | hello |
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ggmlpy.files.errors import UsageError
from llama_ref.text.conversation import Conversation
from llama_ref.vocabulary.prompts import TURN_TEMPLATE, alpaca_prompt
from toolchain.terminal.foreign import escape
from toolchain.terminal.widths import padded, wrapped

__all__ = ["Answer", "Row", "answers", "as_markdown", "as_records", "as_text", "names_of", "prompts_of", "rows_of"]


@dataclass(frozen=True)
class Answer:
    """What one model made of a prompt: text, how many tokens, in how many seconds."""

    text: str
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Row:
    """One prompt and each model's answer."""

    prompt: str
    answers: list[Answer]


def prompts_of(text: bytes) -> list[str]:
    """One prompt a line; empty lines are left out.

    Raises:
        UsageError: there is none.
    """
    prompts = [line for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    if not prompts:
        raise UsageError("no prompts: write one per line")
    return prompts


def answers(
    new_conversation: Callable[[], Conversation],
    prompts: Iterable[str],
    *,
    max_tokens: int = 128,
    instruct: bool = False,
    on_answer: Callable[[], None] = lambda: None,
) -> list[Answer]:
    """Each prompt in a conversation of its own, so that the order of prompts does not matter.

    Args:
        new_conversation: makes a fresh one with the same seed.
        instruct: put each prompt into the Alpaca template.
        on_answer: called after each.
    """
    result = []
    for prompt in prompts:
        conversation = new_conversation()
        text = alpaca_prompt(prompt, template=TURN_TEMPLATE) if instruct else prompt
        began = time.perf_counter()
        tokens = list(conversation.say(text, max_tokens=max_tokens))
        answer = "".join(token.text for token in tokens)
        result.append(Answer(answer, len(tokens), time.perf_counter() - began))
        on_answer()
    return result


def rows_of(prompts: Iterable[str], columns: Iterable[Iterable[Answer]]) -> list[Row]:
    """The prompts, each with its answers; a column holds those of one model."""
    return [Row(prompt, list(given)) for prompt, given in zip(prompts, zip(*columns, strict=True), strict=True)]


def names_of(paths: Sequence[str]) -> list[str]:
    """The files' names, or their whole paths where the names are the same.

    >>> names_of(["a/x.bin", "b/y.bin"]), names_of(["a/x.bin", "b/x.bin"])
    (['x.bin', 'y.bin'], ['a/x.bin', 'b/x.bin'])
    """
    names = [os.path.basename(path) for path in paths]
    return names if len(set(names)) == len(names) else list(paths)


def as_records(rows: Sequence[Row], names: Sequence[str]) -> list[dict[str, Any]]:
    """For JSON."""
    return [{"prompt": row.prompt, "answers": dict(zip(names, map(vars, row.answers), strict=True))} for row in rows]


def as_markdown(rows: Sequence[Row], names: Sequence[str]) -> str:
    """A Markdown table; new lines become ``<br>``."""
    lines = [_markdown_row(["prompt", *names]), "|" + "---|" * (len(names) + 1)]
    lines += [_markdown_row([row.prompt, *(answer.text for answer in row.answers)]) for row in rows]
    return "\n".join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_markdown_cell(cell) for cell in cells) + " |"


def _markdown_cell(text: str) -> str:
    text = text.strip().replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return escape(text).replace("\n", "<br>")


def as_text(rows: Sequence[Row], names: Sequence[str], width: int = 100) -> str:
    """Columns of equal width for a terminal of ``width`` cells; a Chinese character takes two."""
    each = max(12, (width - 3 * len(names)) // (len(names) + 1))
    rule = "-+-".join("-" * each for _ in range(len(names) + 1))
    parts = [_columns(["prompt", *names], each)]
    for row in rows:
        parts += [rule, _columns([row.prompt, *(answer.text for answer in row.answers)], each)]
        parts.append(_columns(["", *(_speed(answer) for answer in row.answers)], each))
    return "\n".join(parts)


def _speed(answer: Answer) -> str:
    rate = f", {answer.tokens / answer.seconds:.1f}/s" if answer.seconds else ""
    return f"({answer.tokens} tokens{rate})"


def _columns(cells: Sequence[str], width: int) -> str:
    columns = [wrapped(escape(cell.strip()), width) for cell in cells]
    lines = itertools.zip_longest(*columns, fillvalue="")
    return "\n".join(" | ".join(padded(cell, width) for cell in line).rstrip() for line in lines)
