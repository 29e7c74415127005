"""The layouts in which instruction data is published, each turned into a record of Stanford Alpaca's.

=================  ===============================================  ====================================================
layout             keys                                             becomes
=================  ===============================================  ====================================================
Alpaca             ``instruction``, ``input``, ``output``           itself
… with history     ``history`` [[question, answer], …], ``system``  earlier turns and system in front of the instruction
ShareGPT           ``conversations`` [{``from``, ``value``}, …]     the last exchange, with what was said before it
chat messages      ``messages`` [{``role``, ``content``}, …]        likewise
pCLUE              ``input``, ``target``                            ``input`` is the instruction, ``target`` the output
translation2019zh  ``english``, ``chinese``                         a request to translate into Chinese
=================  ===============================================  ====================================================

Earlier turns are written as :mod:`llama_ref.vocabulary.prompts` writes a conversation, so that training and chat see
the same text. Half of the data of Chinese-LLaMA-Alpaca is pCLUE and translation2019zh.

Sources: Stanford Alpaca ``generate_instruction.py`` (placeholders for no input); LLaMA-Factory ``data/README.md``
(history, system, ShareGPT); CLUEbenchmark/pCLUE; brightmart/nlp_chinese_corpus.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama_ref.vocabulary.prompts import INSTRUCTION_PREFIX, RESPONSE_SUFFIX

__all__ = ["FIELDS", "as_alpaca", "layout_of", "records_in"]

Record = dict[str, str]
FIELDS = ("instruction", "input", "output")
TRANSLATE = "请将下面的英文翻译成中文。"
CONVERSATIONS = {"conversations": ("from", "value"), "messages": ("role", "content")}
PEOPLE, MODELS, SYSTEMS = ("human", "user"), ("gpt", "assistant", "chatgpt", "bot", "model"), ("system",)
_PLACEHOLDER = re.compile(r"[<＜]\s*(?:no\s*_?input|无\s*输入|无)\s*[>＞]", re.IGNORECASE)


def records_in(value: Any) -> Iterator[dict[str, Any]]:
    """The object itself, or those inside a wrapper such as ``{"data": [...]}``."""
    if not isinstance(value, dict) or "instruction" in value or any(key in value for key in CONVERSATIONS):
        yield value
        return
    nested = [item for items in value.values() if isinstance(items, list) for item in items if isinstance(item, dict)]
    yield from nested or [value]


LAYOUTS = {  # as as_alpaca tells them
    "conversation": "conversations (ShareGPT's or chat messages)",
    "pCLUE": "pCLUE",
    "translation": "translation2019zh",
}


def layout_of(value: Mapping[str, Any]) -> str | None:
    """The layout of a record, in words; None if it is none.

    >>> layout_of({"input": "1 + 1?", "target": "2"})
    'pCLUE'
    """
    record, done = as_alpaca(value)
    return None if record is None else next((LAYOUTS[kind] for kind in done if kind in LAYOUTS), "Alpaca")


def as_alpaca(value: Mapping[str, Any]) -> tuple[Record | None, list[str]]:
    """The record of an object, or None if it is none; and what was done to it, as kinds of findings.

    >>> as_alpaca({"english": "Hello.", "chinese": "你好。"})
    ({'instruction': '请将下面的英文翻译成中文。', 'input': 'Hello.', 'output': '你好。'}, ['translation'])
    >>> as_alpaca({"conversations": [{"from": "human", "value": "你好"}, {"from": "gpt", "value": "你好！"}]})
    ({'instruction': '你好', 'input': '', 'output': '你好！'}, ['conversation'])
    """
    done: list[str] = []
    for key, (who, what) in CONVERSATIONS.items():
        if key in value and "instruction" not in value:
            done.append("conversation")
            return _conversation(value[key], value.get("system"), who, what, done), done
    if "instruction" in value:
        record = _texts(value, FIELDS)
    elif "target" in value and "input" in value:
        done.append("pCLUE")
        record = _texts({"instruction": value["input"], "output": value["target"]}, FIELDS)
    elif "english" in value and "chinese" in value:
        done.append("translation")
        record = _texts({"instruction": TRANSLATE, "input": value["english"], "output": value["chinese"]}, FIELDS)
    else:
        return None, []
    if record is None or not record["instruction"] or not record["output"]:
        return None, []
    if _PLACEHOLDER.fullmatch(record["input"]):
        record["input"] = ""
        done.append("placeholder")
    return _with_context(record, value, done), done


def _with_context(record: Record, value: Mapping[str, Any], done: list[str]) -> Record | None:
    """With system and history, if there are, in front of its instruction."""
    history = value.get("history") or []
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        return None
    turns = [_texts(dict(zip("qa", turn)), "qa") for turn in history]
    system = _text(value.get("system"))
    if system is None or not all(turns):
        return None
    return _folded(system, [(turn["q"], turn["a"]) for turn in turns if turn], record, done)


def _conversation(turns: Any, system: Any, who: str, what: str, done: list[str]) -> Record | None:
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return None
    said: list[tuple[str, str]] = []
    first = _text(system)
    for turn in turns:
        speaker, text = str(turn.get(who)).lower(), _text(turn.get(what))
        if text is None or first is None:
            return None
        if speaker in SYSTEMS and not said:
            first = text
        elif speaker in PEOPLE and (not said or said[-1][1]):
            said.append((text, ""))
        elif speaker in MODELS and said and not said[-1][1]:
            said[-1] = (said[-1][0], text)
        else:
            return None
    if said and not said[-1][1]:
        said.pop()  # a question without an answer
        done.append("unanswered question")
    if not said or not all(question for question, _ in said):
        return None
    record = {"instruction": said[-1][0], "input": "", "output": said[-1][1]}
    return _folded(first or "", said[:-1], record, done)


def _folded(system: str, turns: Sequence[tuple[str, str]], record: Record, done: list[str]) -> Record:
    """The record as the end of a conversation."""
    earlier = "".join(question + RESPONSE_SUFFIX + answer + INSTRUCTION_PREFIX for question, answer in turns)
    done += ["history in the instruction"] * bool(turns) + ["system in the instruction"] * bool(system)
    return {**record, "instruction": (system + "\n" if system else "") + earlier + record["instruction"]}


def _texts(value: Mapping[str, Any], names: Sequence[str]) -> Record | None:
    texts = {name: _text(value.get(name)) for name in names}
    if any(text is None for text in texts.values()):
        return None
    return {name: text or "" for name, text in texts.items()}


def _text(value: Any) -> str | None:
    """A value as text: JSON's own spelling of true and false, nothing for null; None for an array or object."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str("" if value is None else value).strip() if isinstance(value, str | int | float | None) else None
