"""What becomes of each number of a model on its way into a container: carried, refused, or told.

No container holds all that another says (:mod:`ggmlpy.formats.model_params`). :data:`NUMBERS` has a row per number and
a column per target; a cell is the key that carries the number, or what happens where there is none:

* :data:`REFUSED`: a reader of the target would compute something else, so nothing is written;
* :data:`TOLD`: a reader has to be given the number in another way, so a note says which;
* :data:`NEEDLESS`: it follows from others there.

A value that every reader of the target assumes anyway (:func:`is_usual`) is nothing to tell. Whoever writes a model
calls :func:`carry` first: ``convert``, ``merge``, ``to-hf``, ``from-hf``, ``migrate``, ``quantize`` and ``doctor`` do,
and the table in docs/formats.md is generated from here.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ggmlpy.files.errors import UnsupportedError

from .model_params import (
    FROM_TOKENIZER,
    LLAMA_CONTEXT,
    LLAMA_EPS,
    LLAMA_ROPE_THETA,
    META_LLAMA3,
    ModelParams,
    RopeScaling,
    feed_forward_width,
)

__all__ = [
    "NUMBERS",
    "SCALINGS",
    "TARGETS",
    "Number",
    "carry",
    "is_usual",
    "kept_keys",
    "lost_in",
    "shown",
    "unstated",
]

REFUSED = "refused"
TOLD = "told"
NEEDLESS = "not needed"
SCALING = "by type"  # see SCALINGS

TARGETS = {
    "meta": "params.json",
    "huggingface": "config.json",
    "ggml": "ggml, ggmf, ggjt",
    "gguf": "GGUF",
}


@dataclass(frozen=True)
class Number:
    """One number of a model and its place in each target.

    Attributes:
        field: of :class:`~ggmlpy.formats.model_params.ModelParams`.
        what: the number in words.
        meta, huggingface, ggml, gguf: the key, or what happens without one.
        instead: where it is told: what a person does about it; ``{}`` stands for the value.
    """

    field: str
    what: str
    meta: str
    huggingface: str
    ggml: str
    gguf: str
    instead: str = ""

    def key(self, container: str) -> str:
        """The name of the number in a container; that in Hugging Face's where it has none."""
        cell: str = getattr(self, container)
        if cell == SCALING:
            return _SCALING_KEYS[container]
        return self.huggingface if cell in (REFUSED, TOLD, NEEDLESS) else cell


_SCALING = "rope_scaling"
_SCALING_KEYS = {"meta": "use_scaled_rope", "huggingface": _SCALING, "ggml": _SCALING, "gguf": "llama.rope.scaling"}


def _row(field: str, meta: str, huggingface: str, ggml: str, gguf: str) -> Number:
    """A row of the table; GGUF's usual prefixes are left out: "." for ``llama.``, ":" for ``tokenizer.ggml.``."""
    prefix = {".": "llama.", ":": "tokenizer.ggml."}.get(gguf[0])
    gguf = prefix + gguf[1:] if prefix else gguf
    return Number(field, _WORDS[field], meta, huggingface, ggml, gguf, _INSTEAD.get(field, ""))


_INSTEAD = {
    "norm_eps": "generate needs --norm-eps {}",
    "n_ctx_train": "readers assume 2048 tokens",
    "sliding_window": "readers of the file see all tokens, so results differ from the model's from token {} on",
    **dict.fromkeys(("bos_id", "eos_ids", "unk_id"), "readers assume 1 (begin), 2 (end) and 0 (unknown)"),
}

# fmt: off
_WORDS = {
    "architecture":    "family",
    "n_embd":          "width",
    "n_layer":         "layers",
    "n_head":          "heads of queries",
    "n_vocab":         "rows of the vocabulary",
    "n_mult":          "rounding of the next",
    "n_ff":            "other feed-forward width",
    "n_head_kv":       "heads of keys",
    "head_dim":        "width of a head",
    "n_rot":           "rotated part of a head",
    "norm_eps":        "epsilon of the norms",
    "rope_theta":      "base of rotary frequencies",
    "rope_scaling":    "their scaling",
    "n_ctx_train":     "longest context",
    "sliding_window":  "sliding window",
    "attention_bias":  "biases of attention",
    "mlp_bias":        "biases of feed-forward",
    "tied_embeddings": "output is the embedding",
    "bos_id":          "token that begins a text",
    "eos_ids":         "token that ends a text",
    "unk_id":          "unknown token",
    "pad_id":          "padding token",
}

