"""The messages of a chat as the tokens that a model continues: in the template of a GGUF file itself, or in Alpaca's.

A BOS that a template writes itself is not doubled: as in llama.cpp it is taken off where the vocabulary adds one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ggmlpy.files.errors import UsageError
from llama_ref.vocabulary.chat_template import ChatTemplate, chat_templates
from llama_ref.vocabulary.gguf_tokenizer import GgufTokenizer
from llama_ref.vocabulary.prompts import INSTRUCTION_PREFIX, PREAMBLE, RESPONSE_SUFFIX

__all__ = ["AlpacaPrompt", "ChatPrompt", "TemplatePrompt", "prompt_of", "prompt_tokens", "template_of"]

ALPACA = "alpaca"  # built in, and not a template in Jinja


class ChatPrompt(Protocol):
    """How a model is asked.

    Attributes:
        stops: texts that end an answer, beside the model's own end of text.
    """

    stops: tuple[str, ...]

    def tokens(self, messages: Sequence[tuple[str, str]]) -> list[int]: ...


class AlpacaPrompt:
    """The template of Alpaca, for the models of 2023: a system message takes the place of its first sentence."""

    stops: tuple[str, ...] = ("### Instruction:",)

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def text(self, messages: Sequence[tuple[str, str]]) -> str:
        r"""The text that the model continues.

        Args:
            messages: role and text; the roles are system, user and assistant.

        >>> AlpacaPrompt(None).text([("system", "Be brief."), ("user", "你好")])
        'Be brief.\n\n### Instruction:\n\n你好\n\n### Response:\n\n'
        """
        system = "\n".join(text for role, text in messages if role == "system") or PREAMBLE
        turns = [
            f"{INSTRUCTION_PREFIX}{text}{RESPONSE_SUFFIX}" if role == "user" else text
            for role, text in messages
            if role != "system"
        ]
        return system + "".join(turns)

    def tokens(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        return list(self.tokenizer.encode_first(self.text(messages)))


class TemplatePrompt:
    """The template of a GGUF file itself; its answers end with its own tokens."""

    stops: tuple[str, ...] = ()

    def __init__(self, tokenizer: Any, template: ChatTemplate) -> None:
        self.tokenizer, self.template = tokenizer, template

    def tokens(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        said = [{"role": role, "content": text} for role, text in messages]
        return prompt_tokens(self.tokenizer, self.template, said)


def prompt_of(tokenizer: Any, name: str | None = None) -> ChatPrompt:
    """How a model is asked: in its own template, or in Alpaca's where it has none.

    Args:
        name: which of its templates; "alpaca" for the built-in one.

    Raises:
        UsageError: it has none of that name.
    """
    template = template_of(tokenizer, name)
    return AlpacaPrompt(tokenizer) if template is None else TemplatePrompt(tokenizer, template)


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
