"""The hyper-parameters of a checkpoint: Meta's ``params.json`` and Hugging Face's ``config.json``.

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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggmlpy.files.errors import FormatError, MissingFileError, ShapeError, UnsupportedError, UsageError

__all__ = [
    "MODELS",
    "Params",
    "find_n_mult",
    "model_named",
    "params_of_huggingface",
    "params_of_meta",
    "read_config_json",
    "read_json",
    "read_params_json",
]

LARGEST_JSON = 1 << 24  # an honest config has a few hundred bytes, an index of 65B about 60 kB
LARGEST_SIZE = 1 << 20  # of n_embd, n_mult, n_head, n_layer: far above any model, far below an overflow


@dataclass(frozen=True)
class Params:
    """The shape of a LLaMA model.

    Attributes:
        n_embd: width of the residual stream (Meta ``dim``).
        n_mult: ``multiple_of``, from which the feed-forward width follows.
        n_head: attention heads.
        n_layer: transformer layers.
        norm_eps: added to the mean square in each norm.
        vocab_size: as the file has it; -1 leaves it to the tokenizer.

    >>> Params(4096, 256, 32, 32).n_ff
    11008
    """

    n_embd: int
    n_mult: int
    n_head: int
    n_layer: int
    norm_eps: float = 1e-6
    vocab_size: int = -1

    @property
    def n_ff(self) -> int:
        """Width of the feed-forward layer (``intermediate_size``)."""
        return (8 * self.n_embd // 3 + self.n_mult - 1) // self.n_mult * self.n_mult

    @property
    def n_rot(self) -> int:
        """Dimensions of one head."""
        return self.n_embd // self.n_head

    @property
    def model(self) -> str | None:
        """ "7B", "13B", "33B" or "65B" where the shape is one of the published ones."""
        shape = (self.n_embd, self.n_mult, self.n_head, self.n_layer)
        return next((name for name, p in MODELS.items() if (p.n_embd, p.n_mult, p.n_head, p.n_layer) == shape), None)

    @property
    def n_shards(self) -> int:
        """How many files Meta spread a model of this width over; 1 for an unpublished width."""
        return {5120: 2, 6656: 4, 8192: 8}.get(self.n_embd, 1)

    def to_json(self) -> str:
        """``params.json`` exactly as the original tools write it.

        >>> Params(4096, 256, 32, 32).to_json()
        '{"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-06, "vocab_size": -1}'
        """
        return json.dumps(
            {
                "dim": self.n_embd,
                "multiple_of": self.n_mult,
                "n_heads": self.n_head,
                "n_layers": self.n_layer,
                "norm_eps": self.norm_eps,
                "vocab_size": -1,
            }
        )

    def to_config(self, n_vocab: int, *, dtype: str = "float16", pad_token_id: int | None = 0) -> dict[str, Any]:
        """``config.json`` of the same model, as transformers 4.28.1 writes it."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_act": "silu",
            "hidden_size": self.n_embd,
            "initializer_range": 0.02,
            "intermediate_size": self.n_ff,
            "max_position_embeddings": 2048,
            "model_type": "llama",
            "num_attention_heads": self.n_head,
            "num_hidden_layers": self.n_layer,
            "pad_token_id": pad_token_id,
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": False,
            "torch_dtype": dtype,
            "transformers_version": "4.28.1",
            "use_cache": True,
            "vocab_size": n_vocab,
        }


# fmt: off
MODELS: dict[str, Params] = {
    #             n_embd n_mult n_head n_layer norm_eps
    "7B":  Params(4096,  256,   32,    32,     1e-6),
    "13B": Params(5120,  256,   40,    40,     1e-6),
    "33B": Params(6656,  256,   52,    60,     1e-6),
    "65B": Params(8192,  256,   64,    80,     1e-5),
}
# fmt: on


