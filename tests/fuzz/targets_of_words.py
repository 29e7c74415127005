"""Readers of what stands beside a model's numbers: tokenizer.json, chat templates, and the requests of a server."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ggmlpy.files.errors import FormatError, UsageError
from llama_ref.vocabulary.chat_template import ChatTemplate
from llama_ref.vocabulary.json_tokenizer import JsonTokenizer
from tests.fuzz.damage_bytes import Spans, damaged
from tests.fuzz.damage_json import damaged_json
from tests.fuzz.rules import Broken
from tests.llama_ref.test_json_tokenizer import record

__all__ = [
    "TEMPLATES",
    "TOKENIZERS",
    "read_requests",
    "read_template",
    "read_words",
    "request_damage",
    "template_damage",
    "word_damage",
]

Fill = Callable[[Path], list[str]]
SAID = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": ""},
    {"role": "user", "content": "a\n<|im_end|>"},
]
TEXTS = ("the hello 12345\n\n wörld 中文 </s>", "", "é" * 50, "<s><s>")


def written(name: str, text: str) -> Fill:
    def fill(at: Path) -> list[str]:
        (at / name).write_text(text, "utf-8")
        return [name]

    return fill


# ── tokenizer.json ───────────────────────────────────────────────────────────────────────────────────────────────────

PREFIXED = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
LIKE_LLAMA = record(
    normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, SPACES]},
    pre_tokenizer=PREFIXED, decoder={"type": "Metaspace"},
)  # fmt: skip
TOKENIZERS = {
    "bytes": written("tokenizer.json", json.dumps(record(), ensure_ascii=False)),
    "metaspace": written("tokenizer.json", json.dumps(LIKE_LLAMA, ensure_ascii=False)),
}
WORDS = (
    "ByteLevel",
    "Split",
    "Isolated",
    "MergedWithNext",
    "Regex",
    "String",
    "BPE",
    "NFKC",
    "Sequence",
    "Digits",
    "Ġ",
)
WORDS += ("ignore_merges", "byte_fallback", "<0x0A>", "(?i)", "\\p{L}+", "Punctuation", "add_prefix_space", "invert")


def read_words(folder: Path, name: str) -> None:
    """The tokenizer, and some texts through it and back."""
    tokenizer = JsonTokenizer(folder / name)
    for text in TEXTS:
        ids = tokenizer.encode(text, bos=True)
        if not isinstance(tokenizer.decode(ids), bytes):
            raise Broken("decoded to no bytes")


def word_damage(rng: random.Random, name: str, data: bytes, donors: Sequence[bytes], spans: Spans) -> bytes:
    return damaged_json(rng, data, WORDS) if rng.random() < 0.8 else damaged(rng, data, donors)


# ── chat templates ───────────────────────────────────────────────────────────────────────────────────────────────────

TEMPLATES = {
    name: written("t.jinja", text)
    for name, text in {
        "chatml": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m.content | trim + '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "state": "{%- set ns = namespace(n=0) -%}{%- for m in messages[::-1] -%}"
        "{%- if loop.first and m.role != 'user' -%}"
        "{{ raise_exception('no') }}{%- endif -%}{%- set ns.n = ns.n + 1 -%}{{ m | tojson }}{{ loop.index0 }}"
        "{%- endfor -%}{% macro f(x, y=2) %}{{ x * y }}{% endmacro %}{{ f('-', ns.n) }}{{ bos_token }}",
    }.items()
}
JINJA = (
    b"{{",
    b"}}",
    b"{%",
    b"%}",
    b"{#",
    b"#}",
    b"range(10**9)",
    b" * 10**9",
    b"| join",
    b"loop.",
    b".__class__",
    b"|",
)
JINJA += (
    b"{% for x in range(99999) %}",
    b"{% endfor %}",
    b"[::-1]",
    b"'%*d' % (9, 1)",
    b"|tojson(indent=9)",
    b"+",
    b"~",
)
JINJA += (b"'a' * 99999", b"namespace(", b"{% set x = x ~ x %}", b"|batch(2)", b"|format(1)", b"strftime_now('%Y')")


def read_template(folder: Path, name: str) -> None:
    """Rendered, as a model's own would be; errors about a template name no file, for it may come from any."""
    source = (folder / name).read_bytes().decode("utf-8", "replace")
    for ends in (False, True):
        try:
            warnings.simplefilter("ignore", DeprecationWarning)  # of Python, about escapes in the template's texts
            ChatTemplate(source, "<s>", "</s>").render(SAID, add_generation_prompt=ends)
        except FormatError as error:
            error.path = str(folder / name)
            raise


def template_damage(rng: random.Random, name: str, data: bytes, donors: Sequence[bytes], spans: Spans) -> bytes:
    return damaged(rng, data, donors, fragments=JINJA)


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────

CHAT: dict[str, Any] = {
    "model": "x", "messages": SAID, "stream": True, "n": 2, "stop": ["a"], "seed": 1, "temperature": 0.5, "top_p": 0.9,
    "logit_bias": {"5": -100, "7": 1.5}, "max_tokens": 5, "frequency_penalty": 0.5, "logprobs": True, "top_logprobs": 2,
}  # fmt: skip
COMPLETION: dict[str, Any] = {"prompt": ["a", "b"], "max_tokens": 3, "echo": True, "logprobs": 1, "suffix": None}
REQUESTS = {
    "chat": written("chat.json", json.dumps(CHAT)),
    "completion": written("completion.json", json.dumps(COMPLETION)),
    "tokenize": written("tokenize.json", json.dumps({"content": "a", "add_special": True})),
}
FIELDS = (*CHAT, *COMPLETION, "role", "content", "type", "text", "stream_options", "include_usage", "best_of", "tools")


def read_requests(folder: Path, name: str) -> None:
    """Bodies as the server reads them, and what they ask for; what pydantic refuses is a usage error there."""
    from pydantic import ValidationError

    from llama_ref.text.sampling import SamplingOptions
    from toolchain.serve.bodies import ChatRequest, CompletionRequest, TokenizeRequest, checked_biases

    kind = {"chat.json": ChatRequest, "completion.json": CompletionRequest, "tokenize.json": TokenizeRequest}[name]
    try:
        body = kind.model_validate_json((folder / name).read_bytes())
    except ValidationError as error:
        raise UsageError(str(error.error_count())) from error
    if isinstance(body, ChatRequest):
        str([(message.content, message.speaker, body.wanted_tokens) for message in body.messages])
    if isinstance(body, (ChatRequest, CompletionRequest)):
        body.sampling(SamplingOptions(), 61, 1)
        checked_biases(body.biases, 61)


def request_damage(rng: random.Random, name: str, data: bytes, donors: Sequence[bytes], spans: Spans) -> bytes:
    return damaged_json(rng, data, FIELDS) if rng.random() < 0.9 else damaged(rng, data, donors)
