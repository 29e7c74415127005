"""The tokenizer's files of a model on its way into another layout, by where the tokenizer comes from.

=================================  =====================================================================================
source                             what is written
=================================  =====================================================================================
``tokenizer.model`` beside it      a copy, ``tokenizer.json`` where the format can express it, and side files
LLaMA 3's ``tokenizer.model``      ``tokenizer.json`` with merges and special tokens (:mod:`.byte_ranks`), and back
``tokenizer.json`` alone           copies of it and of its side files
a GGUF file of today               what its keys say (:mod:`.gguf_to_huggingface`)
a GGML file                        a ``tokenizer.model`` made of its vocabulary (:mod:`.tokenizer_of`)
=================================  =====================================================================================
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from ggmlpy.files.errors import MissingFileError
from llama_ref.checkpoint import Checkpoint
from llama_ref.vocabulary import byte_ranks
from llama_ref.vocabulary.byte_ranks import is_byte_ranks
from llama_ref.vocabulary.sentencepiece_model import tokenizer_side_files
from llama_ref.vocabulary.tokenizer_file import GgmlVocabulary, find_tokenizer

from .export_plan import ExportPlan, json_text
from .gguf_to_huggingface import is_of_today, model_files
from .tokenizer_json import tokenizer_json
from .tokenizer_of import fitting_vocabulary, made_tokenizer

__all__ = ["JSON_TOKENIZER_FILES", "byte_ranks_of", "ranks_beside", "tokenizer_source"]

JSON_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"),
    *("vocab.json", "chat_template.jinja", "chat_template.json"),
)
TOKENIZER_FILES = ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def tokenizer_source(
    checkpoint: Checkpoint, tokenizer: str | os.PathLike[str] | None, notes: list[str]
) -> Callable[[ExportPlan], None]:
    """What adds the tokenizer's files to a plan, by where the tokenizer comes from."""
    if is_of_today(checkpoint.metadata) and not tokenizer:
        return _add_from_keys
    if checkpoint.layout == "huggingface" and not tokenizer and _has_only_json(checkpoint.path):
        return _copy_json_tokenizer
    if ranks := _ranks_file(checkpoint, tokenizer):
        return lambda plan: _add_byte_ranks(plan, ranks)
    vocab = fitting_vocabulary(checkpoint, tokenizer, notes)
    return _make_tokenizer if vocab is None else lambda plan: _add_tokenizer(plan, vocab)


def _has_only_json(directory: Path) -> bool:
    return (directory / "tokenizer.json").is_file() and not (directory / "tokenizer.model").is_file()


def _add_from_keys(plan: ExportPlan) -> None:
    """What the keys of a GGUF file say."""
    metadata = plan.checkpoint.metadata
    more, plan.made = model_files(metadata, json.loads(plan.texts["config.json"]))
    plan.texts |= more
    scores = metadata.get("tokenizer.ggml.scores")
    if plan.made and (scores is None or len({*map(float, scores.value)} - {-10000.0}) < 2):
        plan.notes.append(
            "all tokens have one score: the file was made from a tokenizer.json, whose merges are not in it. The "
            "tokenizer.model written cuts texts otherwise; put the original tokenizer.json beside it"
        )


def _copy_json_tokenizer(plan: ExportPlan) -> None:
    """A tokenizer that has no tokenizer.model stays as it is."""
    plan.copies = [path for name in JSON_TOKENIZER_FILES if (path := plan.checkpoint.path / name).is_file()]


def _add_byte_ranks(plan: ExportPlan, path: Path) -> None:
    """LLaMA 3's tokenizer as tokenizer.json, and what Meta's program knows beside params.json."""
    later = plan.checkpoint.params.rope_scaling is not None
    rows = plan.checkpoint.n_vocab
    plan.texts |= byte_ranks.huggingface_files(path, rows, later)
    begin = len(byte_ranks.read_byte_ranks(path))
    context = {"max_position_embeddings": 131072 if later else 8192}
    for name in ("config.json", "generation_config.json"):
        record = {**json.loads(plan.texts[name]), "bos_token_id": begin, "eos_token_id": begin + 1}
        del record["pad_token_id"]
        plan.texts[name] = json_text(record | (context if name == "config.json" else {}))
    plan.notes.append(
        f"params.json does not say how long contexts were: {context['max_position_embeddings']} is written, as in "
        f"{'LLaMA 3.1 and later' if later else 'LLaMA 3'}. The special tokens are those of Meta's program"
    )
    if later:
        plan.notes.append(
            "params.json does not say by how much positions are scaled: factor 8 is written, as in LLaMA 3.1. LLaMA "
            "3.2 has 32: set it in config.json"
        )


def _make_tokenizer(plan: ExportPlan) -> None:
    """A tokenizer.model from the vocabulary of a GGML file."""
    plan.texts |= {name: text.decode() for name, text in tokenizer_side_files().items()}
    plan.made = made_tokenizer(plan.checkpoint, plan.notes)


def _add_tokenizer(plan: ExportPlan, vocab: GgmlVocabulary) -> None:
    """tokenizer.model and what lies beside it; the JSON files are written where they are missing."""
    beside = [vocab.path.parent / name for name in TOKENIZER_FILES[1:]]
    plan.copies = [vocab.path, *(path for path in beside if path.is_file())]
    fast = tokenizer_json(vocab.path)
    if fast is None:
        plan.notes.append("no tokenizer.json: its format cannot express appended pieces; load the slow LlamaTokenizer")
    else:
        plan.texts["tokenizer.json"] = fast
    copied = {path.name for path in plan.copies}
    plan.texts |= {name: text.decode() for name, text in tokenizer_side_files().items() if name not in copied}


def byte_ranks_of(checkpoint: Checkpoint, tokenizer: str | os.PathLike[str] | None) -> bytes | None:
    """LLaMA 3's tokenizer.model: that of a Meta checkpoint, or made of a tokenizer.json; None for other tokenizers."""
    if checkpoint.layout == "huggingface" and not tokenizer and _has_only_json(checkpoint.path):
        return byte_ranks.ranks_of_json(checkpoint.path / "tokenizer.json")
    ranks = _ranks_file(checkpoint, tokenizer)
    return ranks.read_bytes() if ranks else None


def _ranks_file(checkpoint: Checkpoint, tokenizer: str | os.PathLike[str] | None) -> Path | None:
    """The tokenizer.model of a Meta checkpoint, if it is LLaMA 3's."""
    return ranks_beside(checkpoint.path, tokenizer) if checkpoint.layout == "meta" else None


def ranks_beside(directory: Path, tokenizer: str | os.PathLike[str] | None) -> Path | None:
    """The tokenizer.model of a directory, or the one that is named, if it is LLaMA 3's."""
    try:
        path = find_tokenizer(directory, tokenizer)
    except MissingFileError:
        return None
    return path if is_byte_ranks(path) else None
