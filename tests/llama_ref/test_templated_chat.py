"""A conversation in a model's own template: what the model reads, turn after turn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from ggmlpy.files.errors import UsageError
from ggmlpy.formats.gguf_values import Value
from llama_ref.text.conversation import Conversation
from llama_ref.text.model import Model
from llama_ref.text.sampling import SamplingOptions
from llama_ref.text.templated import TemplatedChat, prompt_tokens, template_of
from llama_ref.vocabulary.chat_template import ChatTemplate
from llama_ref.vocabulary.gguf_tokenizer import gguf_tokenizer


@pytest.fixture(scope="module")
def model(golden) -> Iterator[Model]:
    with Model.from_file(golden("today-models/gguf/llama3-bpe.f16.gguf"), n_ctx=96, numerics="reference") as opened:
        yield opened


@pytest.fixture
def chat(model: Model) -> TemplatedChat:
    conversation = Conversation(model, SamplingOptions(temp=0.0))
    conversation.tokenizer.ends = frozenset()  # a model of random weights ends anywhere
    template = template_of(conversation.tokenizer)
    assert template is not None
    return TemplatedChat(conversation, template)


def read_by(chat: TemplatedChat, messages: list[dict[str, str]]) -> list[int]:
    return prompt_tokens(chat.conversation.tokenizer, chat.template, messages)


def test_the_model_reads_what_the_template_writes_with_one_bos(chat: TemplatedChat) -> None:
    said = [{"role": "user", "content": "hello"}]
    rendered = chat.template.render(said, add_generation_prompt=True)
    tokenizer = chat.conversation.tokenizer
    for source in (chat.template.source, "{{ bos_token }}" + chat.template.source):
        chat.template = ChatTemplate(source, chat.template.bos_token, chat.template.eos_token)
        tokens = read_by(chat, said)
        assert tokens[0] == tokenizer.bos
        assert tokenizer.text_of(tokens[1:], special=True).decode() == rendered


def test_answers_are_those_of_a_conversation_that_is_read_afresh(chat: TemplatedChat, model: Model) -> None:
    first = [token.id for token in chat.ask("hello", max_tokens=5)]
    assert first
    second = [token.id for token in chat.ask("and then", max_tokens=5)]
    again = Conversation(model, SamplingOptions(temp=0.0))
    assert [token.id for token in again.say(read_by(chat, chat.messages[:3]), max_tokens=5)] == second
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2


def test_what_has_been_read_is_not_read_again(chat: TemplatedChat) -> None:
    list(chat.ask("hello", max_tokens=3))
    read = chat.conversation.timings.prompt_tokens
    list(chat.ask("and", max_tokens=3))
    assert chat.conversation.timings.prompt_tokens - read < len(read_by(chat, chat.messages[:3]))


def test_the_oldest_turns_make_room(chat: TemplatedChat) -> None:
    chat.messages.append({"role": "system", "content": "short"})
    for i in range(5):
        list(chat.ask(f"question {i}", max_tokens=3))
    assert chat.dropped > 0
    assert chat.messages[0]["role"] == "system"
    with pytest.raises(UsageError, match="too long"):
        list(chat.ask("x" * 300, max_tokens=3))
    assert chat.messages[-1]["role"] == "assistant"


def test_an_answer_that_was_cut_short_counts_as_far_as_it_went(chat: TemplatedChat) -> None:
    answer = chat.ask("hello", max_tokens=9)
    next(answer)
    answer.close()
    assert chat.messages[-1]["role"] == "assistant"
    assert list(chat.ask("go on", max_tokens=2))


def test_which_template(golden) -> None:
    metadata = {
        "tokenizer.ggml.tokens": Value("array", [b"<unk>", b"<s>", b"</s>"], "string"),
        "tokenizer.ggml.token_type": Value("array", np.array([2, 3, 3], np.int32), "i32"),
        "tokenizer.chat_template.tool": Value("string", b"T"),
    }
    tokenizer = gguf_tokenizer(metadata)
    named = template_of(tokenizer, "tool")
    assert named is not None
    assert (named.source, named.bos_token, named.eos_token) == ("T", "<s>", "</s>")
    assert template_of(tokenizer, "alpaca") is None
    assert template_of(None) is None
    with pytest.raises(UsageError, match="known are alpaca, tool"):
        template_of(tokenizer, "other")
