"""A PEFT adapter as the GGUF file that llama.cpp's ``convert_lora_to_gguf.py`` makes of it, byte for byte.

=============================  =======================================================================================
key                            value
=============================  =======================================================================================
``general.architecture``       the base model's
``general.type``               "adapter"
``adapter.type``               "lora"
``general.…``                  what the adapter's own README.md and directory say
``adapter.lora.alpha``         ``lora_alpha``
=============================  =======================================================================================

Whole norms come first, in f32. Then each pair: ``NAME.lora_a`` [r, columns] and ``NAME.lora_b`` [rows, r], the rows of
wq and wk in Meta's order in architecture llama; the embedding's A is transposed. There is no place for the scale:
llama.cpp multiplies by alpha / r of the tensor at hand, whatever rslora, rank_pattern and alpha_pattern say.

Source: convert_lora_to_gguf.py and gguf-py of llama.cpp (October 2026, ggml 0.25.3).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ggmlpy.files.errors import UnsupportedError, UsageError
from ggmlpy.formats.bfloat16 import bfloat16_of_converter
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.gguf_writer import write_gguf
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.tensor_names import gguf_name
from ggmlpy.formats.tensor_types import TensorType, type_named
from llama_ref.checkpoint import LazyTensor, in_layout
from llama_ref.checkpoint.folder import Folder
from llama_ref.checkpoint.params import read_config_json
from llama_ref.conversion.huggingface_to_gguf.metadata import ARCHITECTURES, is_written
from llama_ref.conversion.huggingface_to_gguf.model_card import general_metadata
from lora.merging.adapter import Adapter, LoraPair

__all__ = ["OUTTYPES", "write_gguf_adapter"]

OUTTYPES = ("f32", "f16", "bf16", "q8_0", "auto")
QUANTIZATION_VERSION = 2


def write_gguf_adapter(
    adapter: Adapter,
    base: str | os.PathLike[str],
    outfile: str | os.PathLike[str],
    *,
    outtype: str = "f32",
    progress: Callable[[int], object] | None = None,
) -> list[str]:
    """Write an adapter as GGUF; what the file can't say.

    Args:
        base: the Hugging Face folder of the model that it belongs to: its config.json is enough.
        outtype: f32, f16, bf16, q8_0, or auto: that of the adapter's first 16-bit matrix, else f16.

    Raises:
        UsageError: an unknown type.
        UnsupportedError: the adapter replaces whole matrices.
        FormatError: the base's config.json is missing or not a LLaMA's.
    """
    if outtype not in OUTTYPES:
        raise UsageError(f"unknown outtype {outtype!r}: choose {', '.join(OUTTYPES)}")
    _refuse_whole(adapter)
    params = read_config_json(Path(base) / "config.json")
    tensors = [*_norms(adapter), *_halves(adapter, params, _chosen(adapter, outtype))]
    keys = _metadata(adapter, params, -sum(_full_size(pair) for pair in adapter.pairs.values()) - _norm_size(adapter))
    write_gguf(outfile, keys, tensors, progress)
    return list(_losses(adapter))


def _refuse_whole(adapter: Adapter) -> None:
    whole = [name for name, tensor in adapter.replaced.items() if len(tensor.shape) > 1]
    if whole:
        raise UnsupportedError(
            "an adapter with whole matrices can't be written as GGUF",
            path=adapter.weights,
            found=", ".join(whole),
            cause="modules_to_save, as for a grown vocabulary; llama.cpp's converter refuses it, too",
            next_step="`merge` it into its base, and convert the result",
        )


def _metadata(adapter: Adapter, params: ModelParams, total: int) -> dict[str, Value]:
    general = general_metadata(Folder.of(adapter.config.path.parent), total)
    return {
        "general.architecture": Value("string", ARCHITECTURES[params.architecture].encode()),
        "general.type": Value("string", b"adapter"),
        "adapter.type": Value("string", b"lora"),
        **{key: value for key, value in general.items() if is_written(value)},
        "adapter.lora.alpha": Value("f32", float(adapter.config.alpha)),
        "general.quantization_version": Value("u32", QUANTIZATION_VERSION),
    }


def _full_size(pair: LoraPair) -> int:
    """Numbers of the matrix that a pair changes; the converter takes the rank for an embedding's."""
    return pair.b.shape[0] * (pair.rank if pair.transposed else pair.a.shape[1])


def _norm_size(adapter: Adapter) -> int:
    return sum(tensor.shape[0] for tensor in adapter.replaced.values())


def _chosen(adapter: Adapter, outtype: str) -> str:
    if outtype != "auto":
        return outtype
    kinds = {"bfloat16": "bf16", "float16": "f16"}
    halves = (half for pair in adapter.pairs.values() for half in (pair.a, pair.b))
    return next((kinds[half.dtype] for half in halves if half.dtype in kinds), "f16")


def _norms(adapter: Adapter) -> Iterator[OutTensor]:
    for name, tensor in adapter.replaced.items():
        yield _out(gguf_name(name), tensor.f32, tensor.shape, "f32")


def _halves(adapter: Adapter, params: ModelParams, outtype: str) -> Iterator[OutTensor]:
    """A and B of each module, in the order in which the file has the first of the two."""
    for name, pair in adapter.pairs.items():
        a, b = pair.a, pair.b
        if ARCHITECTURES[params.architecture] == "llama":
            b = in_layout(b.with_(name=name, layout="huggingface"), "meta", params)
        shape = a.shape[::-1] if pair.transposed else a.shape
        yield _out(f"{gguf_name(name)}.lora_a", _turned(a) if pair.transposed else a.f32, shape, outtype)
        yield _out(f"{gguf_name(name)}.lora_b", b.f32, b.shape, outtype)


def _turned(tensor: LazyTensor) -> Callable[[], np.ndarray]:
    return lambda: tensor.f32().T


def _out(name: str, values: Callable[[], np.ndarray], shape: tuple[int, ...], outtype: str) -> OutTensor:
    kind = type_named(outtype, "gguf", 3)
    if shape[-1] % kind.blck_size:
        kind = type_named("f16", "gguf", 3)
    return OutTensor(name, kind, shape, lambda: [_stored(values(), kind)])


def _stored(values: np.ndarray, kind: TensorType) -> np.ndarray:
    """Numbers as a file of this type has them."""
    values = np.ascontiguousarray(values, np.float32)
    if kind.name == "q8_0":
        from ggmlpy.quantizers.rows import quantize_rows  # brings numba

        return quantize_rows(values, "q8_0", "2023-08-21")
    if kind.name == "bf16":
        return bfloat16_of_converter(values)
    with np.errstate(over="ignore"):
        return values.astype(kind.block)


def _losses(adapter: Adapter) -> Iterator[str]:
    """What llama.cpp will compute otherwise than PEFT."""
    others = [name for name, pair in adapter.pairs.items() if pair.scale != adapter.config.alpha / pair.rank]
    if others:
        first = adapter.pairs[others[0]]
        yield (
            f"a GGUF adapter has one alpha: llama.cpp scales {others[0]} by {adapter.config.alpha / first.rank:g} "
            f"(alpha / r), PEFT by {first.scale:g} (use_rslora, rank_pattern or alpha_pattern); {len(others)} of "
            f"{len(adapter.pairs)} pairs differ"
        )
    if adapter.replaced:
        yield f"llama.cpp ignores the norms in an adapter: {', '.join(adapter.replaced)}"
