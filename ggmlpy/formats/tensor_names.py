"""The tensors of a LLaMA model: one row each, with its three spellings, shape, shard axis and rotary layout.

Everything that has to know a tensor's name asks this table: the checkpoint readers, the converters, the merge. Inside
the program tensors go by their Meta names. :data:`TABLE` has the tensors of every LLaMA, :data:`OPTIONAL` those that
only some models have: the biases of a matrix, which follow from the row of that matrix, and the norms of Qwen 3.

``shard_axis`` says along which axis Meta's model-parallel shards cut the tensor (None: a whole copy in every shard).
``rotary`` marks the two projections (with what belongs to their rows) that Hugging Face stores in another order. Meta
(and GGML) rotate the pair ``(2i, 2i+1)`` of a head, Hugging Face the pair ``(i, i + d/2)``; the rows are permuted so
that both compute the same.

Sources: convert_llama_weights_to_hf.py of transformers 4.28.1, merge_llama_with_chinese_lora.py of
Chinese-LLaMA-Alpaca v1.1, convert-pth-to-ggml.py (352589927) and convert.py (3e5aa8a1c) of llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from ggmlpy.files.errors import ShapeError, UsageError

from .model_params import ModelParams

__all__ = [
    "OPTIONAL",
    "TABLE",
    "Spelling",
    "TensorName",
    "expected_shapes",
    "find",
    "ggml_names",
    "gguf_name",
    "is_derived",
    "is_known",
    "meta_name",
    "meta_names",
    "names_of",
    "optional_shapes",
    "original_names",
    "plain_name",
    "rename",
    "shard_axis",
    "spelling_of",
    "split_axis",
    "unwrapped",
]

Spelling = Literal["meta", "huggingface", "gguf"]


@dataclass(frozen=True)
class TensorName:
    """One row of :data:`TABLE`; ``{}`` in a spelling stands for the layer's number."""

    meta: str
    huggingface: str
    gguf: str
    shape: tuple[str, ...]
    """Its dimensions, rows first, as attributes of :class:`~ggmlpy.formats.model_params.ModelParams`."""
    shard_axis: int | None
    rotary: bool = False
    present: str = ""
    """Which attribute of the model's parameters says that it has this tensor; empty: every model has it."""

    @property
    def per_layer(self) -> bool:
        return "{}" in self.meta


def _row(meta: str, huggingface: str, gguf: str, shape: str, axis: int | None, rotary: bool = False) -> TensorName:
    """A row of the table from the parts of its spellings that differ."""
    prefixes = ("layers.{}.", "model.layers.{}.", "blk.{}.") if meta in _IN_LAYERS else ("", "", "")
    spellings = [prefix + stem + ".weight" for prefix, stem in zip(prefixes, (meta, huggingface, gguf))]
    return TensorName(spellings[0], spellings[1], spellings[2], tuple(shape.split()), axis, rotary)


