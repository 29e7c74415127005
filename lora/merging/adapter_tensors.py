"""The tensors of a PEFT LoRA adapter: pairs of thin matrices, and tensors that were saved whole.

PEFT's versions, and what people do with a state dict, spell the same tensors differently::

    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight            PEFT, as in Chinese-LLaMA-Alpaca
    base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight    a state dict saved by hand
    model.layers.0.self_attn.q_proj.lora_A.weight                             after conversion tools
    base_model.model.model.embed_tokens.lora_embedding_A                      LoRA on the embedding
    base_model.model.lm_head.base_layer.weight                                the base's own matrix, from PEFT 0.7 on
    base_model.model.model.embed_tokens.weight                                modules_to_save, saved by PEFT
    base_model.model.model.embed_tokens.modules_to_save.weight                the same again, in PEFT of 2026
    base_model.model.model.embed_tokens.modules_to_save.default.weight        modules_to_save, saved by hand
    base_model.model.model.embed_tokens.original_module.weight                what it was before: not read
    base_model.model.lm_head.0.weight                                         after prepare_model_for_int8_training

All of them are read, also behind the prefixes of torch.compile and of distributed training
(:func:`~ggmlpy.formats.tensor_names.unwrapped`).

A tensor that is saved whole (embeddings and output of a grown vocabulary) replaces the base's; a pair of the same
module is added to it. Whatever is in the file and would be ignored by this arithmetic is refused, never dropped.

Sources: peft 0.2.0, 0.3.0, 0.7.0 and 0.21.2 ``tuners/lora``, ``utils/save_and_load.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ggmlpy.files.errors import ShapeError
from ggmlpy.files.unpacked import shown
from ggmlpy.formats.tensor_names import is_derived, is_known, rename, unwrapped
from llama_ref.checkpoint import LazyTensor

from .adapter_config import CONFIG, AdapterConfig

__all__ = ["LoraPair", "Sorted", "sort_out"]

ROWS_COMPARED = 64  # of two copies of one matrix, spread over all of them


@dataclass(frozen=True)
class LoraPair:
    """The low-rank change of one matrix: ``scale * (b @ a)``, or its transpose if ``transposed``.

    ``b`` is [rows, r] and ``a`` [r, columns], in Hugging Face's order of rows.
    """

    name: str  # Meta name of the matrix
    a: LazyTensor
    b: LazyTensor
    scale: float
    transposed: bool = False

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix that it changes."""
        rows, columns = self.b.shape[0], self.a.shape[1]
        return (columns, rows) if self.transposed else (rows, columns)

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """float32 ``left`` [rows, r] and ``right`` [r, columns] whose product, scaled, is the change.

        A transposed change is ``a.T @ b.T``: the same products in the same order, so the same bits.
        """
        a, b = self.a.f32(), self.b.f32()
        return (a.T, b.T) if self.transposed else (b, a)


