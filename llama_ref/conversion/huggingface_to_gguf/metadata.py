"""The keys of a GGUF file made from a Hugging Face directory, in the order in which llama.cpp's converter sets them.

:data:`_MODEL` has a row per number of the model. Rows of a condition are left out where it does not hold; ``{}`` in a
key stands for the architecture. What the directory says beyond these numbers comes from other tables: the name and its
kin (:mod:`.model_card`), sampling (:data:`SAMPLING`), tokens (:mod:`.vocabulary`, :mod:`.special_tokens`,
:mod:`.chat_templates`).

Source: conversion/base.py and llama.py of llama.cpp (October 2026).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ggmlpy.files.errors import FormatError
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.model_params import FROM_TOKENIZER, ModelParams
from llama_ref.checkpoint.folder import Folder

from .chat_templates import chat_metadata
from .directory import json_object, one_or_several
from .model_card import general_metadata
from .raw_config import unsaid_keys
from .special_tokens import special_metadata
from .vocabulary import FoundVocabulary

__all__ = ["ARCHITECTURES", "SAMPLING", "all_metadata", "n_tokens_of"]

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}  # model_type -> GGUF's
DEFAULT_VOCABULARY = {"llama": 32000, "mistral": 32000, "qwen2": 151936, "qwen3": 151936}  # what transformers takes
LARGEST_F32 = float(np.finfo(np.float32).max)
_RANGES = {"u32": (0, (1 << 32) - 1), "f32": (-LARGEST_F32, LARGEST_F32)}
CODE_LLAMA, CODE_LLAMA_EOT = 32016, 32010
STAR_CODER = 49152  # a size of vocabulary for which the converter says that no text begins with a token

# fmt: off
SAMPLING: tuple[tuple[str, str, tuple[str, ...]], ...] = (  # key, type, names in generation_config.json
    ("sequence",        "string", ("sequence",)),
    ("top_k",           "i32",    ("top_k",)),
    ("top_p",           "f32",    ("top_p",)),
    ("min_p",           "f32",    ("min_p",)),
    ("xtc_probability", "f32",    ("xtc_probability",)),
    ("xtc_threshold",   "f32",    ("xtc_threshold",)),
    ("temp",            "f32",    ("temperature",)),
    ("penalty_last_n",  "i32",    ("penalty_last_n",)),
    ("penalty_repeat",  "f32",    ("penalty_repeat", "repetition_penalty")),
    ("mirostat",        "i32",    ("mirostat",)),
    ("mirostat_tau",    "f32",    ("mirostat_tau",)),
    ("mirostat_eta",    "f32",    ("mirostat_eta",)),
)


@dataclass(frozen=True)
class _Row:
    """A key of the model's numbers.

    Attributes:
        key: ``{}`` stands for the architecture.
        type: of the value.
        value: what it is; None: nothing is written.
    """

    key: str
    type: str
    value: Callable[[ModelParams], Any]


def _llama(value: Callable[[ModelParams], Any]) -> Callable[[ModelParams], Any]:
    """Only where the architecture is llama."""
    return lambda p: value(p) if ARCHITECTURES[p.architecture] == "llama" else None


def _scaling(value: Callable[[Any], Any], *types: str) -> Callable[[ModelParams], Any]:
    """Only where positions are scaled in one of these ways, by a factor."""


    def said(p: ModelParams) -> Any:
        scaling = p.rope_scaling
        return value(scaling) if scaling and scaling.type in types and scaling.factor is not None else None

    return said


_BOTH = ("linear", "yarn")
_MODEL: tuple[_Row, ...] = (
    _Row("{}.block_count",                          "u32",    lambda p: p.n_layer),
    _Row("{}.context_length",                       "u32",    lambda p: p.context_length),
    _Row("{}.embedding_length",                     "u32",    lambda p: p.n_embd),
    _Row("{}.feed_forward_length",                  "u32",    lambda p: p.n_ff),
    _Row("{}.attention.head_count",                 "u32",    lambda p: p.n_head),
    _Row("{}.attention.head_count_kv",              "u32",    lambda p: p.n_head_kv),
    _Row("{}.rope.scaling.type",                    "string", _scaling(lambda s: s.type.encode(), *_BOTH)),
    _Row("{}.rope.scaling.factor",                  "f32",    _scaling(lambda s: s.factor, *_BOTH)),
    _Row("{}.rope.scaling.original_context_length", "u32",    _scaling(lambda s: s.original_context, "yarn")),
    _Row("{}.rope.scaling.yarn_ext_factor",         "f32",    _scaling(lambda s: s.extrapolation_factor, "yarn")),
    _Row("{}.rope.scaling.yarn_attn_factor",        "f32",    _scaling(lambda s: _attention_factor(s), "yarn")),
    _Row("{}.rope.scaling.yarn_beta_fast",          "f32",    _scaling(lambda s: s.beta_fast, "yarn")),
    _Row("{}.rope.scaling.yarn_beta_slow",          "f32",    _scaling(lambda s: s.beta_slow, "yarn")),
    _Row("{}.rope.freq_base",                       "f32",    lambda p: p.rope_freq_base),
    _Row("{}.attention.layer_norm_rms_epsilon",     "f32",    lambda p: p.eps),
    _Row("{}.attention.key_length",                 "u32",    lambda p: p.head_dim),
    _Row("{}.attention.value_length",               "u32",    lambda p: p.head_dim),
    _Row("general.file_type",                       "u32",    lambda p: p.ftype),
    _Row("llama.vocab_size",                        "u32",    _llama(lambda p: p.n_vocab)),
    _Row("llama.rope.dimension_count",              "u32",    _llama(lambda p: p.head_dim)),
    _Row("general.quantization_version",            "u32",    lambda p: 2),
)
_NORMALIZERS: dict[str, tuple[tuple[str, str | None], ...]] = {  # type of a normalizer -> keys, and flags that decide
    "Lowercase":     (("lowercase", None),),
    "StripAccents":  (("strip_accents", None),),
    "BertNormalizer": (("lowercase", "lowercase"), ("strip_accents", "strip_accents")),
}
# fmt: on


def all_metadata(folder: Folder, params: ModelParams, vocabulary: FoundVocabulary, total: int) -> dict[str, Value]:
    """All keys of the file.

    Args:
        params: of the model, with the file type of the output and the number of tokens that config.json states.
        total: number of parameters in all tensors; 0 where only the vocabulary is written.

    Raises:
        FormatError: a number of the directory has no place in its key's type.
    """
    metadata = {
        "general.architecture": Value("string", ARCHITECTURES[params.architecture].encode()),
        "general.type": Value("string", b"model"),
        **dict(_sampling(folder)),
        **general_metadata(folder, total),
        **dict(_numbers(params, set(unsaid_keys(json_object(folder, "config.json"))))),
        **_prefix(folder, params),
        **vocabulary.metadata,
        **special_metadata(folder, vocabulary.n_tokens if vocabulary.is_sentencepiece else None),
        **chat_metadata(folder),
        **_normalizer(folder),
        **_by_size(params),
    }
    return {key: _as_stored(folder, key, value) for key, value in metadata.items() if is_written(value)}


def n_tokens_of(params: ModelParams) -> int:
    """How many tokens the configuration states, or transformers takes for it."""
    return DEFAULT_VOCABULARY[params.architecture] if params.n_vocab == FROM_TOKENIZER else params.n_vocab


def is_written(value: Value) -> bool:
    """Empty texts and empty arrays are not."""
    return value.type not in ("string", "array") or len(value.value) > 0


def _as_stored(folder: Folder, key: str, value: Value) -> Value:
    """A number as it comes back from the file.

    Raises:
        FormatError: its type can't hold it.
    """
    low, high = _RANGES.get(value.type, (0, 0))
    if value.type in _RANGES and (value.value < low or value.value > high):  # not NaN, which is written as it is
        raise FormatError(
            "a number has no place in GGUF", path=folder.path, field=key, expected=value.type, found=value.value
        )
    return Value("f32", float(np.float32(value.value))) if value.type == "f32" else value


def _numbers(params: ModelParams, unsaid: Collection[str]) -> Iterator[tuple[str, Value]]:
    for row in _MODEL:
        value = row.value(params)
        if value is not None and row.key not in unsaid:
            yield row.key.format(ARCHITECTURES[params.architecture]), Value(row.type, value)


def _attention_factor(scaling: Any) -> Any:
    """YaRN's factor on cosine and sine in either spelling."""
    said = scaling.other.get("attn_factor")
    return said if scaling.attention_factor is None and isinstance(said, (int, float)) else scaling.attention_factor


