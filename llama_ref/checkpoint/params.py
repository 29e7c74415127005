"""How a checkpoint states its numbers: Meta's ``params.json`` and Hugging Face's ``config.json``.

Both are read into :class:`~ggmlpy.formats.model_params.ModelParams` and written from it. What ``config.json`` leaves
out is what transformers takes for that ``model_type``.

``params.json`` is what ``json.dump`` writes, without a newline, and its ``vocab_size`` is -1: the size of the
vocabulary is the tokenizer's. ``config.json`` states the width of the feed-forward layer itself; Meta and GGML state
``multiple_of`` and compute it; since LLaMA 2 Meta also states a multiplier, with which any width can be said::

    n_ff = int(ffn_dim_multiplier * (8 * n_embd // 3)) rounded up to a multiple of n_mult

Sources: llama/model.py of facebookresearch/llama (57b0eb62) and of llama3, configuration_llama.py of transformers
4.28.1 and 5.24, convert.py of llama.cpp dadbed99e.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any, TypeVar

from ggmlpy.files.errors import FormatError, ShapeError, UnsupportedError
from ggmlpy.files.json_files import read_json
from ggmlpy.formats.carrying import is_usual
from ggmlpy.formats.model_params import META_LLAMA3, ModelParams, RopeScaling, feed_forward_width, multiples_for

__all__ = [
    "config_json",
    "kind_of_scaling",
    "params_json",
    "params_of_huggingface",
    "params_of_meta",
    "read_config_json",
    "read_params_json",
    "rope_of",
]

N = TypeVar("N", int, float)

LARGEST_SIZE = 1 << 20  # of n_embd, n_mult, n_head, n_layer: far above any model, far below an overflow
LARGEST_MULTIPLIER = 64  # of the feed-forward width; the published ones are 1 to 1.5


def params_json(params: ModelParams, other: Mapping[str, Any] | None = None) -> str:
    """``params.json`` exactly as the original tools write it, and behind it what a later model says beyond.

    Arguments:
        other: keys of a source of the same kind that are kept as they are.

    >>> params_json(ModelParams(n_embd=4096, n_mult=256, n_head=32, n_layer=32))
    '{"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-06, "vocab_size": -1}'
    """
    if params.n_ff != feed_forward_width(params.n_embd, params.n_mult, params.ffn_dim_multiplier):
        params = replace(params, **multiples_for(params.n_embd, params.n_ff, params.n_head_kv != params.n_head))
    later: dict[str, Any] = {}
    if params.ffn_dim_multiplier is not None:
        later["ffn_dim_multiplier"] = params.ffn_dim_multiplier
    if not is_usual(params, "n_head_kv"):
        later["n_kv_heads"] = params.n_head_kv
    if not is_usual(params, "rope_theta"):
        later["rope_theta"] = params.rope_theta
    if not is_usual(params, "rope_scaling"):
        later["use_scaled_rope"] = True
    return json.dumps(
        {
            "dim": params.n_embd,
            "multiple_of": params.n_mult,
            "n_heads": params.n_head,
            "n_layers": params.n_layer,
            "norm_eps": params.eps,
            "vocab_size": -1,
            **later,
            **(other or {}),
        }
    )


def config_json(
    params: ModelParams,
    n_vocab: int,
    *,
    dtype: str = "float16",
    pad_token_id: int | None = 0,
    other: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """``config.json`` as transformers 4.28.1 wrote that of a first LLaMA, and behind it what a later model says.

    Arguments:
        other: keys of a source of the same kind that are kept as they are.
    """
    eos: Any = params.eos_ids[0] if len(params.eos_ids) == 1 else [*params.eos_ids] or 2
    return {
        "architectures": [f"{_CLASSES[params.architecture]}ForCausalLM"],
        "bos_token_id": 1 if params.bos_id is None else params.bos_id,
        "eos_token_id": eos,
        "hidden_act": "silu",
        "hidden_size": params.n_embd,
        "initializer_range": 0.02,
        "intermediate_size": params.n_ff,
        "max_position_embeddings": params.context_length,
        "model_type": params.architecture,
        "num_attention_heads": params.n_head,
        "num_hidden_layers": params.n_layer,
        "pad_token_id": pad_token_id if params.pad_id is None else params.pad_id,
        "rms_norm_eps": params.eps,
        "tie_word_embeddings": params.tied_embeddings,
        "torch_dtype": dtype,
        "transformers_version": "4.28.1",
        "use_cache": True,
        "vocab_size": n_vocab,
        **_later_keys(params),
        **(other or {}),
    }


def _later_keys(params: ModelParams) -> dict[str, Any]:
    """What transformers 4.28.1 had no key for, under the keys of later releases, where it is not as usual."""
    values = {
        "n_head_kv": params.n_head_kv,
        "head_dim": params.head_dim,
        "attention_bias": params.attention_bias and params.architecture != "qwen2",
        "mlp_bias": params.mlp_bias,
        "rope_theta": params.rope_theta,
        "rope_scaling": params.rope_scaling and _as_rope_keys(params.rope_scaling),
        "sliding_window": params.sliding_window,
        "unk_id": params.unk_id,
    }
    spelled = {"unk_id": "unk_token_id", "n_head_kv": "num_key_value_heads"}
    stated = _STATED.get(params.architecture, ())
    return {
        spelled.get(name, name): value
        for name, value in values.items()
        if name in stated or (not is_usual(params, name) and value is not False)
    }


def _as_rope_keys(scaling: RopeScaling) -> dict[str, Any]:
    """``rope_scaling`` as transformers 4 spells it; "type" is what its first releases read."""
    said = {key: getattr(scaling, name) for name, (key, _) in _ROPE_KEYS.items()} | {"truncate": scaling.truncate}
    numbers = {key: value for key, value in said.items() if value is not None}
    return {"type": scaling.type, "rope_type": scaling.type, **numbers, **scaling.other}


def read_params_json(path: str | os.PathLike[str]) -> ModelParams:
    """Meta's ``params.json``; ``norm_eps`` and ``vocab_size`` may be absent (1e-6 and -1 then).

    Raises:
        MissingFileError, FormatError: not there, not JSON, a value missing or out of range.
    """
    return params_of_meta(read_json(path), path)


def params_of_meta(record: Mapping[str, Any], path: str | os.PathLike[str]) -> ModelParams:
    """What ``params.json`` says, once it is read; ``path`` serves the messages. Raises as the reader does."""
    params = ModelParams(
        n_embd=_size(path, record, "dim"),
        n_mult=_size(path, record, "multiple_of"),
        n_head=_size(path, record, "n_heads"),
        n_head_kv=_optional_size(path, record, "n_kv_heads"),
        n_layer=_size(path, record, "n_layers"),
        ffn_dim_multiplier=_multiplier(path, record),
        norm_eps=_epsilon(path, record, "norm_eps"),
        n_vocab=_vocab_size(path, record),
        rope_theta=_number(record, "rope_theta", float),
        rope_scaling=META_LLAMA3 if record.get("use_scaled_rope") is True else None,
        other=_others(record, _PARAMS_KEYS),
    )
    return _checked(path, params, ("dim", "n_heads", "n_kv_heads"))


def read_config_json(path: str | os.PathLike[str]) -> ModelParams:
    """Hugging Face's ``config.json`` of a model of the LLaMA family.

    Raises:
        MissingFileError, FormatError: not there, not JSON, a value missing or out of range.
        UnsupportedError: another architecture, another activation.
    """
    return params_of_huggingface(read_json(path), path)


def params_of_huggingface(record: Mapping[str, Any], path: str | os.PathLike[str]) -> ModelParams:
    """What ``config.json`` says, once it is read; ``path`` serves the messages. Raises as the reader does."""
    model_type = record.get("model_type", "llama")
    if not isinstance(model_type, str) or model_type not in _DEFAULTS:
        raise _unsupported(path, "model_type", model_type)
    record = {**_DEFAULTS[model_type], **record}
    if record.get("hidden_act", "silu") != "silu":
        raise _unsupported(path, "hidden_act", record["hidden_act"])
    _check_rope(path, record)
    n_embd, n_ff = _size(path, record, "hidden_size"), _size(path, record, "intermediate_size")
    n_head = _size(path, record, "num_attention_heads")
    params = ModelParams(
        n_embd=n_embd,
        n_ff=n_ff,
        **multiples_for(n_embd, n_ff, record.get("num_key_value_heads") not in (None, n_head)),
        n_head=n_head,
        n_head_kv=_optional_size(path, record, "num_key_value_heads"),
        head_dim=_optional_size(path, record, "head_dim"),
        n_layer=_size(path, record, "num_hidden_layers"),
        norm_eps=_epsilon(path, record, "rms_norm_eps"),
        n_vocab=_vocab_size(path, record),
        architecture=model_type,
        **_carried(record),
    )
    return _checked(path, params, ("hidden_size", "num_attention_heads", "num_key_value_heads"))


# fmt: off
_DEFAULTS: dict[str, dict[str, Any]] = {  # model_type -> what transformers 5.24 takes where config.json has no such key
    "llama":   {"max_position_embeddings": 2048},
    "mistral": {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2":   {"max_position_embeddings": 32768, "num_key_value_heads": 32, "attention_bias": True},
    "qwen3":   {"max_position_embeddings": 32768, "num_key_value_heads": 32, "head_dim": 128},
}
_STATED = {  # what has to be stated however usual it is: transformers takes something else where it is missing
    "mistral": ("n_head_kv", "sliding_window"),
    "qwen2":   ("n_head_kv",),
    "qwen3":   ("n_head_kv", "head_dim"),
}
_CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
# fmt: on


_PARAMS_KEYS = {
    *("dim", "multiple_of", "n_heads", "n_kv_heads", "n_layers", "norm_eps", "vocab_size"),
    *("ffn_dim_multiplier", "rope_theta", "use_scaled_rope"),
}
_CONFIG_KEYS = {
    *("model_type", "hidden_act", "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"),
    *("num_key_value_heads", "rms_norm_eps", "vocab_size", "rope_theta", "rope_scaling", "rope_parameters"),
    *("max_position_embeddings", "sliding_window", "attention_bias", "mlp_bias", "tie_word_embeddings"),
    *("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id", "torch_dtype", "dtype", "head_dim"),
    *("use_sliding_window", "max_window_layers", "layer_types"),
}
# fmt: off
_ROPE_KEYS = {  # in rope_scaling (to transformers 4) and rope_parameters (since 5)
    "factor":               ("factor",                           float),
    "original_context":     ("original_max_position_embeddings", int),
    "low_freq_factor":      ("low_freq_factor",                  float),
    "high_freq_factor":     ("high_freq_factor",                 float),
    "attention_factor":     ("attention_factor",                 float),
    "beta_fast":            ("beta_fast",                        float),
    "beta_slow":            ("beta_slow",                        float),
    "mscale":               ("mscale",                           float),
    "mscale_all_dim":       ("mscale_all_dim",                   float),
    "extrapolation_factor": ("extrapolation_factor",             float),
}
# fmt: on
_ROTATED = "partial_rotary_factor"  # stands in config.json itself to transformers 4, in rope_parameters since 5
_OF_ROPE = {key for key, _ in _ROPE_KEYS.values()} | {"type", "rope_type", "rope_theta", "truncate", _ROTATED}


def _carried(record: Mapping[str, Any]) -> dict[str, Any]:
    """What ``config.json`` says that no result here depends on yet: None where it is missing or of another type."""
    rope = rope_of(record)
    theta = _number(rope, "rope_theta", float)
    eos = record.get("eos_token_id")
    dtype = record.get("dtype", record.get("torch_dtype"))
    windowed = record.get("use_sliding_window", not record.get("model_type", "").startswith("qwen"))
    longest = _number(record, "max_position_embeddings", int)
    return {
        "rope_theta": _number(record, "rope_theta", float) if theta is None else theta,
        "rope_scaling": _rope_scaling(rope, longest),
        "n_ctx_train": longest,
        "sliding_window": _number(record, "sliding_window", int) if windowed else None,
        "attention_bias": record.get("attention_bias") is True,
        "mlp_bias": record.get("mlp_bias") is True,
        "tied_embeddings": record.get("tie_word_embeddings") is True,
        "bos_id": _number(record, "bos_token_id", int),
        "eos_ids": tuple(i for i in (eos if isinstance(eos, list) else [eos]) if type(i) is int),
        "unk_id": _number(record, "unk_token_id", int),
        "pad_id": _number(record, "pad_token_id", int),
        "dtype": dtype if isinstance(dtype, str) else None,
        "other": {**_others(record, _CONFIG_KEYS), **_beside_scaling(rope)},
    }


def rope_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What ``config.json`` says of the rotary embedding: ``rope_scaling`` (to transformers 4) if it says anything, or
    else ``rope_parameters`` (since 5)."""
    rope = record.get("rope_scaling") or record.get("rope_parameters")
    return rope if isinstance(rope, dict) else {}