NUMBERS: tuple[Number, ...] = (
    #    field              params.json    config.json                GGML       GGUF
    _row("architecture",    REFUSED,       "model_type",              REFUSED,   "general.architecture"),
    _row("n_embd",          "dim",         "hidden_size",             "n_embd",  ".embedding_length"),
    _row("n_layer",         "n_layers",    "num_hidden_layers",       "n_layer", ".block_count"),
    _row("n_head",          "n_heads",     "num_attention_heads",     "n_head",  ".attention.head_count"),
    _row("n_vocab",         NEEDLESS,      "vocab_size",              "n_vocab", ":tokens"),
    _row("n_mult",          "multiple_of", NEEDLESS,                  "n_mult",  "ggmlpy.n_mult"),
    _row("n_ff",            "ffn_dim_multiplier", "intermediate_size",  REFUSED,   ".feed_forward_length"),
    _row("n_head_kv",       "n_kv_heads",  "num_key_value_heads",     REFUSED,   ".attention.head_count_kv"),
    _row("head_dim",        REFUSED,       "head_dim",                REFUSED,   ".attention.key_length"),
    _row("n_rot",           REFUSED,       REFUSED,                   "n_rot",   ".rope.dimension_count"),
    _row("norm_eps",        "norm_eps",    "rms_norm_eps",            TOLD,      ".attention.layer_norm_rms_epsilon"),
    _row("rope_theta",      "rope_theta",  "rope_theta",              REFUSED,   ".rope.freq_base"),
    _row("rope_scaling",    SCALING,       SCALING,                   SCALING,   SCALING),
    _row("n_ctx_train",     TOLD,          "max_position_embeddings", TOLD,      ".context_length"),
    _row("sliding_window",  REFUSED,       "sliding_window",          REFUSED,   TOLD),
    _row("attention_bias",  REFUSED,       "attention_bias",          REFUSED,   "blk.N.attn_q.bias"),
    _row("mlp_bias",        REFUSED,       "mlp_bias",                REFUSED,   "blk.N.ffn_gate.bias"),
    _row("tied_embeddings", NEEDLESS,      NEEDLESS,                  NEEDLESS,  NEEDLESS),
    _row("bos_id",          TOLD,          "bos_token_id",            TOLD,      ":bos_token_id"),
    _row("eos_ids",         TOLD,          "eos_token_id",            TOLD,      ":eos_token_id"),
    _row("unk_id",          TOLD,          "unk_token_id",            TOLD,      ":unknown_token_id"),
    _row("pad_id",          NEEDLESS,      "pad_token_id",            NEEDLESS,  ":padding_token_id"),
)

_YARN_OF_READERS: dict[str, tuple[Any, ...]] = {  # what llama.cpp computes YaRN with, whatever the file says
    "beta_fast": (32.0,),
    "beta_slow": (1.0,),
    "attention_factor": (),
    "extrapolation_factor": (1.0,),
    "mscale": (),
    "mscale_all_dim": (),
    "truncate": (True,),
}
SCALINGS: dict[str, dict[str, str]] = {  # how each type of rope scaling is carried; other types as "longrope"
    #            params.json                  config.json                   GGML             GGUF
    "linear":   {"meta": REFUSED,           "huggingface": _SCALING, "ggml": REFUSED, "gguf": "llama.rope.scaling.*"},
    "yarn":     {"meta": REFUSED,           "huggingface": _SCALING, "ggml": REFUSED, "gguf": "llama.rope.scaling.*"},
    "dynamic":  {"meta": REFUSED,           "huggingface": _SCALING, "ggml": REFUSED, "gguf": TOLD},
    "llama3":   {"meta": "use_scaled_rope", "huggingface": _SCALING, "ggml": REFUSED, "gguf": "rope_freqs.weight"},
    "longrope": {"meta": REFUSED,           "huggingface": _SCALING, "ggml": REFUSED, "gguf": REFUSED},
}

_SILENT: dict[str, set[str]] = {  # keys of the sources that say nothing about what a model computes
    "meta": {"max_batch_size", "max_seq_len", "model_parallel_size", "flash"},
    "huggingface": {
        *("architectures", "transformers_version", "use_cache", "initializer_range", "pretraining_tp", "_name_or_path"),
        *("attention_dropout", "max_sequence_length", "auto_map", "_commit_hash", "_attn_implementation"),
        *("return_dict", "output_attentions", "output_hidden_states", "torchscript", "chunk_size_feed_forward"),
        *("is_encoder_decoder", "is_decoder", "add_cross_attention", "tie_encoder_decoder", "problem_type", "id2label"),
        *("label2id", "finetuning_task", "task_specific_params", "original_max_position_embeddings", "keys_to_ignore"),
    },
    "gguf": {
        *("general.alignment", "general.type", "general.size_label", "tokenizer.ggml.pre", "llama.vocab_size"),
        *("split.no", "split.count", "split.tensors.count", "llama.attention.value_length"),  # see _refused
        *("llama.tensor_data_layout", "general.quantized_by", "llama.expert_count", "llama.expert_used_count"),
    },
}
_DECISIVE: dict[str, dict[str, Any]] = {  # and keys that say something, with the one value that changes nothing
    "meta": {},
    "huggingface": {"partial_rotary_factor": 1.0, "rope_interleaved": False, "quantization_config": None},
    "gguf": {"llama.expert_count": 0, "llama.expert_used_count": 0},
}
# fmt: on
_SHOWN = 6  # unknown keys named in a note


