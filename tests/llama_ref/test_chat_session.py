"""A chat: what the model reads turn after turn, where answers end, what is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.formats.gguf_values import Value
from llama_ref.text.chat_prompt import AlpacaPrompt, TemplatePrompt, template_of
from llama_ref.text.chat_session import ChatSession, read_messages
from llama_ref.text.conversation import Conversation
from llama_ref.text.model import Model
from llama_ref.text.sampling import SamplingOptions
from llama_ref.vocabulary.chat_template import ChatTemplate
from llama_ref.vocabulary.gguf_tokenizer import gguf_tokenizer

sys.path.insert(0, str(Path(__file__).parent))
from fake_model import FakeModel


@pytest.fixture(scope="module")
def model(golden) -> Iterator[Model]:
    with Model.from_file(golden("today-models/gguf/llama3-bpe.f16.gguf"), n_ctx=96, numerics="reference") as opened:
        yield opened


@pytest.fixture
def chat(model: Model) -> ChatSession:
    conversation = Conversation(model, SamplingOptions(temp=0.0))
    conversation.tokenizer.ends = frozenset()  # a model of random weights ends anywhere
    template = template_of(conversation.tokenizer)
    assert template is not None
    return ChatSession(conversation, TemplatePrompt(conversation.tokenizer, template))


def read_by(chat: ChatSession, messages: list[tuple[str, str]]) -> list[int]:
    return chat.prompt.tokens(messages)


def test_the_model_reads_what_the_template_writes_with_one_bos(chat: ChatSession) -> None:
    said = [("user", "hello")]
    rendered = chat.prompt.template.render([{"role": "user", "content": "hello"}], add_generation_prompt=True)
    tokenizer = chat.conversation.tokenizer
    for source in (chat.prompt.template.source, "{{ bos_token }}" + chat.prompt.template.source):
        chat.prompt.template = ChatTemplate(source, chat.prompt.template.bos_token, chat.prompt.template.eos_token)
        tokens = read_by(chat, said)
        assert tokens[0] == tokenizer.bos
        assert tokenizer.text_of(tokens[1:], special=True).decode() == rendered


def test_answers_are_those_of_a_conversation_that_is_read_afresh(chat: ChatSession, model: Model) -> None:
    list(chat.ask("hello", max_tokens=5))
    list(chat.ask("and then", max_tokens=5))
    again = Conversation(model, SamplingOptions(temp=0.0))
    afresh = [token.id for token in again.say(read_by(chat, chat.messages[:3]), max_tokens=5)]
    assert afresh == chat.conversation.recent[-chat.made :]
    assert [role for role, _ in chat.messages] == ["user", "assistant"] * 2


def test_what_has_been_read_is_not_read_again(chat: ChatSession) -> None:
    list(chat.ask("hello", max_tokens=3))
    read = chat.conversation.timings.prompt_tokens
    list(chat.ask("and", max_tokens=3))
    assert chat.conversation.timings.prompt_tokens - read < len(read_by(chat, chat.messages[:3]))


def test_the_oldest_turns_make_room(chat: ChatSession) -> None:
    chat.messages.append(("system", "short"))
    for i in range(5):
        list(chat.ask(f"question {i}", max_tokens=3))
    assert chat.dropped > 0
    assert chat.messages[0][0] == "system"
    with pytest.raises(UsageError, match="too long"):
        list(chat.ask("x" * 300, max_tokens=3))
    assert chat.messages[-1][0] == "assistant"


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


# ── in Alpaca's template, with a model that says what a function says ────────────────────────────────────────────────


def alpaca(says: Callable[[bytes], bytes], n_ctx: int = 1024) -> ChatSession:
    """A chat with a model that continues a text by the first byte of ``says``, or ends it where that is empty."""

    def answer(seen: list[int]) -> int:
        text = bytes(token - 3 for token in seen if token >= 3)
        return says(text)[0] + 3 if says(text) else 2

    conversation = Conversation(FakeModel(answer, n_ctx=n_ctx), SamplingOptions(temp=0, repeat_penalty=1.0), "p2")
    return ChatSession(conversation, AlpacaPrompt(conversation.tokenizer))


def reciting(words: str) -> Callable[[bytes], bytes]:
    """Says these words behind every heading."""
    return lambda text: words.encode()[len(text.rpartition(b"### Response:\n\n")[2]) :]


@pytest.mark.parametrize(
    ("words", "n", "answer", "ended_by"),
    [
        ("你好，世界", -1, "你好，世界", "end of text"),
        ("abcdef", 3, "abc", "length"),
        ("abc\n\n### Instruction:\n\nnext", -1, "abc\n\n", "stop word"),
        ("abc\n\n### Inst", -1, "abc\n\n### Inst", "end of text"),
    ],
)
def test_where_an_answer_ends(words: str, n: int, answer: str, ended_by: str) -> None:
    chat = alpaca(reciting(words))
    assert "".join(chat.ask("q", max_tokens=n)) == answer
    assert chat.ended_by == ended_by
    assert chat.messages == [("user", "q"), ("assistant", answer.rstrip() if ended_by == "stop word" else answer)]


def test_an_answer_fills_the_context_at_most() -> None:
    chat = alpaca(reciting("x" * 4000))
    answer = "".join(chat.ask("q"))
    assert chat.ended_by == "context"
    assert len(answer) + len(chat.prompt.tokens([("user", "q")])) == 1024


def test_an_answer_that_was_cut_short_counts_as_far_as_it_went() -> None:
    chat = alpaca(reciting("abcdef"))
    answer = chat.ask("q")
    assert next(answer) == "a"
    answer.close()  # type: ignore[attr-defined]
    assert (chat.messages[-1], chat.ended_by) == (("assistant", "a"), "interruption")
    assert "".join(chat.ask("go on")) == "abcdef"


def test_half_a_character_at_the_end_is_shown_as_such() -> None:
    chat = alpaca(reciting("你好"))
    assert "".join(chat.ask("q", max_tokens=4)) == "你\N{REPLACEMENT CHARACTER}"


def test_a_text_that_is_too_long_is_not_said() -> None:
    chat = alpaca(reciting("yes"), n_ctx=256)
    with pytest.raises(UsageError, match="too long"):
        list(chat.ask("x" * 300))
    assert chat.messages == []
    assert "".join(chat.ask("short")) == "yes"


def test_another_answer_takes_the_place_of_the_last() -> None:
    chat = alpaca(reciting("yes"))
    with pytest.raises(UsageError, match="nothing has been asked"):
        list(chat.again())
    list(chat.ask("q"))
    assert "".join(chat.again()) == "yes"
    assert chat.messages == [("user", "q"), ("assistant", "yes")]


def test_after_clearing_nothing_of_the_past_is_known() -> None:
    chat = alpaca(lambda text: b"ab"[text.count(b"### Response") - 1 :][:1] if text.endswith(b"\n") else b"")
    chat.set_system("Be brief.")
    assert ["".join(chat.ask("q")), "".join(chat.ask("q"))] == ["a", "b"]
    chat.clear()
    assert chat.messages == [("system", "Be brief.")]
    assert not any(chat.conversation.recent)
    assert "".join(chat.ask("q")) == "a"
    chat.set_system("")
    assert chat.messages == [("user", "q"), ("assistant", "a")]


def test_a_chat_is_saved_and_read_back(tmp_path: Path) -> None:
    chat = alpaca(reciting("好"))
    chat.set_system("简短。")
    list(chat.ask("你好\n\\"))
    chat.save(tmp_path / "chat.json")
    assert read_messages(tmp_path / "chat.json") == chat.messages
    chat.save(tmp_path / "chat.json")  # over itself
    (tmp_path / "model.bin").write_bytes(b"ggjt")
    with pytest.raises(UsageError, match="is no saved chat"):
        chat.save(tmp_path / "model.bin")
    assert (tmp_path / "model.bin").read_bytes() == b"ggjt"


@pytest.mark.parametrize(
    "document",
    [
        "{}",
        "[]",
        '{"format": "ggmlpy chat 1", "messages": 1}',
        '{"format": "ggmlpy chat 1", "messages": [1]}',
        '{"format": "ggmlpy chat 1", "messages": [{"role": "king", "content": "x"}]}',
        '{"format": "ggmlpy chat 1", "messages": [{"role": "user", "content": 1}]}',
        '{"format": "ggmlpy chat 1", "messages": [{"role": "user", "content": ""}, {"role": "system", "content": ""}]}',
    ],
)
def test_what_is_no_saved_chat_is_refused(tmp_path: Path, document: str) -> None:
    (tmp_path / "chat.json").write_text(document)
    with pytest.raises(FormatError):
        read_messages(tmp_path / "chat.json")


def test_other_sampling_goes_on_with_the_same_draws() -> None:
    conversation = alpaca(reciting("x")).conversation
    conversation.sampler.rng.draw()
    drawn = conversation.sampler.rng
    conversation.choose_by(SamplingOptions(temp=0.5, seed=conversation.sampling.seed))
    assert conversation.sampler.rng is drawn
    conversation.choose_by(SamplingOptions(seed=7))
    assert conversation.sampler.rng is not drawn