@dataclass
class Sorted:
    """What the tensors of an adapter are, by Meta name, and what is worth telling about them."""

    pairs: dict[str, LoraPair] = field(default_factory=dict)
    replaced: dict[str, LazyTensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


_KEY = re.compile(
    r"(?P<module>.+?)\.(?:"
    r"lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.(?P<adapter>\w+))?(?:\.weight)?"
    r"|modules_to_save(?:\.\w+)?\.weight(?P<trained>)"
    r"|base_layer\.weight(?P<base>)"
    r"|original_module\.weight(?P<original>)"
    r"|weight(?P<plain>)"
    r")"
)
_WHOLE = ("trained", "plain", "base")  # one module's whole tensors; the first that is there counts


def sort_out(path: Path, config: AdapterConfig, tensors: Mapping[str, LazyTensor], turned: bool = False) -> Sorted:
    """The pairs and the whole tensors of a weights file.

    Args:
        turned: whether the changes are to be added transposed.

    Raises:
        ShapeError: a tensor belongs to no LLaMA, lacks its partner, is empty, or contradicts the configuration.
    """
    sides: dict[tuple[str, bool], dict[str, LazyTensor]] = {}
    whole: dict[str, dict[str, LazyTensor]] = {}
    unknown = []
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(unwrapped(key))
        name = _meta_name(match["module"]) if match else None
        if is_derived(unwrapped(key)) or (match and match["original"] is not None):
            continue  # recomputed, or a copy of the base
        if match is None or name is None:
            unknown.append(key)
            continue
        _check_not_empty(path, key, tensor)
        on_embedding = bool(match["embedding"])
        taken = sides.setdefault((name, on_embedding), {}) if match["side"] else whole.setdefault(name, {})
        slot = match["side"] or next(kind for kind in _WHOLE if match[kind] is not None)
        if slot in taken:
            raise _bad_tensor(path, key, "the tensor is there twice", cause="a file with more than one adapter in it")
        taken[slot] = tensor
    _refuse_unknown(path, unknown)
    found = Sorted({n: _pair(path, config, n, turned != on, pair) for (n, on), pair in sides.items()})
    for name, copies in whole.items():
        found.replaced[name] = copies[next(kind for kind in _WHOLE if kind in copies)]
        found.notes += _differing_copies(path, name, copies)
    if not found.pairs and not found.replaced:
        raise _saved_empty(path, f"{len(tensors)} tensors, {path.stat().st_size:,} bytes")
    return found


def _differing_copies(path: Path, name: str, copies: Mapping[str, LazyTensor]) -> list[str]:
    """PEFT of 2026 saves a trained module under two names; they should be one."""
    trained, plain = copies.get("trained"), copies.get("plain")
    if trained is None or plain is None:
        return []
    same = trained.shape == plain.shape and all(
        np.array_equal(trained.rows(i, i + 1), plain.rows(i, i + 1), equal_nan=True)
        for i in range(0, trained.shape[0], max(1, trained.shape[0] // ROWS_COMPARED))
    )
    module = rename(name, "huggingface").removesuffix(".weight")
    return (
        []
        if same
        else [f"{shown(path)}: {module}.weight differs from {module}.modules_to_save.weight, which was taken"]
    )


def _meta_name(module: str) -> str | None:
    """``base_model.model.model.layers.0.self_attn.q_proj`` -> ``layers.0.attention.wq.weight``; None if no LLaMA's."""
    stem = re.sub(r"^(?:base_model\.)?(?:model\.)*|(?<=lm_head)\.0$", "", module)
    spellings = (f"{prefix}{stem}.weight" for prefix in ("", "model."))
    return next((rename(spelling, "meta") for spelling in spellings if is_known(spelling)), None)


def _pair(path: Path, config: AdapterConfig, name: str, transposed: bool, sides: Mapping[str, LazyTensor]) -> LoraPair:
    if len(sides) != 2:
        raise _bad_tensor(path, name, f"lora_{next(iter(sides))} without its partner", cause="the file is incomplete")
    a, b = sides["A"], sides["B"]
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise _bad_tensor(path, name, f"lora_A {list(a.shape)} and lora_B {list(b.shape)} do not fit together")
    module = rename(name, "huggingface").removesuffix(".weight")
    if a.shape[0] != config.rank_of(module):
        raise ShapeError(
            f"lora_A of {module} has another rank than {CONFIG} says",
            path=path,
            field=module,
            expected=f"r = {config.rank_of(module)} ({shown(config.path)})",
            found=f"r = {a.shape[0]}",
            cause=f"{CONFIG} belongs to another adapter",
            next_step="copy both files again from the same place",
        )
    return LoraPair(name, a, b, config.scale_of(module), transposed)


def _check_not_empty(path: Path, key: str, tensor: LazyTensor) -> None:
    if tensor.size == 0:
        raise _saved_empty(path, f"{key} has shape {list(tensor.shape)}")
    if tensor.dtype not in ("float16", "bfloat16", "float32", "float64"):
        raise _bad_tensor(path, key, f"holds {tensor.dtype}", cause="a quantized adapter, or no adapter")


def _saved_empty(path: Path, found: str) -> ShapeError:
    return ShapeError(
        "0 LoRA pairs: this file was saved empty",
        path=path,
        found=found,
        cause="a saving bug of early PEFT with DeepSpeed ZeRO-3 or a replaced state_dict: training ran, the tensors "
        "never reached the file",
        next_step="extract the adapter from the training checkpoint (pytorch_model.bin) or download it again",
    )


def _bad_tensor(path: Path, key: str, problem: str, cause: str | None = None) -> ShapeError:
    return ShapeError(f"{key}: {problem}", path=path, field=key, cause=cause, next_step="download the adapter again")


def _refuse_unknown(path: Path, keys: list[str]) -> None:
    if not keys:
        return
    shown = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
    raise ShapeError(
        f"{len(keys)} tensors cannot be applied to a LLaMA: {shown}",
        path=path,
        cause=_kind_of_unknown(keys),
        next_step="merge it with the PEFT version that made it, then start from the merged model",
    )


# A part of a key -> what it shows. The first that is in one of the keys is the cause.
_TRACES = {
    "lora_magnitude": "a DoRA adapter",
    "lora_bias": "an adapter that trained biases, which LLaMA does not have",
    "trainable_tokens": "an adapter that replaces single rows of the embedding (trainable_token_indices)",
    "ia3_": "an (IA)3 adapter",
    "hada_": "a LoHa adapter",
    "lokr_": "a LoKr adapter",
    "vera_": "a VeRA adapter",
    "oft_": "an OFT adapter",
    "boft_": "a BOFT adapter",
    "prompt_": "an adapter by prompt or prefix tuning",
    "quant_map": "the base was quantized (bitsandbytes) and saved into the adapter",
    "absmax": "the base was quantized (bitsandbytes) and saved into the adapter",
    "qweight": "the base was quantized (GPTQ, AWQ) and saved into the adapter",
}


def _kind_of_unknown(keys: list[str]) -> str:
    trace = next((what for part, what in _TRACES.items() if any(part in key for key in keys)), None)
    if trace:
        return trace
    if any(_belongs_to_llama(key) for key in keys):
        biases = any(key.endswith(".bias") for key in keys)
        return f"an adapter that {'trained biases, which LLaMA does not have' if biases else 'does more than LoRA'}"
    return "an adapter for another architecture"


def _belongs_to_llama(key: str) -> bool:
    """Whether some beginning of a key is a module of a LLaMA: only what stands behind it is unknown."""
    parts = unwrapped(key).split(".")
    return any(_meta_name(".".join(parts[:end])) is not None for end in range(1, len(parts) + 1))
