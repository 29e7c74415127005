"""Questions and answers with a model, in the words of a chat template.

At each turn the whole conversation is written out and tokenized; what the model has read already is not read again.
When the conversation no longer fits the context, its oldest turns are left out.

A saved chat is a JSON object, which other programs can read, too:

============  ==========================================================================================
``format``    ``ggmlpy chat 1``
``messages``  a list of objects with ``role`` (system, user or assistant) and ``content``, as OpenAI's API has them
============  ==========================================================================================
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.files.json_files import read_json
from llama_ref.vocabulary.utf8 import Utf8Stream

from .chat_prompt import ChatPrompt
from .conversation import Conversation
from .stop_words import StopWords

__all__ = ["ChatSession", "read_messages"]

FORMAT = "ggmlpy chat 1"
ROLES = ("system", "user", "assistant")
SPARE = 4  # positions of the context that a prompt leaves, as main does


@dataclass
class ChatSession:
    """A chat with a model.

    Attributes:
        conversation: fresh; it belongs to this session.
        prompt: how the messages are written out.
        messages: role and text of what has been said so far; a system message stands first.
        stops: texts that end an answer, beside those of the template and the model's own end of text.
        on_turn: called with all the tokens that the model reads before an answer.
        dropped: how many messages no longer fit.
        ended_by: why the last answer ended: "end of text", "stop word", "length" (``max_tokens``), "context" (it is
            full), or "interruption" (nobody asked for more).
        made: how many tokens the last answer has.
    """

    conversation: Conversation
    prompt: ChatPrompt
    messages: list[tuple[str, str]] = field(default_factory=list)
    stops: tuple[str, ...] = ()
    on_turn: Callable[[Sequence[int]], None] = lambda tokens: None
    dropped: int = 0
    ended_by: str = ""
    made: int = 0

    def __post_init__(self) -> None:
        self._read: list[int] = []  # what the cache holds, in order

    def ask(self, text: str, *, max_tokens: int = -1) -> Iterator[str]:
        """Say something and yield the answer in pieces of whole characters; it counts as said as far as it was taken.

        Args:
            max_tokens: -1: as many as the context holds.

        Raises:
            UsageError: the template refuses the conversation, or the text does not fit the context.
        """
        self.messages.append(("user", text))
        try:
            tokens = self._fitting(max_tokens)
        except (UsageError, FormatError):
            self.messages.pop()
            raise
        yield from self._answer(tokens, max_tokens)

    def again(self, *, max_tokens: int = -1) -> Iterator[str]:
        """Another answer to the last question, in place of the last one.

        Raises:
            UsageError: nothing has been asked.
        """
        if not self.messages or self.messages[-1][0] != "assistant":
            raise UsageError("nothing has been asked yet")
        self.messages.pop()
        yield from self._answer(self._fitting(max_tokens), max_tokens)

    def clear(self) -> None:
        """Forget what was said, all but the system message."""
        self.messages = self.messages[: self._first]
        self._read, self.dropped = [], 0
        self.conversation.clear()

    def set_system(self, text: str) -> None:
        """Put another system message in front, or none."""
        self.messages[: self._first] = [("system", text)] if text else []

    @property
    def _first(self) -> int:
        """Where the turns begin: behind the system message."""
        return int(bool(self.messages) and self.messages[0][0] == "system")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the messages to a file.

        Raises:
            UsageError: the file is there, and is something else.
        """
        if os.path.lexists(path):
            try:
                read_messages(path)
            except FormatError as error:
                raise UsageError(f"{os.fspath(path)} is there and is no saved chat; choose another name") from error
        said = [{"role": role, "content": text} for role, text in self.messages]
        document = {"format": FORMAT, "messages": said}
        with atomic_write(path) as file:
            file.write(json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace"))

    def _answer(self, tokens: list[int], max_tokens: int) -> Iterator[str]:
        room = self.conversation.model.n_ctx - len(tokens)
        limit = min(max_tokens, room) if max_tokens >= 0 else room
        self.on_turn(tokens)
        self.ended_by, self.made, said, shown = "interruption", 0, list(tokens), ""
        stream, words = Utf8Stream(), StopWords((*self.prompt.stops, *self.stops))
        try:
            for token in self.conversation.say(self._unread(tokens), max_tokens=limit):
                self.made += 1
                said.append(token.id)
                piece = words.feed(stream.feed(token.bytes).decode("utf-8", "replace"))
                shown += piece
                if piece:
                    yield piece
                if words.found:
                    break
            if words.found or self.made < limit:
                self.ended_by = "stop word" if words.found else "end of text"
            else:
                self.ended_by = "length" if limit == max_tokens else "context"
            if rest := "" if words.found else words.feed(stream.flush().decode("utf-8", "replace")) + words.rest():
                shown += rest
                yield rest
        finally:
            self.messages.append(("assistant", shown.rstrip() if words.found else shown))
            positions = self.conversation.n_past + len(self.conversation.waiting)
            is_whole = positions - len(said) in (0, 1)  # the end that was sampled
            self._read = said[: self.conversation.n_past] if is_whole else []

    def _fitting(self, max_tokens: int) -> list[int]:
        """The tokens of as much of the conversation as fits, its beginning left out first."""
        room = self.conversation.model.n_ctx - SPARE
        wanted = min(max_tokens, room // 2) if max_tokens >= 0 else room // 4  # for the answer
        kept, first = list(self.messages), self._first
        while len(tokens := self.prompt.tokens(kept)) > room - wanted and len(kept) > first + 2:
            del kept[first : first + 2]
        if len(tokens) > room:
            raise UsageError(f"the text is too long ({len(tokens)} tokens, max {room}); take a larger context: -c")
        self.dropped += len(self.messages) - len(kept)
        self.messages = kept
        return tokens

    def _unread(self, tokens: list[int]) -> list[int]:
        """What of the tokens has to be read; the cache goes back to where they part from what it holds."""
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(tokens[:-1], self._read)))
        self.conversation.rewind(same)
        return tokens[same:]


def read_messages(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """The messages of a saved chat.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is something else.
    """
    document = read_json(path)
    said = document.get("messages")
    if document.get("format") != FORMAT or not isinstance(said, list):
        raise FormatError("not a saved chat", path=path, field="format", expected=FORMAT)
    messages = [(str(e.get("role")), e.get("content", "")) for e in said if isinstance(e, dict)]
    if len(messages) != len(said) or any(role not in ROLES or not isinstance(text, str) for role, text in messages):
        raise FormatError("a message has no role or no text", path=path, expected=f"role: {', '.join(ROLES)}")
    if any(role == "system" for role, _ in messages[1:]):
        raise FormatError("a system message stands among the others", path=path, expected="at the beginning")
    return messages