def _sampling(folder: Folder) -> Iterator[tuple[str, Value]]:
    """How the model's authors sample."""
    said = json_object(folder, "generation_config.json")
    for key, kind, names in SAMPLING:
        value = next((said[name] for name in names if said.get(name) is not None), None)
        if value is None:
            continue
        right = isinstance(value, str) if kind == "string" else type(value) in (int, float)
        if not right or (kind == "i32" and not -(1 << 31) <= value < 1 << 31) or (kind == "f32" and abs(value) > 3e38):
            path = folder.path / "generation_config.json"
            raise FormatError("not a plausible value", path=path, field=names[-1], expected=kind, found=str(value)[:40])
        made = value.encode() if kind == "string" else int(value) if kind == "i32" else float(value)
        yield f"general.sampling.{key}", Value(kind, made)


def _prefix(folder: Folder, params: ModelParams) -> dict[str, Value]:
    """Whether a space is put in front of a text."""
    said = json_object(folder, "tokenizer_config.json").get("add_prefix_space")
    if ARCHITECTURES[params.architecture] != "llama" or said is None:
        return {}
    return {"tokenizer.ggml.add_space_prefix": Value("bool", bool(said))}


def _normalizer(folder: Folder) -> dict[str, Value]:
    """What is done to a text before it is cut."""
    said: dict[str, Value] = {}
    for one in one_or_several(json_object(folder, "tokenizer.json").get("normalizer"), "normalizers"):
        for name, flag in _NORMALIZERS.get(str(one.get("type")), ()):
            on = True if flag is None else one.get(flag)
            if isinstance(on, bool):
                said[f"tokenizer.ggml.normalizer.{name}"] = Value("bool", on)
    return said


def _by_size(params: ModelParams) -> Mapping[str, Value]:
    """What the converter concludes from the number of tokens."""
    if ARCHITECTURES[params.architecture] != "llama":
        return {}
    return {
        CODE_LLAMA: {"tokenizer.ggml.eot_token_id": Value("u32", CODE_LLAMA_EOT)},
        STAR_CODER: {"tokenizer.ggml.add_bos_token": Value("bool", False)},
    }.get(params.n_vocab, {})
