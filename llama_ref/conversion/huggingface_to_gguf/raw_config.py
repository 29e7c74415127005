"""Which configurations transformers refuses to read, and what is then left unsaid in the file.

The converter asks transformers for the configuration, whose defaults stand in for what ``config.json`` does not say;
only for the width of a head in Qwen 2 it has none. If transformers refuses the file, the converter takes
``config.json`` as it stands (``load_hparams``). A number that nobody says is not written. Seen of transformers 5.24 on
configurations of llama, mistral, qwen2 and qwen3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llama_ref.checkpoint.params import kind_of_scaling, rope_of

__all__ = ["unsaid_keys"]

# fmt: off
_REQUIRED = {  # type of rope scaling -> what has to stand beside it
    "linear": ("factor",), "dynamic": ("factor",), "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"), "longrope": ("short_factor", "long_factor"),
}
_STRICT: dict[type, tuple[str, ...]] = {  # what transformers holds to its type
    float: ("rms_norm_eps", "initializer_range"),
    bool:  ("attention_bias", "mlp_bias", "tie_word_embeddings", "use_cache"),
}
_DTYPES = {  # attributes of torch that are types of floats
    "float16", "half", "bfloat16", "float32", "float", "float64", "double", "float8_e4m3fn", "float8_e5m2",
}
_SAID_BY = {  # GGUF's key -> config.json's
    "{}.context_length":                   "max_position_embeddings",
    "{}.attention.head_count_kv":          "num_key_value_heads",
    "{}.attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "{}.attention.key_length":             "head_dim",
    "{}.attention.value_length":           "head_dim",
}
# fmt: on


def unsaid_keys(config: Mapping[str, Any]) -> Iterator[str]:
    """The keys of the model's numbers that the file does not have, for want of the number or of a default for it.

    >>> list(unsaid_keys({"model_type": "llama", "rope_theta": None}))
    ['{}.rope.freq_base']
    >>> list(unsaid_keys({"num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "head_dim": 8}))
    ['{}.context_length']
    """
    rope = rope_of(config)
    raw = _is_refused(config, rope)
    names = _SAID_BY.values() if raw else ["head_dim"] if config.get("model_type") == "qwen2" else []
    yield from (key for key, name in _SAID_BY.items() if name in names and config.get(name) is None)
    theta = rope.get("rope_theta", config.get("rope_theta"))
    if theta is None and (raw or "rope_theta" in rope or "rope_theta" in config):
        yield "{}.rope.freq_base"


def _is_refused(config: Mapping[str, Any], rope: Mapping[str, Any]) -> bool:
    """Whether transformers raises an error instead of giving the configuration."""
    if "model_type" not in config:
        return True
    dtype = config.get("dtype", config.get("torch_dtype"))
    if isinstance(dtype, str) and dtype not in _DTYPES:
        return True
    if any(key not in rope for key in _REQUIRED.get(kind_of_scaling(rope) or "", ())):
        return True
    return any(type(config[name]) is not kind for kind, names in _STRICT.items() for name in names if name in config)
