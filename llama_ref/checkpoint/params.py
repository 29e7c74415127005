"""How a checkpoint states its numbers: Meta's ``params.json`` and Hugging Face's ``config.json``.

Both are read into :class:`~ggmlpy.formats.model_params.ModelParams` and written from it.

``params.json`` is what ``json.dump`` writes, without a newline, and its ``vocab_size`` is -1: the size of the
vocabulary is the tokenizer's. ``config.json`` states the width of the feed-forward layer itself; Meta and GGML state
``multiple_of`` and compute it::

    n_ff = (8 * n_embd // 3) rounded up to a multiple of n_mult

Sources: llama/model.py of facebookresearch/llama (57b0eb62), configuration_llama.py of transformers 4.28.1,
convert.py of llama.cpp dadbed99e.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, TypeVar

from ggmlpy.files.errors import FormatError, MissingFileError, ShapeError, UnsupportedError
from ggmlpy.formats.carrying import is_usual
from ggmlpy.formats.model_params import ModelParams, RopeScaling, find_n_mult

__all__ = [
    "config_json",
    "params_json",
    "params_of_huggingface",
    "params_of_meta",
    "read_config_json",
    "read_json",
    "read_params_json",
]

N = TypeVar("N", int, float)

LARGEST_JSON = 1 << 24  # an honest config has a few hundred bytes, an index of 65B about 60 kB
LARGEST_SIZE = 1 << 20  # of n_embd, n_mult, n_head, n_layer: far above any model, far below an overflow


def params_json(params: ModelParams, other: Mapping[str, Any] | None = None) -> str:
    """``params.json`` exactly as the original tools write it, and behind it what a later model says beyond.

    Arguments:
        other: keys of a source of the same kind that are kept as they are.

    >>> params_json(ModelParams(n_embd=4096, n_mult=256, n_head=32, n_layer=32))
    '{"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-06, "vocab_size": -1}'
    """
    rope: dict[str, Any] = {}
    if not is_usual(params, "rope_theta"):
        rope["rope_theta"] = params.rope_theta
    if not is_usual(params, "rope_scaling"):
        rope["use_scaled_rope"] = True
    return json.dumps(
        {
            "dim": params.n_embd,
            "multiple_of": params.n_mult,
            "n_heads": params.n_head,
            "n_layers": params.n_layer,
            "norm_eps": params.eps,
            "vocab_size": -1,
            **rope,
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
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1 if params.bos_id is None else params.bos_id,
        "eos_token_id": eos,
        "hidden_act": "silu",
        "hidden_size": params.n_embd,
        "initializer_range": 0.02,
        "intermediate_size": params.n_ff,
        "max_position_embeddings": params.context_length,
        "model_type": "llama",
        "num_attention_heads": params.n_head,
        "num_hidden_layers": params.n_layer,
        "pad_token_id": pad_token_id if params.pad_id is None else params.pad_id,
        "rms_norm_eps": params.eps,
        "tie_word_embeddings": False,
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
        "head_dim": params.head_dim,
        "rope_theta": params.rope_theta,
        "rope_scaling": params.rope_scaling and _as_rope_keys(params.rope_scaling),
        "sliding_window": params.sliding_window,
        "unk_id": params.unk_id,
    }
    spelled = {"unk_id": "unk_token_id"}
    return {spelled.get(name, name): value for name, value in values.items() if not is_usual(params, name)}


def _as_rope_keys(scaling: RopeScaling) -> dict[str, Any]:
    """``rope_scaling`` as transformers 4 spells it; "type" is what its first releases read."""
    said = {key: getattr(scaling, name) for name, (key, _) in _ROPE_KEYS.items()} | {"truncate": scaling.truncate}
    numbers = {key: value for key, value in said.items() if value is not None}
    return {"type": scaling.type, "rope_type": scaling.type, **numbers, **scaling.other}


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A JSON object from a small file.

    Raises:
        MissingFileError: there is no such file.
        FormatError: not JSON, not an object, or far too large to be a configuration.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > LARGEST_JSON:
            raise FormatError("too large for a configuration", path=path, expected=f"<= {LARGEST_JSON}", found=size)
        value = json.loads(path.read_bytes())  # UTF-8 or UTF-16, with or without a byte order mark
    except FileNotFoundError as error:
        raise MissingFileError("is missing", path=path, next_step=f"copy {path.name} beside the weights") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(
            "is not JSON",
            path=path,
            found=str(error)[:100],
            cause="a broken download, or an HTML page or a Git LFS pointer saved under this name",
            next_step=f"fetch {path.name} again",
        ) from error
    if not isinstance(value, dict):
        raise FormatError("is not a JSON object", path=path, expected="{…}", found=type(value).__name__)
    return value


def read_params_json(path: str | os.PathLike[str]) -> ModelParams:
    """Meta's ``params.json``; ``norm_eps`` and ``vocab_size`` may be absent (1e-6 and -1 then).

    Raises:
        MissingFileError, FormatError: not there, not JSON, a value missing or out of range.
        UnsupportedError: grouped-query attention or a feed-forward multiplier (LLaMA 2 70B).
    """
    return params_of_meta(read_json(path), path)


def params_of_meta(record: Mapping[str, Any], path: str | os.PathLike[str]) -> ModelParams:
    """What ``params.json`` says, once it is read; ``path`` serves the messages. Raises as the reader does."""
    _refuse_grouped(path, record.get("n_kv_heads"), record.get("n_heads"), "n_kv_heads")
    if record.get("ffn_dim_multiplier") not in (None, 1, 1.0):
        raise _unsupported(path, "ffn_dim_multiplier", record["ffn_dim_multiplier"])
    params = ModelParams(
        n_embd=_size(path, record, "dim"),
        n_mult=_size(path, record, "multiple_of"),
        n_head=_size(path, record, "n_heads"),
        n_layer=_size(path, record, "n_layers"),
        norm_eps=_epsilon(path, record, "norm_eps"),
        n_vocab=_vocab_size(path, record),
        rope_theta=_number(record, "rope_theta", float),
        rope_scaling=RopeScaling(type="llama3") if record.get("use_scaled_rope") is True else None,
        other=_others(record, _PARAMS_KEYS),
    )
    return _checked(path, params, ("dim", "n_heads"))


def read_config_json(path: str | os.PathLike[str]) -> ModelParams:
    """Hugging Face's ``config.json`` of a LLaMA.

    Raises:
        MissingFileError, FormatError: not there, not JSON, a value missing or out of range.
        UnsupportedError: another architecture, grouped-query attention, another activation.
    """
    return params_of_huggingface(read_json(path), path)


def params_of_huggingface(record: Mapping[str, Any], path: str | os.PathLike[str]) -> ModelParams:
    """What ``config.json`` says, once it is read; ``path`` serves the messages. Raises as the reader does."""
    model_type = record.get("model_type", "llama")
    if model_type != "llama":
        raise _unsupported(path, "model_type", model_type)
    _refuse_grouped(path, record.get("num_key_value_heads"), record.get("num_attention_heads"), "num_key_value_heads")
    if record.get("hidden_act", "silu") != "silu":
        raise _unsupported(path, "hidden_act", record["hidden_act"])
    n_embd, n_ff = _size(path, record, "hidden_size"), _size(path, record, "intermediate_size")
    params = ModelParams(
        n_embd=n_embd,
        n_ff=n_ff,
        n_mult=_n_mult(path, n_embd, n_ff),
        n_head=_size(path, record, "num_attention_heads"),
        n_layer=_size(path, record, "num_hidden_layers"),
        norm_eps=_epsilon(path, record, "rms_norm_eps"),
        n_vocab=_vocab_size(path, record),
        **_carried(record),
    )
    return _checked(path, params, ("hidden_size", "num_attention_heads"))


_PARAMS_KEYS = {
    *("dim", "multiple_of", "n_heads", "n_kv_heads", "n_layers", "norm_eps", "vocab_size"),
    *("ffn_dim_multiplier", "rope_theta", "use_scaled_rope"),
}
_CONFIG_KEYS = {
    *("model_type", "hidden_act", "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"),
    *("num_key_value_heads", "rms_norm_eps", "vocab_size", "rope_theta", "rope_scaling", "rope_parameters"),
    *("max_position_embeddings", "sliding_window", "attention_bias", "mlp_bias", "tie_word_embeddings"),
    *("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id", "torch_dtype", "dtype", "head_dim"),
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


def _carried(record: Mapping[str, Any]) -> dict[str, Any]:
    """What ``config.json`` says that no result here depends on yet: None where it is missing or of another type."""
    rope = record.get("rope_scaling") or record.get("rope_parameters")
    rope = rope if isinstance(rope, dict) else {}
    theta = _number(rope, "rope_theta", float)
    eos = record.get("eos_token_id")
    dtype = record.get("dtype", record.get("torch_dtype"))
    return {
        "head_dim": _number(record, "head_dim", int),
        "rope_theta": _number(record, "rope_theta", float) if theta is None else theta,
        "rope_scaling": _rope_scaling(rope, _number(record, "original_max_position_embeddings", int)),
        "n_ctx_train": _number(record, "max_position_embeddings", int),
        "sliding_window": _number(record, "sliding_window", int),
        "attention_bias": record.get("attention_bias") is True,
        "mlp_bias": record.get("mlp_bias") is True,
        "tied_embeddings": record.get("tie_word_embeddings") is True,
        "bos_id": _number(record, "bos_token_id", int),
        "eos_ids": tuple(i for i in (eos if isinstance(eos, list) else [eos]) if type(i) is int),
        "unk_id": _number(record, "unk_token_id", int),
        "pad_id": _number(record, "pad_token_id", int),
        "dtype": dtype if isinstance(dtype, str) else None,
        "other": _others(record, _CONFIG_KEYS),
    }


def _rope_scaling(rope: Mapping[str, Any], original_context: int | None) -> RopeScaling | None:
    """``rope_scaling`` or ``rope_parameters``; "default" and nothing at all mean the plain frequencies."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if not isinstance(kind, str) or kind == "default":
        return None
    said: dict[str, Any] = {name: _number(rope, key, number) for name, (key, number) in _ROPE_KEYS.items()}
    if original_context is not None and kind in ("llama3", "yarn", "longrope"):
        said["original_context"] = original_context  # the outer one wins there, as in transformers
    truncate = rope.get("truncate")
    understood = {key for key, _ in _ROPE_KEYS.values()} | {"type", "rope_type", "rope_theta", "truncate"}
    said |= {"truncate": truncate if isinstance(truncate, bool) else None, "other": _others(rope, understood)}
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