def is_usual(params: ModelParams, field: str) -> bool:
    """Whether a number is what a reader assumes that is told nothing: as in the first LLaMA, or as it follows.

    >>> llama = ModelParams(n_embd=64, n_layer=2, n_head=4, n_mult=32, rope_theta=1e6)
    >>> is_usual(llama, "norm_eps"), is_usual(llama, "rope_theta")
    (True, False)
    """
    value = getattr(params, field)
    match field:
        case "n_head_kv":
            return bool(value == params.n_head)
        case "head_dim":
            return params.n_head < 1 or value == params.n_embd // params.n_head
        case "n_rot":
            return bool(value == params.head_dim)
        case "n_ff":
            return bool(value == feed_forward_width(params.n_embd, params.n_mult))
        case "rope_scaling":
            return value is None or value.type in ("none", "default") or _scales_nothing(value)
    usual = _USUAL.get(field, ())
    return any(value is known or value == known or _same_f32(value, known) for known in usual)


_USUAL: dict[str, tuple[Any, ...]] = {
    "architecture": ("mistral", "llama"),
    "n_vocab": (FROM_TOKENIZER,),
    "norm_eps": (None, LLAMA_EPS),
    "rope_theta": (None, LLAMA_ROPE_THETA),
    "n_ctx_train": (None, LLAMA_CONTEXT),
    "sliding_window": (None, 0),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "tied_embeddings": (False,),
    "bos_id": (None, 1),
    "eos_ids": ((), (2,)),
    "unk_id": (None, 0),
    "pad_id": (None, 0, -1),  # 0 and -1 are <unk> and "none" in configurations of 2023
}


def _scales_nothing(scaling: RopeScaling) -> bool:
    return scaling.type == "linear" and scaling.factor in (None, 0, 1) and not scaling.other


def _same_f32(a: Any, b: Any) -> bool:
    """GGUF keeps these numbers in f32, so 1e-6 comes back as 9.99999997e-07."""
    return type(a) is float and type(b) is float and abs(a) < 1e38 and struct.pack("<f", a) == struct.pack("<f", b)


def carry(
    params: ModelParams, target: str, source: str, path: str | os.PathLike[str], *, title: str = "", next_step: str = ""
) -> list[str]:
    """Check that a model's numbers can go into a container; the notes on those that a reader must be told.

    Args:
        params: of the model, as its source says them.
        target, source: "meta", "huggingface", "ggml" or "gguf".
        path: of the source, for messages.
        title: of the target, "ggjt v1".
        next_step: where the model can go instead.

    Raises:
        UnsupportedError: the target cannot say a number without which other results are computed.
    """
    title = title or TARGETS[target]
    for key, value, usual in _refused(params, target, source):
        raise UnsupportedError(
            f"{title} has no place for {key} {shown(value)}: a reader would compute something else",
            path=path,
            field=key,
            expected=shown(usual),
            found=shown(value),
            cause="a model later than the first LLaMA",
            next_step=next_step or "keep the model in a container that says it: the table in docs/formats.md",
        )
    return [f"{title} has no place for {words}" for words in _told(params, target, source)]


def kept_keys(params: ModelParams, container: str) -> dict[str, Any]:
    """Keys of a source that may mean something, though nothing here knows what: kept in a target of its kind."""
    return {key: value for key, value in params.other.items() if key not in _SILENT[container]}


def lost_in(params: ModelParams, target: str, source: str) -> bool:
    """Whether the target drops or refuses anything."""
    return any(True for _ in _refused(params, target, source)) or any(True for _ in _told(params, target, source))


def unstated(container: str) -> set[str]:
    """The fields that a container has no place for, though a model with any value of them may lie in it."""
    return {number.field for number in NUMBERS if getattr(number, container) in (TOLD, NEEDLESS)}


