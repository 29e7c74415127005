"""How a byte-level BPE splits a text into words before it merges: the name that llama.cpp has for it.

A GGUF file names the rules (``tokenizer.ggml.pre``), a tokenizer.json spells them out. llama.cpp's converter knows them
by their effect: the ids of one text, with the special tokens around it, written as Python writes a list and digested.
``known_word_rules.json`` has that text, and the names of digests.

Source: get_vocab_base_pre in conversion/base.py of llama.cpp (October 2026).
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import resources
from pathlib import Path

from ggmlpy.files.errors import VocabularyError
from llama_ref.vocabulary.json_tokenizer import JsonTokenizer

__all__ = ["word_rules"]


def word_rules(path: Path) -> str:
    """The name of the rules of a tokenizer.json.

    Raises:
        VocabularyError: nobody knows them.
        FormatError: the file cannot be read.
    """
    text, names = _known()
    digest = hashlib.sha256(str(JsonTokenizer(path).encode_first(text)).encode()).hexdigest()
    if digest in names:
        return names[digest]
    raise VocabularyError(
        "the rules by which this tokenizer splits a text into words are not recognized",
        path=path,
        field="pre_tokenizer",
        expected=f"one of {len(names)} tokenizers known to llama.cpp's converter, which stops here, too",
        found=f"one whose ids of the test text have the SHA256 {digest}",
        cause="the vocabulary was changed (tokens added, a template taken away), or the tokenizer is newer",
        next_step="name the rules of the model that it comes from: --pre-tokenizer llama-bpe, qwen2 …",
    )


@cache
def _known() -> tuple[str, dict[str, str]]:
    """The text, and digest -> name."""
    file = resources.files(__package__) / "known_word_rules.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    return record["text"], dict(record["rules"])