def _n_mult(path: str | os.PathLike[str], n_embd: int, n_ff: int) -> int:
    """A ``multiple_of`` from which GGML and Meta compute this feed-forward width: a usual one, else the width itself.

    Raises:
        UnsupportedError: there is none (the width is below 8/3 of ``n_embd``, as in models that are not LLaMA).
    """
    n_mult = find_n_mult(n_embd, n_ff, (256, 128, 64, 32, n_ff))
    if n_mult is None:
        raise UnsupportedError(
            "the feed-forward width cannot be written as a multiple_of",
            path=path,
            field="intermediate_size",
            expected=f"at least {8 * n_embd // 3} (8/3 of hidden_size {n_embd})",
            found=n_ff,
            cause="the model is not an original LLaMA: params.json and GGML headers hold no feed-forward width",
        )
    return n_mult


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


def _refuse_grouped(path: str | os.PathLike[str], n_kv_head: Any, n_head: Any, field: str) -> None:
    if n_kv_head is not None and n_kv_head != n_head:
        raise UnsupportedError(
            "grouped-query attention",
            path=path,
            field=field,
            expected=f"{n_head}, one key and value head for each query head",
            found=n_kv_head,
            cause="this is a LLaMA 2 70B or a later model; these formats are those of the first LLaMA",
        )


def _unsupported(path: str | os.PathLike[str], field: str, found: Any) -> UnsupportedError:
    return UnsupportedError(
        "not an original LLaMA",
        path=path,
        field=field,
        found=found,
        cause="this is another model family; these formats are those of the first LLaMA",
        next_step="start from a LLaMA model, or use the tools of this one",
    )


def _checked(path: str | os.PathLike[str], params: ModelParams, names: tuple[str, str]) -> ModelParams:
    """The heads must divide the width into even parts, for the rotary embedding turns pairs."""
    if params.n_embd % params.n_head or params.n_rot % 2:
        raise ShapeError(
            f"{names[0]} does not divide into heads of an even size",
            path=path,
            field=names[1],
            expected=f"a divisor of {params.n_embd} that leaves an even head",
            found=params.n_head,
        )
    return params