def find_n_mult(n_embd: int, n_ff: int) -> int:
    """A ``multiple_of`` from which GGML and Meta compute this feed-forward width: a usual one, else the width itself.

    Raises:
        UnsupportedError: there is none (the width is below 8/3 of ``n_embd``, as in models that are not LLaMA).

    >>> find_n_mult(4096, 11008), find_n_mult(64, 192), find_n_mult(64, 171)
    (256, 64, 171)
    """
    low = 8 * n_embd // 3
    for n_mult in (256, 128, 64, 32, n_ff) if low <= n_ff else ():
        if (low + n_mult - 1) // n_mult * n_mult == n_ff:
            return n_mult
    raise UnsupportedError(
        "the feed-forward width cannot be written as a multiple_of",
        field="intermediate_size",
        expected=f"at least {low} (8/3 of hidden_size {n_embd})",
        found=n_ff,
        cause="the model is not an original LLaMA: params.json and GGML headers hold no feed-forward width",
    )


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
        value = json.loads(path.read_text(encoding="utf-8"))
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


def read_params_json(path: str | os.PathLike[str]) -> Params:
    """Meta's ``params.json``; ``norm_eps`` and ``vocab_size`` may be absent (1e-6 and -1 then).

    Raises:
        MissingFileError, FormatError: not there, not JSON, a value missing or out of range.
        UnsupportedError: grouped-query attention or a feed-forward multiplier (LLaMA 2 70B).
    """
    return params_of_meta(read_json(path), path)


def params_of_meta(record: Mapping[str, Any], path: str | os.PathLike[str]) -> Params:
    """What ``params.json`` says, once it is read; ``path`` serves the messages. Raises as the reader does."""
    _refuse_grouped(path, record.get("n_kv_heads"), record.get("n_heads"), "n_kv_heads")
    if record.get("ffn_dim_multiplier") not in (None, 1, 1.0):
        raise _unsupported(path, "ffn_dim_multiplier", record["ffn_dim_multiplier"])
    return _checked(
        path,
        Params(
            n_embd=_size(path, record, "dim"),
            n_mult=_size(path, record, "multiple_of"),
            n_head=_size(path, record, "n_heads"),
            n_layer=_size(path, record, "n_layers"),
            norm_eps=_epsilon(path, record, "norm_eps"),
            vocab_size=_vocab_size(path, record),
        ),
        ("dim", "n_heads"),
    )


def read_config_json(path: str | os.PathLike[str]) -> Params:
    """Hugging Face's ``config.json`` of a LLaMA.

    Raises:
        MissingFileError, FormatError: not there, not JSON, a value missing or out of range.
        UnsupportedError: another architecture, grouped-query attention, another activation.
    """
    return params_of_huggingface(read_json(path), path)


def params_of_huggingface(record: Mapping[str, Any], path: str | os.PathLike[str]) -> Params:
    """What ``config.json`` says, once it is read; ``path`` serves the messages. Raises as the reader does."""
    model_type = record.get("model_type", "llama")
    if model_type != "llama":
        raise _unsupported(path, "model_type", model_type)
    _refuse_grouped(path, record.get("num_key_value_heads"), record.get("num_attention_heads"), "num_key_value_heads")
    if record.get("hidden_act", "silu") != "silu":
        raise _unsupported(path, "hidden_act", record["hidden_act"])
    n_embd = _size(path, record, "hidden_size")
    try:
        n_mult = find_n_mult(n_embd, _size(path, record, "intermediate_size"))
    except UnsupportedError as error:
        error.path = os.fspath(path)
        raise
    return _checked(
        path,
        Params(
            n_embd=n_embd,
            n_mult=n_mult,
            n_head=_size(path, record, "num_attention_heads"),
            n_layer=_size(path, record, "num_hidden_layers"),
            norm_eps=_epsilon(path, record, "rms_norm_eps"),
            vocab_size=_vocab_size(path, record),
        ),
        ("hidden_size", "num_attention_heads"),
    )


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


def _checked(path: str | os.PathLike[str], params: Params, names: tuple[str, str]) -> Params:
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


def model_named(name: str) -> Params:
    """The published model of that name ("7B", "13B", "33B" or "30B", "65B").

    Raises:
        UsageError: there is none.

    >>> model_named("30b").n_layer
    60
    """
    wanted = {"30B": "33B"}.get(name.upper(), name.upper())
    if wanted not in MODELS:
        raise UsageError(f"unknown model {name!r}; the published ones are {', '.join(MODELS)}")
    return MODELS[wanted]
