"""What a person can ask of a chat beside answers: commands that begin with a slash."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from ggmlpy.files.errors import UsageError
from llama_ref.text.chat_session import ChatSession, read_messages

from .talk import remark

__all__ = ["Leave", "Settings", "obey"]

LEAVING = ("exit", "quit", "/exit", "/quit", "/q", "/bye")  # what people type to leave other programs


class Leave(Exception):
    """The person wants to go."""


@dataclass
class Settings:
    """A session, and what can be set in it."""

    session: ChatSession
    max_tokens: int

    def values(self) -> dict[str, int | float]:
        """The names that /set takes, with their values."""
        return {"n": self.max_tokens, **asdict(self.session.conversation.sampling)}


Answer = Iterator[str] | None  # of the model, where a command asks for one


class Command(NamedTuple):
    """A command.

    Attributes:
        usage: its name and arguments.
        what: what it does.
        run: does it, with what stands behind the name.
    """

    usage: str
    what: str
    run: Callable[[Settings, str], Answer]


def obey(message: str, settings: Settings, prefix: str = "") -> Answer:
    """Do what a command says, or ask the model; the answer that is to be shown, if any.

    Args:
        prefix: put in front of what is asked.

    Raises:
        Leave: the person wants to go.
        UsageError: the command is unknown, or cannot be done.
        FormatError: a file is not what it should be.
    """
    text = message.strip()
    if not text:
        return None
    if text.lower() in LEAVING:
        raise Leave
    if not message.startswith("/") or "\n" in text:
        return settings.session.ask(prefix + message.strip("\n"), max_tokens=settings.max_tokens)
    name, _, rest = text.partition(" ")
    command = COMMANDS.get("/help" if name == "/?" else name)
    if command is None:
        raise UsageError(f"no command {name}: see /help (a blank in front makes it a message)")
    return command.run(settings, rest.strip())


def _help(settings: Settings, rest: str) -> None:
    width = max(len(command.usage) for command in COMMANDS.values())
    for command in COMMANDS.values():
        remark(f"  {command.usage:<{width}}  {command.what}")
    for usage, what in KEYS:
        remark(f"  {usage:<{width}}  {what}")


def _leave(settings: Settings, rest: str) -> None:
    raise Leave


def _clear(settings: Settings, rest: str) -> None:
    settings.session.clear()
    remark("[a new conversation]")


def _again(settings: Settings, rest: str) -> Answer:
    return settings.session.again(max_tokens=settings.max_tokens)


def _save(settings: Settings, rest: str) -> None:
    settings.session.save(_file(rest, "/save"))
    remark(f"[saved; /load {rest} goes on with it]")


def _load(settings: Settings, rest: str) -> None:
    messages = read_messages(_file(rest, "/load"))
    settings.session.clear()
    settings.session.messages = messages
    remark(f"[{len(messages)} messages]")


def _file(rest: str, command: str) -> str:
    """The one name behind a command, which may stand in quotes."""
    try:
        names = shlex.split(rest)
    except ValueError:
        names = [rest]
    if len(names) != 1:
        raise UsageError(f"{command} takes the name of one file")
    return names[0]


def _system(settings: Settings, rest: str) -> None:
    settings.session.set_system(rest)
    remark("[from now on the conversation begins with it]" if rest else "[no system message of yours]")


def _set(settings: Settings, rest: str) -> None:
    values = settings.values()
    if not rest:
        for each, value in values.items():
            remark(f"  {each:<{max(map(len, values))}}  {value}")
        return
    name, _, word = rest.replace("=", " ").partition(" ")
    name = name.lstrip("-").replace("-", "_")
    if name not in values:
        raise UsageError(f"/set knows {', '.join(values)}, not {name}")
    kind = type(values[name])
    try:
        value = kind(word)
    except ValueError:
        raise UsageError(f"{name} is {'a whole number' if kind is int else 'a number'}, not {word!r}") from None
    if name == "n":
        settings.max_tokens = max(-1, int(value))
    else:
        conversation = settings.session.conversation
        chosen: dict[str, Any] = {name: value}
        conversation.choose_by(replace(conversation.sampling, **chosen))


COMMANDS: dict[str, Command] = {
    command.usage.partition(" ")[0]: command
    for command in (
        Command("/help", "this list", _help),
        Command("/bye", "leave (also Ctrl-D)", _leave),
        Command("/clear", "forget what was said", _clear),
        Command("/regen", "another answer to the last question", _again),
        Command("/save FILE", "write the conversation to a file", _save),
        Command("/load FILE", "go on with a saved conversation", _load),
        Command("/system TEXT", "what the conversation begins with", _system),
        Command("/set NAME VALUE", "temp, top_k, seed, n …; alone: all values", _set),
    )
}
KEYS = (
    ('"""', "begins and ends several lines; a final \\ goes on"),
    ("Ctrl-C", "ends an answer, or empties the line"),
)