def _check_rope(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """One base and one scaling hold for all layers of a LLaMA."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = record.get(name)
        kinds = [key for key, value in rope.items() if isinstance(value, dict)] if isinstance(rope, dict) else []
        if kinds:
            raise UnsupportedError(
                "rotary embedding differs between kinds of layers",
                path=path,
                field=f"{name}.{kinds[0]}",
                expected="the same for all layers",
                found=", ".join(kinds),
                cause="this is another model family",
                next_step="start from a LLaMA model, or use the tools of this one",
            )


def _beside_scaling(rope: Mapping[str, Any]) -> dict[str, Any]:
    """What ``rope_parameters`` says beside the base and the scaling: how much of a head is rotated, and what nothing
    here understands."""
    part = {_ROTATED: rope[_ROTATED]} if _ROTATED in rope else {}
    if kind_of_scaling(rope) is not None:
        return part  # what else it says is kept with the scaling
    return {**part, **{f"rope_parameters.{key}": value for key, value in _others(rope, _OF_ROPE).items()}}


def kind_of_scaling(rope: Mapping[str, Any]) -> str | None:
    """How positions are scaled, in either spelling; None: not at all."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    return kind if isinstance(kind, str) and kind != "default" else None


def _rope_scaling(rope: Mapping[str, Any], longest: int | None) -> RopeScaling | None:
    """``rope_scaling`` or ``rope_parameters``; "default" and nothing at all mean the plain frequencies.

    Arguments:
        longest: the longest context, which counts as the original one where none is said in there; what stands
            outside is nothing that transformers looks at.
    """
    kind = kind_of_scaling(rope)
    if kind is None:
        return None
    said: dict[str, Any] = {name: _number(rope, key, number) for name, (key, number) in _ROPE_KEYS.items()}
    if kind in ("llama3", "yarn", "longrope"):
        said["original_context"] = said["original_context"] or longest
    truncate = rope.get("truncate")
    said |= {"truncate": truncate if isinstance(truncate, bool) else None, "other": _others(rope, _OF_ROPE)}
    return RopeScaling(type=kind, **said)


def _number(record: Mapping[str, Any], key: str, kind: type[N]) -> N | None:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        return None
    try:
        return kind(value)
    except OverflowError:  # an integer beyond the floats
        return None


def _others(record: Mapping[str, Any], understood: Set[str]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in understood}


def _size(path: str | os.PathLike[str], record: Mapping[str, Any], key: str) -> int:
    """A positive integer of the record."""
    if key not in record:
        raise FormatError(
            f"has no {key!r}",
            path=path,
            field=key,
            found=f"keys {', '.join(sorted(map(str, record))[:12])}",
            cause="the file belongs to another kind of model or layout",
        )
    value = record[key]
    if type(value) is not int or not 0 < value <= LARGEST_SIZE:
        raise FormatError("not a plausible size", path=path, field=key, expected=f"1 to {LARGEST_SIZE}", found=value)
    return value


def _optional_size(path: str | os.PathLike[str], record: Mapping[str, Any], key: str) -> Any:
    """A positive integer, or None where there is none."""
    return None if record.get(key) is None else _size(path, record, key)


def _multiplier(path: str | os.PathLike[str], record: Mapping[str, Any]) -> float | None:
    value = record.get("ffn_dim_multiplier")
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 < value <= LARGEST_MULTIPLIER:
        raise FormatError(
            "not a plausible multiplier", path=path, field="ffn_dim_multiplier",
            expected=f"0 to {LARGEST_MULTIPLIER}", found=value,
        )  # fmt: skip
    return float(value)


def _vocab_size(path: str | os.PathLike[str], record: Mapping[str, Any]) -> int:
    value = record.get("vocab_size", -1)
    if type(value) is not int or not (value == -1 or 0 < value <= LARGEST_SIZE * 16):
        raise FormatError(
            "not a plausible vocabulary size", path=path, field="vocab_size", expected="-1 or a positive number",
            found=value, next_step="write -1: the tokenizer decides",
        )  # fmt: skip
    return value


def _epsilon(path: str | os.PathLike[str], record: Mapping[str, Any], key: str) -> float:
    value = record.get(key, 1e-6)
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise FormatError("not a plausible epsilon", path=path, field=key, expected="0 to 1", found=value)
    return float(value)


def _unsupported(path: str | os.PathLike[str], field: str, found: Any) -> UnsupportedError:
    return UnsupportedError(
        "not a model of the LLaMA family",
        path=path,
        field=field,
        expected=", ".join(_DEFAULTS) if field == "model_type" else "silu",
        found=found,
        cause="this is another model family",
        next_step="start from a LLaMA model, or use the tools of this one",
    )


def _checked(path: str | os.PathLike[str], params: ModelParams, names: tuple[str, str, str]) -> ModelParams:
    """Heads have an even width, for the rotary embedding turns pairs, and as many queries share each head of keys."""
    own = params.head_dim == params.n_embd // params.n_head
    if (own and params.n_embd % params.n_head) or params.n_rot % 2:
        raise ShapeError(
            f"{names[0]} does not divide into heads of an even size",
            path=path,
            field=names[1],
            expected=f"a divisor of {params.n_embd} that leaves an even head",
            found=params.n_head,
        )
    if params.n_head % params.n_head_kv:
        raise ShapeError(
            "heads of queries and keys do not fit together",
            path=path,
            field=names[2],
            expected=f"a divisor of {params.n_head}",
            found=params.n_head_kv,
        )
    return params
