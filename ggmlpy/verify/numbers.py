"""The one comparison of two descriptions of a model: which numbers differ, and does a reader compute otherwise?

The descriptions are :class:`~ggmlpy.formats.model_params.ModelParams`, whatever container they come from, so that a
``config.json`` can be held against a GGUF file. What a source leaves out means what a LLaMA has. What nothing here
understands (:attr:`~ggmlpy.formats.model_params.ModelParams.other`) is compared by its key: the keys of
:data:`HARMLESS` say nothing that a reader computes with, a value that means nothing is the same as none, and any other
key counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ggmlpy.formats.carrying import is_usual
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.model_params import FROM_TOKENIZER, ModelParams, RopeScaling

from .terms import Terms

__all__ = ["Difference", "params_differences"]


@dataclass(frozen=True)
class Difference:
    """One number, key or piece that differs.

    Attributes:
        words: what differs, with both values.
        changes_results: whether a program that reads it computes something else.
    """

    words: str
    changes_results: bool = True


def _f32(value: float) -> float:
    """As GGUF stores it, so that 1e-6 in JSON is 1e-6 in GGUF."""
    return float(np.float32(value))


def _id(name: str, usual: int) -> Callable[[ModelParams], Any]:
    return lambda p: usual if getattr(p, name) is None else getattr(p, name)


def _scaling(p: ModelParams) -> Any:
    scaling = p.rope_scaling
    if scaling is None or scaling.type in ("none", "default"):
        return None
    said = [
        (name, getattr(scaling, name)) for name in RopeScaling.__dataclass_fields__ if name not in ("type", "other")
    ]
    numbers = [(name, _f32(value)) for name, value in said if value is not None]
    return " ".join([scaling.type, *(f"{name} {value:g}" for name, value in numbers)])


_SAME_AS = {"mistral": "llama"}  # GGUF's name of what computes the same


def _told_padding(pad_id: int | None) -> int | None:
    return None if pad_id in (0, -1) else pad_id  # configurations of 2023 say 0 or -1 for none


# fmt: off
NUMBERS: dict[str, tuple[Callable[[ModelParams], Any], bool]] = {  # words: its value, whether results depend on it
    "architecture":   (lambda p: _SAME_AS.get(p.architecture, p.architecture), True),
    "n_vocab":        (lambda p: p.n_vocab,                  True),
    "n_embd":         (lambda p: p.n_embd,                   True),
    "n_mult":         (lambda p: p.n_mult,                   False),
    "n_head":         (lambda p: p.n_head,                   True),
    "n_layer":        (lambda p: p.n_layer,                  True),
    "n_rot":          (lambda p: p.n_rot,                    True),
    "ftype":          (lambda p: p.ftype,                    False),
    "n_head_kv":      (lambda p: p.n_head_kv,                True),
    "head_dim":       (lambda p: p.head_dim,                 True),
    "n_ff":           (lambda p: p.n_ff,                     True),
    "norm_eps":       (lambda p: _f32(p.eps),                True),
    "rope_theta":     (lambda p: _f32(p.rope_freq_base),     True),
    "rope_scaling":   (_scaling,                             True),
    "sliding_window": (lambda p: p.sliding_window,           True),
    "bos_id":         (_id("bos_id", 1),                     True),
    "eos_ids":        (lambda p: list(p.eos_ids) or [2],     True),
    "unk_id":         (_id("unk_id", 0),                     True),
    "pad_id":         (lambda p: _told_padding(p.pad_id),    False),
    "n_ctx_train":    (lambda p: p.context_length,           False),
}
# fmt: on

HARMLESS = re.compile(
    r"general\.(?!alignment|architecture).*|split\..*|quantize\..*|ggmlpy\..*|.*vocab_size"  # GGUF
    r"|_.*|architectures|auto_map|transformers_version|use_cache|return_dict.*|output_.*|torch.*|problem_type"
    r"|initializer_range|.*dropout.*|pretraining_tp|id2label|label2id|chunk_size_feed_forward|tokenizer_class"
    r"|max_sequence_length|max_length|do_sample|temperature|top_[kp]|model_type|dtype|ffn_hidden_size|gradient_.*"
)
_MEANS_NOTHING: tuple[Any, ...] = (None, False, 0, "", b"", [], {})
_USUAL: dict[str, Any] = {  # what a reader takes where the key is missing
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.add_space_prefix": True,
    "tokenizer.ggml.pre": b"default",
    "general.alignment": 32,
}


def params_differences(
    a: ModelParams, b: ModelParams, terms: Terms, skip: Collection[str] = ()
) -> Iterator[Difference]:
    """How two descriptions of a model differ.

    Args:
        skip: what one of the two containers cannot state (:func:`~ggmlpy.formats.carrying.unstated`); "other" leaves
            out all further keys.
    """
    for name, (value, counts) in NUMBERS.items():
        ours, theirs = value(a), value(b)
        if name not in skip and ours != theirs and not _follows(name, a, b):
            yield Difference(terms.header.format(key=name, a=_shown(ours), b=_shown(theirs)), counts)
    if "other" not in skip:
        own = {"head_dim": a.head_dim, "llama.attention.value_length": a.head_dim, "llama.vocab_size": a.n_vocab}
        yield from key_differences(a.other, b.other, terms, own)


def _follows(name: str, a: ModelParams, b: ModelParams) -> bool:
    """Whether a difference follows from another that is told, or from a size that the tokenizer decides."""
    if name == "n_vocab":
        return FROM_TOKENIZER in (a.n_vocab, b.n_vocab)
    return name in ("n_head_kv", "head_dim", "n_ff") and is_usual(a, name) and is_usual(b, name)


def key_differences(
    a: Mapping[str, Any], b: Mapping[str, Any], terms: Terms, usual: Mapping[str, Any] | None = None
) -> Iterator[Difference]:
    """How keys that nothing here understands differ; harmless ones are told in one phrase.

    Args:
        usual: what a reader takes for keys that are missing.
    """
    usual, harmless = {**_USUAL, **(usual or {})}, []
    usual |= {key: True for key in (*a, *b) if key.endswith(".attention.causal")}
    for key in [*a, *(key for key in b if key not in a)]:
        ours, theirs = (_plain(side.get(key, usual.get(key))) for side in (a, b))
        if _same(ours, theirs):
            continue
        if HARMLESS.fullmatch(key) or (key.endswith("chat_template") and ours is None):
            harmless.append(key)
        else:
            yield Difference(terms.header.format(key=key, a=_shown(ours), b=_shown(theirs)))
    if harmless and a:  # of a source of another kind they say nothing
        more = f" and {len(harmless) - 3} more" if len(harmless) > 3 else ""
        yield Difference(f"keys on which no result depends: {', '.join(harmless[:3])}{more}", False)


def _plain(value: Any) -> Any:
    inner = value.value if isinstance(value, Value) else value
    return inner.tolist() if isinstance(inner, np.ndarray) else inner


def _same(a: Any, b: Any) -> bool:
    """Whether two values mean the same; NaN is as good as NaN."""
    return bool(a == b) or repr(a) == repr(b) or (_nothing(a) and _nothing(b))


def _nothing(value: Any) -> bool:
    return any(value == nothing for nothing in _MEANS_NOTHING)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
