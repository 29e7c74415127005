"""Chat templates: what transformers renders, and nothing that a stranger's template should be able to do."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.formats.gguf_values import Value
from llama_ref.vocabulary.chat_template import ChatTemplate, chat_templates

CHAT = Path(__file__).parents[1] / "data" / "today-models" / "chat"
RENDERINGS = json.loads((CHAT / "renderings.json").read_text("utf-8"))
TEMPLATES = json.loads((CHAT / "templates.json").read_text("utf-8"))
SNIPPETS = json.loads((CHAT / "snippets.json").read_text("utf-8"))
HELLO = [{"role": "user", "content": "Hello"}]


def outcome(template: ChatTemplate, messages: object, **options: bool) -> str | None:
    """What a template makes, None where it refuses or fails."""
    try:
        return template.render(messages, **options)
    except (UsageError, FormatError):
        return None


@pytest.mark.parametrize("name", TEMPLATES)
def test_renderings_are_those_of_transformers(name: str) -> None:
    ours = [each for each in RENDERINGS if each["template"] == name]
    assert ours
    for each in ours:
        template = ChatTemplate(TEMPLATES[name]["template"], each["bos_token"], each["eos_token"])
        made = outcome(template, each["messages"], add_generation_prompt=each["add_generation_prompt"])
        assert made == each["transformers"], each["messages"]


@pytest.mark.parametrize("case", SNIPPETS["cases"], ids=lambda case: case["template"][:40])
def test_every_corner_of_the_language(case: dict[str, str]) -> None:
    template = ChatTemplate(case["template"], SNIPPETS["bos_token"], SNIPPETS["eos_token"])
    assert outcome(template, SNIPPETS["messages"], add_generation_prompt=True) == case["output"]


def test_a_refusal_carries_the_template_s_words() -> None:
    with pytest.raises(UsageError, match="refuses this conversation: roles must alternate"):
        ChatTemplate("{{ raise_exception('roles must alternate') }}").render(HELLO)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% for a in range(100000) %}{{ 'a' * 10000 }}{% endfor %}",
        "{{ 'a' * 10**9 }}",
        "{{ [0] * 10**9 }}",
        "{{ 7 ** 99999999 }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ lipsum(n=1000000) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{% if",
        "{{ '" + "a" * (1 << 20) + "' }}",
    ],
)
def test_attacks_end_soon_with_one_line(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_ref.vocabulary.chat_template.SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(FormatError, match="cannot be rendered"):
        ChatTemplate(source).render(HELLO)
    assert time.monotonic() - began < 10


def test_a_gguf_has_its_templates_by_name() -> None:
    key = "tokenizer.chat_template"
    metadata = {
        key: Value("string", b"A"),
        f"{key}.tool_use": Value("string", b"B"),
        f"{key}s": Value("array", [b"tool_use"], "string"),
    }
    assert chat_templates(metadata) == {"default": "A", "tool_use": "B"}