_IN_LAYERS = {
    *("attention.wq", "attention.wk", "attention.wv", "attention.wo", "attention_norm"),
    *("feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "ffn_norm"),
}

# The order is that of Hugging Face's state dict and so of the dict that the merge script saves: w1, w2, w3, then the
# norms. Names in layers get layers.{}., model.layers.{}. and blk.{}. in front; all get .weight behind.
# fmt: off
TABLE: tuple[TensorName, ...] = (
    #    Meta               Hugging Face                GGUF           rows, columns    axis  rotary
    _row("tok_embeddings",  "model.embed_tokens",       "token_embd",  "n_vocab n_embd", 1),
    _row("attention.wq",    "self_attn.q_proj",         "attn_q",      "n_q n_embd",     0,   True),
    _row("attention.wk",    "self_attn.k_proj",         "attn_k",      "n_kv n_embd",    0,   True),
    _row("attention.wv",    "self_attn.v_proj",         "attn_v",      "n_kv n_embd",    0),
    _row("attention.wo",    "self_attn.o_proj",         "attn_output", "n_embd n_q",     1),
    _row("feed_forward.w1", "mlp.gate_proj",            "ffn_gate",    "n_ff n_embd",    0),
    _row("feed_forward.w2", "mlp.down_proj",            "ffn_down",    "n_embd n_ff",    1),
    _row("feed_forward.w3", "mlp.up_proj",              "ffn_up",      "n_ff n_embd",    0),
    _row("attention_norm",  "input_layernorm",          "attn_norm",   "n_embd",         None),
    _row("ffn_norm",        "post_attention_layernorm", "ffn_norm",    "n_embd",         None),
    _row("norm",            "model.norm",               "output_norm", "n_embd",         None),
    _row("output",          "lm_head",                  "output",      "n_vocab n_embd", 0),
)
# fmt: on

_BIASED = {  # the matrices that may have a bias, and which attribute of the parameters says that they do
    **dict.fromkeys(("attention.wq", "attention.wk", "attention.wv"), "attention_bias"),
    "attention.wo": "wo_bias",
    **dict.fromkeys(("feed_forward.w1", "feed_forward.w2", "feed_forward.w3"), "mlp_bias"),
}


def _bias(row: TensorName, present: str) -> TensorName:
    """The row of a matrix's bias: cut and permuted as the rows of the matrix are."""
    meta, huggingface, gguf = (name.removesuffix("weight") + "bias" for name in (row.meta, row.huggingface, row.gguf))
    axis = 0 if row.shard_axis == 0 else None
    return TensorName(meta, huggingface, gguf, row.shape[:1], axis, row.rotary, present)


def _head_norm(which: str) -> TensorName:
    """Qwen 3's norm over each head of queries or keys."""
    meta, huggingface = f"layers.{{}}.attention.{which}_norm.weight", f"model.layers.{{}}.self_attn.{which}_norm.weight"
    return TensorName(meta, huggingface, f"blk.{{}}.attn_{which}_norm.weight", ("head_dim",), None, True, "qk_norm")


OPTIONAL: tuple[TensorName, ...] = (
    *(_bias(row, _BIASED[stem]) for row in TABLE if (stem := row.meta[10:].removesuffix(".weight")) in _BIASED),
    _head_norm("q"),
    _head_norm("k"),
)

_GGML_LAYER_ORDER = (
    "layers.{}.attention.wq.weight",
    "layers.{}.attention.wk.weight",
    "layers.{}.attention.wv.weight",
    "layers.{}.attention.wo.weight",
    "layers.{}.attention_norm.weight",
    "layers.{}.feed_forward.w1.weight",
    "layers.{}.feed_forward.w2.weight",
    "layers.{}.feed_forward.w3.weight",
    "layers.{}.ffn_norm.weight",
)

_LAYER = re.compile(r"(?:(?<=^layers\.)|(?<=^model\.layers\.)|(?<=^blk\.))(\d{1,6})(?=\.)")
_DERIVED = re.compile(
    r"(^rope\.freqs$|\.attention\.(masked_)?bias$|\.inner_attention\.rope\.freqs$|rotary_emb\.inv_freq$|^rope_freqs\.weight$)"
)
_BY_SPELLING: dict[str, tuple[TensorName, Spelling]] = {
    **{row.gguf: (row, "gguf") for row in (*TABLE, *OPTIONAL)},
    **{row.huggingface: (row, "huggingface") for row in (*TABLE, *OPTIONAL)},
    **{row.meta: (row, "meta") for row in (*TABLE, *OPTIONAL)},  # last: "output.weight" is spelt alike in Meta and GGUF
}


def _lookup(name: str) -> tuple[TensorName, Spelling, int | None] | None:
    match = _LAYER.search(name)
    layer = int(match[1]) if match else None
    pattern = name[: match.start()] + "{}" + name[match.end() :] if match else name
    found = _BY_SPELLING.get(pattern)
    if found is None or found[0].per_layer != (layer is not None) or (match and match[1] != str(layer)):
        return None
    return found[0], found[1], layer


def _known(name: str) -> tuple[TensorName, Spelling, int | None]:
    found = _lookup(name)
    if found is None:
        raise ShapeError(
            f"unknown tensor {name!r}",
            field=name,
            cause="the model is not a LLaMA, or the file is an adapter or a quantized (GPTQ) checkpoint",
            next_step="`identify FILE`",
        )
    return found


def find(name: str) -> tuple[TensorName, int | None]:
    """The table's row for a name in any spelling, and the number of its layer.

    Raises:
        ShapeError: no LLaMA model has a tensor of that name.

    >>> row, layer = find("model.layers.3.self_attn.q_proj.weight")
    >>> row.meta, row.shard_axis, row.rotary, layer
    ('layers.{}.attention.wq.weight', 0, True, 3)
    """
    row, _, layer = _known(name)
    return row, layer


def is_known(name: str) -> bool:
    """Whether the table has this name in any spelling."""
    return _lookup(name) is not None


# What training tools put around a module, and so into the names of its tensors.
_WRAPPERS = {
    "_orig_mod": "torch.compile",
    "module": "DistributedDataParallel, DeepSpeed",
    "_fsdp_wrapped_module": "FullyShardedDataParallel",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_fpw_module": "FullyShardedDataParallel of torch 1.11",
    "_forward_module": "Lightning",
}


def unwrapped(name: str) -> str:
    """A tensor's name without the wrappers of ``torch.compile`` and of distributed training.

    >>> unwrapped("module._orig_mod.model.layers.0._fsdp_wrapped_module.mlp.up_proj.weight")
    'model.layers.0.mlp.up_proj.weight'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def plain_name(name: str) -> str:
    """A tensor's name without wrappers, and with the prefix that a model without a head (``LlamaModel``) leaves out.

    >>> plain_name("layers.0.mlp.up_proj.weight"), plain_name("layers.0.attention.wq.weight")
    ('model.layers.0.mlp.up_proj.weight', 'layers.0.attention.wq.weight')
    """
    bare = unwrapped(name)
    return f"model.{bare}" if not is_known(bare) and is_known(f"model.{bare}") else bare


def is_derived(name: str) -> bool:
    """Whether a tensor is recomputed rather than learnt: the rotary frequencies, which every converter drops.

    >>> is_derived("rope.freqs"), is_derived("model.layers.0.self_attn.rotary_emb.inv_freq"), is_derived("norm.weight")
    (True, True, False)
    """
    return _DERIVED.search(name) is not None


def spelling_of(name: str) -> Spelling:
    """Which of the three spellings a name is in ("output.weight", common to two of them, counts as Meta's)."""
    return _known(name)[1]


def rename(name: str, spelling: Spelling) -> str:
    """The same tensor's name in another spelling.

    >>> rename("layers.0.feed_forward.w2.weight", "huggingface")
    'model.layers.0.mlp.down_proj.weight'
    >>> rename("lm_head.weight", "meta")
    'output.weight'
    """
    row, layer = find(name)
    if spelling not in ("meta", "huggingface", "gguf"):
        raise UsageError(f"unknown spelling {spelling!r}: choose meta, huggingface or gguf")
    pattern: str = getattr(row, spelling)
    return pattern if layer is None else pattern.format(layer)


def gguf_name(meta: str) -> str:
    """GGUF's spelling of a Meta name; a name that is not LLaMA's stays as it is.

    >>> gguf_name("layers.3.attention.wq.weight"), gguf_name("rope_freqs.weight")
    ('blk.3.attn_q.weight', 'rope_freqs.weight')
    """
    found = _lookup(meta)
    return rename(meta, "gguf") if found and found[1] == "meta" else meta


def meta_name(gguf: str) -> str:
    """Meta's spelling of a GGUF name; the inverse of :func:`gguf_name`.

    >>> meta_name("token_embd.weight"), meta_name("rope_freqs.weight")
    ('tok_embeddings.weight', 'rope_freqs.weight')
    """
    found = _lookup(gguf)
    return rename(gguf, "meta") if found and found[1] == "gguf" else gguf


def shard_axis(name: str) -> int | None:
    """Along which axis Meta's shards cut this tensor; None for the norms, which every shard holds whole.

    Raises:
        ShapeError: no LLaMA model has a tensor of that name.
    """
    return find(name)[0].shard_axis


def split_axis(name: str, n_dims: int) -> int | None:
    """The axis along which the parts of a GGML model split a tensor of any name; None if each part holds it whole.

    The parts are cut as Meta's shards are; a matrix that no LLaMA model has is cut by rows.

    Source: llama_model_load at llama.cpp ed3c680bc.

    >>> split_axis("layers.0.attention.wo.weight", 2), split_axis("output.weight", 2), split_axis("norm.weight", 1)
    (1, 0, None)
    """
    if n_dims == 1:
        return None
    found = _lookup(name)
    return (found[0].shard_axis if found else 0) or 0


def meta_names(n_layer: int) -> list[str]:
    """All Meta names in the order of the merge script's saved dict, which is Hugging Face's too.

    >>> meta_names(1)[5:8]
    ['layers.0.feed_forward.w1.weight', 'layers.0.feed_forward.w2.weight', 'layers.0.feed_forward.w3.weight']
    """
    return list(_expand([row.meta for row in TABLE], n_layer))


def original_names(n_layer: int) -> list[str]:
    """All Meta names in the order of the files that Meta published.

    >>> original_names(1)[:4], original_names(1)[-1]
    (['tok_embeddings.weight', 'norm.weight', 'output.weight', 'layers.0.attention.wq.weight'],
     'layers.0.ffn_norm.weight')
    """
    in_layers = [row.meta for row in TABLE if row.per_layer]
    return list(_expand(["tok_embeddings.weight", "norm.weight", "output.weight", *in_layers], n_layer))


def optional_shapes(params: ModelParams) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that a model may have or not, by Meta name: biases, and norms of heads where it has them.

    >>> sorted(optional_shapes(ModelParams(n_embd=8, n_layer=1, n_head=2)))[:2]
    ['layers.0.attention.wk.bias', 'layers.0.attention.wo.bias']
    """
    rows = [row.meta for row in OPTIONAL if row.present != "qk_norm" or params.qk_norm]
    return expected_shapes(params, _expand(rows, params.n_layer))


def ggml_names(n_layer: int) -> list[str]:
    """All Meta names in the order that llama.cpp's convert.py (from 2023-04) writes.

    >>> ggml_names(1)[:4]
    ['tok_embeddings.weight', 'norm.weight', 'output.weight', 'layers.0.attention.wq.weight']
    """
    return list(_expand(["tok_embeddings.weight", "norm.weight", "output.weight", *_GGML_LAYER_ORDER], n_layer))


def names_of(params: ModelParams) -> list[str]:
    """The Meta names of all tensors of a model, those that only some models have behind the others.

    >>> biased = ModelParams(n_embd=4, n_layer=1, n_head=2, n_ff=16, mlp_bias=True)
    >>> names_of(biased)[-3:]
    ['layers.0.feed_forward.w1.bias', 'layers.0.feed_forward.w2.bias', 'layers.0.feed_forward.w3.bias']
    """
    optional = [row.meta for row in OPTIONAL if getattr(params, row.present)]
    return meta_names(params.n_layer) + [name.format(layer) for layer in range(params.n_layer) for name in optional]


def _expand(patterns: list[str], n_layer: int) -> Iterator[str]:
    first = next(i for i, pattern in enumerate(patterns) if "{}" in pattern)
    last = max(i for i, pattern in enumerate(patterns) if "{}" in pattern)
    yield from patterns[:first]
    for layer in range(n_layer):
        for pattern in patterns[first : last + 1]:
            yield pattern.format(layer)
    yield from patterns[last + 1 :]


def expected_shapes(params: ModelParams, names: Iterable[str] | None = None) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a model, [rows, columns] or [n], by Meta name.

    Args:
        names: the tensors wanted, in the order wanted; by default all, in the order of the files that Meta published.

    >>> small = ModelParams(n_vocab=8, n_embd=4, n_layer=1, n_head=2, n_head_kv=1, n_ff=16)
    >>> shapes = expected_shapes(small)
    >>> shapes["layers.0.feed_forward.w1.weight"], shapes["layers.0.attention.wk.weight"]
    ((16, 4), (2, 4))
    """
    wanted = original_names(params.n_layer) if names is None else names
    return {name: tuple(getattr(params, symbol) for symbol in find(name)[0].shape) for name in wanted}
