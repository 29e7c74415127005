"""A conversation in the words of the model's own chat template.

At each turn the whole conversation is rendered and tokenized, special tokens and all; what the model has read already
is not read again. When the conversation no longer fits the context, its oldest turns are left out.

A BOS that the template writes itself is not doubled: as in llama.cpp it is taken off where the vocabulary adds one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from ggmlpy.files.errors import UnsupportedError, UsageError
from llama_ref.vocabulary.chat_template import ChatTemplate, chat_templates
from llama_ref.vocabulary.gguf_tokenizer import GgufTokenizer

from .conversation import Conversation, Token

__all__ = ["TemplatedChat", "prompt_tokens", "template_of"]

ALPACA = "alpaca"  # built in, and not a template in Jinja


def template_of(tokenizer: object, name: str | None = None) -> ChatTemplate | None:
    """The chat template of a model, None where it has none.

    Args:
        tokenizer: the model's.
        name: which of several; None: the usual one. "alpaca" is none of the model's.

    Raises:
        UsageError: there is no template of that name.
    """
    found = chat_templates(tokenizer.metadata) if isinstance(tokenizer, GgufTokenizer) else {}
    if name == ALPACA or (name is None and not found):
        return None
    source = found.get(name or "default", next(iter(found.values()), None) if name is None else None)
    if source is None or not isinstance(tokenizer, GgufTokenizer):
        known = ", ".join([ALPACA, *found])
        raise UsageError(f"the model has no chat template {name!r}; known are {known}")
    bos, eos = (tokenizer.texts[token].decode("utf-8", "replace") for token in (tokenizer.bos, tokenizer.eos))
    return ChatTemplate(source, bos, eos)


def prompt_tokens(tokenizer: GgufTokenizer, template: ChatTemplate, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """The tokens that the model reads for a conversation before its answer.

    Raises:
        UsageError: the template refuses the conversation.
        FormatError: it is not a template, or does not come to an end.
    """
    text = template.render(messages, add_generation_prompt=True)
    if tokenizer.adds_bos:
        text = text.removeprefix(template.bos_token)
    tokens = tokenizer.encode_first(text, special=True)
    return tokens[:-1] if tokenizer.adds_eos else tokens


@dataclass
class TemplatedChat:
    """Questions and answers through a template.

    Attributes:
        conversation: fresh; it belongs to this chat.
        template: how the conversation is written out.
        messages: what has been said so far; a system message may stand there from the beginning.
        dropped: how many messages no longer fit.
    """

    conversation: Conversation
    template: ChatTemplate
    messages: list[dict[str, str]] = field(default_factory=list)
    dropped: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.conversation.tokenizer, GgufTokenizer):
            raise UnsupportedError("only GGUF files have a chat template", next_step="chat without --chat-template")
        self._tokenizer = self.conversation.tokenizer
        self._read: list[int] = []  # what the cache holds, in order

    def ask(self, text: str, *, max_tokens: int = -1) -> Iterator[Token]:
        """Say something and yield the answer, token by token; it counts as said as far as it was taken.

        Raises:
            UsageError: the template refuses the conversation, or the text does not fit the context.
        """
        self.messages.append({"role": "user", "content": text})
        try:
            tokens = self._fitting(max_tokens)
        except UsageError:
            self.messages.pop()
            raise
        answer = bytearray()
        said = list(tokens)
        try:
            for token in self.conversation.say(self._unread(tokens), max_tokens=max_tokens):
                answer += token.bytes
                said.append(token.id)
                yield token
        finally:
            self.messages.append({"role": "assistant", "content": answer.decode("utf-8", "replace")})
            positions = self.conversation.n_past + len(self.conversation.waiting)
            is_whole = positions - len(said) in (0, 1)  # the end that was sampled; else the context was swapped
            self._read = said[: self.conversation.n_past] if is_whole else []

    def _fitting(self, max_tokens: int) -> list[int]:
        """The tokens of as much of the conversation as fits, its beginning left out first."""
        room = self.conversation.model.n_ctx - 4
        wanted = min(max(max_tokens, 0), room // 2)  # for the answer
        kept = list(self.messages)
        first = int(kept[0]["role"] == "system")
        while (
            len(tokens := prompt_tokens(self._tokenizer, self.template, kept)) > room - wanted and len(kept) > first + 2
        ):
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