def _refused(params: ModelParams, target: str, source: str) -> Iterator[tuple[str, Any, Any]]:
    """Key, value and what a reader would take instead."""
    for number in NUMBERS:
        if is_usual(params, number.field):
            continue
        value, cell = getattr(params, number.field), getattr(number, target)
        if cell == SCALING:
            yield from _refused_scaling(number.key(source), value, target)
        elif cell == REFUSED:
            yield number.key(source), value, _assumed(params, number.field)
    for key, usual in _DECISIVE.get(source, {}).items():
        if target != source and params.other.get(key, usual) != usual and not _is_number(params.other[key], usual):
            yield key, params.other[key], usual
    if source == "gguf" and target != "gguf":
        length = params.other.get("llama.attention.value_length")
        if length is not None and not _is_number(length, params.head_dim):
            yield "llama.attention.value_length", length, params.head_dim
        yield from ((key, value, "nothing") for key, value in params.other.items() if _of_the_model(key))


def _refused_scaling(key: str, scaling: RopeScaling, target: str) -> Iterator[tuple[str, Any, Any]]:
    """What of a rope scaling the target cannot say."""
    cell = SCALINGS.get(scaling.type, SCALINGS["longrope"])[target]
    numbers = ("factor", "original_context", "low_freq_factor", "high_freq_factor")
    other = target == "meta" and any(getattr(scaling, n) not in (None, getattr(META_LLAMA3, n)) for n in numbers)
    if cell == REFUSED or other:
        yield key, scaling, "none"


def _is_number(value: Any, usual: Any) -> bool:
    """A GGUF value of a number; its type does not matter."""
    return bool(getattr(value, "value", value) == usual)


def _of_the_model(key: str) -> bool:
    return key.startswith("llama.") and key not in _SILENT["gguf"] and key not in _DECISIVE["gguf"]


def _our_own(key: str, value: Any) -> bool:
    """A name that this library gives every model."""
    return key == "general.name" and getattr(value, "value", None) == b"LLaMA"


def _assumed(params: ModelParams, field: str) -> Any:
    """What a reader takes that is told nothing."""
    match field:
        case "n_head_kv":
            return params.n_head
        case "head_dim":
            return params.n_embd // params.n_head
        case "n_rot":
            return params.head_dim
        case "n_ff":
            return feed_forward_width(params.n_embd, params.n_mult)
    return _USUAL[field][-1]


def _told(params: ModelParams, target: str, source: str) -> Iterator[str]:
    """Key, value and what to do about it."""
    for number in NUMBERS:
        if getattr(number, target) == TOLD and not is_usual(params, number.field):
            value = shown(getattr(params, number.field))
            yield f"{number.key(source)} {value}: {number.instead.format(value)}"
    if target == "gguf" and params.rope_scaling and not is_usual(params, "rope_scaling"):
        yield from _told_scaling(source, params.rope_scaling)
    if target == "gguf" and len(params.eos_ids) > 1 and source != "gguf":
        yield f"more than one eos_token_id: of {shown(params.eos_ids)} it has the first"
    if target != source:
        known = {*_SILENT.get(source, ()), *_DECISIVE.get(source, ())}
        keys = [key for key, value in params.other.items() if key not in known and not _our_own(key, value)]
        if keys:
            more = f" and {len(keys) - _SHOWN} more keys" if len(keys) > _SHOWN else ""
            yield f"{', '.join(keys[:_SHOWN])}{more}"


def _told_scaling(source: str, scaling: RopeScaling) -> Iterator[str]:
    """What of a rope scaling a GGUF file does not say, or says in vain: llama.cpp reads the factor and the context."""
    key = _SCALING_KEYS[source]
    if scaling.type == "dynamic":
        yield f"{key} {shown(scaling)}: readers of the file take the plain frequencies, however long the text"
    for name, usual in _YARN_OF_READERS.items() if scaling.type == "yarn" else ():
        if getattr(scaling, name) not in (None, *usual):
            yield f"{key}.{name} {shown(getattr(scaling, name))}: readers of the file compute YaRN as published"
    yield from (f"{key}.{name} {shown(value)}" for name, value in scaling.other.items())


def shown(value: Any) -> str:
    """A number as a person writes it.

    >>> shown(9.999999747378752e-06), shown(1000000.0), shown(RopeScaling(type="linear", factor=4.0))
    ('1e-05', '1000000', 'linear, factor 4')
    """
    if isinstance(value, RopeScaling):
        said = {name: getattr(value, name) for name in value.__dataclass_fields__ if name not in ("type", "other")}
        parts = [f"{name} {shown(number)}" for name, number in said.items() if number is not None]
        return ", ".join([value.type, *parts])
    if isinstance(value, float):
        return f"{value:.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.7g}"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(shown, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(item)}" for key, item in value.items())
    return str(getattr(value, "value", value))[:100]
