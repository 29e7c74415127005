"""A model's own chat template: Jinja, rendered as Hugging Face's transformers renders it, but bounded.

A template is a program in a file from a stranger. It runs in Jinja's immutable sandbox, without access to files or
Python's insides, for at most :data:`SECONDS`, and makes no text longer than :data:`LARGEST_TEXT`.

==========================================  ===========================================================================
in a template                               meaning
==========================================  ===========================================================================
``messages``, ``add_generation_prompt``     the conversation, and whether the model's turn begins behind it
``bos_token``, ``eos_token``                their texts
``tools``, ``documents``                    none, unless they are given
``raise_exception(text)``                   the conversation is refused
``strftime_now(format)``                    the date
``tojson``                                  JSON as Python writes it, with every character as it is
``{% generation %} … {% endgeneration %}``  what a model is trained on: here just its content
``{% break %}``, ``{% continue %}``         in loops
==========================================  ===========================================================================

>>> ChatTemplate("{% for m in messages %}[{{ m.role }}] {{ m.content }}\\n{% endfor %}").render(
...     [{"role": "user", "content": "你好"}])
'[user] 你好\\n'

Source: ``render_jinja_template`` of transformers 5; https://huggingface.co/docs/transformers/chat_templating.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import FrameType
from typing import Any

from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.formats.gguf_values import Value

__all__ = ["ChatTemplate", "Message", "chat_templates"]

Message = Mapping[str, Any]

SECONDS = 5.0  # an honest template needs milliseconds
LARGEST_TEXT = 1 << 24  # characters of what a template makes, and of any text on the way
LONGEST_TEMPLATE = 1 << 20  # characters; the longest in use have 20,000
KEY = "tokenizer.chat_template"
DEFAULT = "default"


def chat_templates(metadata: Mapping[str, Value]) -> dict[str, str]:
    """The templates of a GGUF file by name; the usual one is "default"."""
    found = {}
    for key, value in metadata.items():
        if value.type == "string" and (key == KEY or key.startswith(KEY + ".")):
            found[key.removeprefix(KEY).removeprefix(".") or DEFAULT] = value.text()
    return found


@dataclass(frozen=True)
class ChatTemplate:
    """A template, and the texts of the special tokens that it may ask for."""

    source: str
    bos_token: str = ""
    eos_token: str = ""

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        **more: Any,
    ) -> str:
        """The conversation as the model reads it.

        Args:
            messages: ``{"role": "system" | "user" | "assistant", "content": text}``, in order.
            add_generation_prompt: end with what begins the model's turn.
            more: further names that the template may know (``enable_thinking``).

        Raises:
            UsageError: the template refuses the conversation.
            FormatError: it is not a template, or does not come to an end.
        """
        from jinja2 import TemplateError

        names = {
            "messages": list(messages),
            "tools": tools,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            **more,
        }
        compiled = self._compiled
        try:
            with _bounded():
                return "".join(_measured(compiled.generate(**names)))
        except _RefusedError as error:
            raise UsageError(f"the model's chat template refuses this conversation: {error}") from error
        except _TooMuchError as error:
            raise self._bad(str(error), "a template that is made to waste time or memory") from error
        except (TemplateError, MemoryError, RecursionError, OverflowError, TypeError, ValueError) as error:
            raise self._bad(f"{type(error).__name__}: {error}"[:120], "it expects other messages") from error
        except (AttributeError, LookupError, ArithmeticError) as error:
            raise self._bad(f"{type(error).__name__}: {error}"[:120], "it expects other messages") from error

    @cached_property
    def _compiled(self) -> Any:
        from jinja2 import TemplateError

        if len(self.source) > LONGEST_TEMPLATE:
            raise self._bad(f"{len(self.source):,} characters", "not a template")
        try:
            return _environment().from_string(self.source)
        except (TemplateError, RecursionError, MemoryError, ValueError, SyntaxError) as error:
            raise self._bad(f"{type(error).__name__}: {error}"[:120], "a damaged file") from error

    def _bad(self, found: str, cause: str) -> FormatError:
        return FormatError(
            "the chat template cannot be rendered",
            field=KEY,
            found=found,
            cause=cause,
            next_step="choose another: --chat-template alpaca",
        )


class _RefusedError(Exception):
    """The template called ``raise_exception``."""


class _TooMuchError(Exception):
    """Time or memory is used up."""


def _measured(parts: Iterator[str]) -> Iterator[str]:
    size = 0
    for part in parts:
        size += len(part)
        if size > LARGEST_TEXT:
            raise _TooMuchError(f"more than {LARGEST_TEXT:,} characters")
        yield part


@contextmanager
def _bounded() -> Iterator[None]:
    """Look at the clock, and at the texts that a template holds, at each of its lines."""
    until = time.monotonic() + SECONDS
    earlier = sys.gettrace()

    def look(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > until:
            raise _TooMuchError(f"not done after {SECONDS:g} seconds")
        if frame.f_code.co_filename == "<template>":
            _check_lengths(frame.f_locals.values())
        return look

    sys.settrace(look)
    try:
        yield
    finally:
        sys.settrace(earlier)


def _check_lengths(values: Iterable[Any]) -> None:
    """The variables of a template, those in a ``namespace`` included."""
    for value in values:
        if isinstance(value, str | list) and len(value) > LARGEST_TEXT:
            raise _TooMuchError(f"a text of {len(value):,} characters")
        if type(value).__name__ == "Namespace":
            _check_lengths(object.__getattribute__(value, "_Namespace__attrs").values())


@lru_cache
def _environment() -> Any:
    """Jinja as transformers sets it up."""
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}``: its content, as it is."""

        tags = {"generation"}  # noqa: RUF012 — Jinja's own way to declare it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Sandbox(ImmutableSandboxedEnvironment):
        """No number or text grows out of bounds in a single operation."""

        intercepted_binops = frozenset(["*", "**", "+", "%"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _check_operands(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
            _check_numbers([*args, *kwargs.values()])
            if getattr(function, "__name__", "") in ("format", "format_map"):
                _check_widths(getattr(getattr(function, "__wrapped__", function), "__self__", ""))
            return super().call(context, function, *args, **kwargs)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = _tojson
    for name in ("center", "indent", "truncate", "wordwrap", "batch", "slice"):
        environment.filters[name] = _checked(environment.filters[name])
    environment.filters["format"] = lambda text, *args, **kwargs: _check_widths(text) % (kwargs or args)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    _check_numbers([indent])
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: Any) -> None:
    raise _RefusedError(str(message))


def _strftime_now(form: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(form)


def _checked(function: Any) -> Any:
    """A filter that makes longer texts by a number: the number is looked at first."""
    from functools import wraps

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        _check_numbers([*args, *kwargs.values()])
        return function(*args, **kwargs)

    return run


_WIDE = re.compile(r"[%:][^a-zA-Z}]*\d{7}")
LARGEST_NUMBER = 1 << 20  # of columns, of repetitions


def _check_numbers(values: Sequence[Any]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            raise _TooMuchError(f"a number of {min(value.bit_length(), 1 << 20)} bits")


def _check_widths(form: Any) -> Any:
    """A format, unless it asks for a field of millions of columns."""
    if isinstance(form, str) and _WIDE.search(form):
        raise _TooMuchError("a field of millions of columns")
    return form


def _check_operands(operator: str, left: Any, right: Any) -> None:
    lengths = [len(each) for each in (left, right) if isinstance(each, str | list | tuple)]
    numbers = [abs(each) for each in (left, right) if isinstance(each, int)]
    if operator == "*" and lengths and numbers:
        product = max(lengths) * max(numbers)
    elif operator == "**" and len(numbers) == 2:
        product = numbers[0].bit_length() * numbers[1]
    elif operator == "*" and len(numbers) == 2:
        product = sum(number.bit_length() for number in numbers)
    else:
        product = sum(lengths)
    if operator == "%":
        _check_widths(left)
    if product > LARGEST_TEXT:
        raise _TooMuchError(f"a value of {product:,} characters")
