"""The messages of a chat as the tokens that a model continues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from llama_ref.text.templated import prompt_tokens, template_of
from llama_ref.vocabulary.chat_template import ChatTemplate
from llama_ref.vocabulary.prompts import INSTRUCTION_PREFIX, PREAMBLE, RESPONSE_SUFFIX

__all__ = ["AlpacaPrompt", "ChatPrompt", "TemplatePrompt", "prompt_of"]


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
