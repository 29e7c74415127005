"""LLaMA 3.1's rope scaling, as numbers in a configuration and as ``rope_freqs.weight`` in a GGUF file.

The tensor divides the frequency of each pair of a head: by 1 where a pair turns often within the original context, by
``factor`` where it turns hardly once, by something between where it is neither. GGUF has no other trace of the scaling,
so on the way back the numbers are sought that give the tensor.

Source: conversion of rope_freqs in convert_hf_to_gguf.py of llama.cpp (October 2026).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ggmlpy.formats.model_params import META_LLAMA3, ModelParams, RopeScaling
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.tensor_types import type_named

__all__ = ["ROPE_FREQS", "llama3_divisors", "llama3_scaling", "rope_freqs_of"]

ROPE_FREQS = "rope_freqs.weight"

F32 = npt.NDArray[np.float32]


def llama3_divisors(params: ModelParams) -> F32:
    """What divides each frequency: float32 [head_dim / 2]. All steps are those of 32-bit floats.

    >>> scaling = RopeScaling(type="llama3", factor=8.0, original_context=64)
    >>> llama3_divisors(ModelParams(n_embd=64, n_layer=1, n_head=4, rope_scaling=scaling)).round(2)
    array([1.  , 1.29, 7.67, 8.  , 8.  , 8.  , 8.  , 8.  ], dtype=float32)
    """
    said = _completed(params.rope_scaling)
    factor, low, high = said.factor or 8.0, said.low_freq_factor or 1.0, said.high_freq_factor or 4.0
    context, n = said.original_context or 8192, np.float32(params.head_dim)
    exponents = np.arange(0, params.head_dim, 2, dtype=np.float32) / n
    frequencies = np.float32(1) / np.power(np.float32(params.rope_freq_base), exponents)  # [head_dim / 2]
    wavelengths = np.float32(2 * math.pi) / frequencies
    with np.errstate(divide="ignore", invalid="ignore"):
        smooth = (np.float32(context) / wavelengths - np.float32(low)) / np.float32(high - low)
        between = np.float32(1) / ((np.float32(1) - smooth) / np.float32(factor) + smooth)
    stretched = np.where(wavelengths > context / low, np.float32(factor), between)
    return np.where(wavelengths < context / high, np.float32(1), stretched).astype(np.float32)


def rope_freqs_of(params: ModelParams) -> list[OutTensor]:
    """The tensor of a GGUF file that scales positions as LLaMA 3.1, where the model does."""
    if params.rope_scaling is None or params.rope_scaling.type != "llama3":
        return []
    divisors = llama3_divisors(params)
    return [OutTensor(ROPE_FREQS, type_named("f32", "gguf", 3), divisors.shape, lambda: [divisors])]


def llama3_scaling(params: ModelParams, divisors: F32) -> RopeScaling | None:
    """The scaling that gives these divisors to the bit; None if none of the usual numbers does."""
    return next((s for s in _candidates(divisors) if _gives(params, s, divisors)), None)


def _completed(scaling: RopeScaling | None) -> RopeScaling:
    """With what a configuration leaves out."""
    fields = ("factor", "original_context", "low_freq_factor", "high_freq_factor")
    said = {name: getattr(scaling, name) for name in fields if getattr(scaling, name, None) is not None}
    return replace(META_LLAMA3, **said)


def _candidates(divisors: F32) -> Iterator[RopeScaling]:
    """Scalings with powers of two for the context; the factor is the largest divisor."""
    factor = float(divisors.max(initial=1.0))
    for low, high in ((1.0, 4.0), (1.0, 2.0), (1.0, 8.0), (2.0, 4.0), (1.0, 32.0)):
        for context in (8192, *(1 << i for i in range(4, 21))):
            yield replace(
                META_LLAMA3, factor=factor, original_context=context, low_freq_factor=low, high_freq_factor=high
            )


def _gives(params: ModelParams, scaling: RopeScaling, divisors: F32) -> bool:
    return np.array_equal(llama3_divisors(replace(params, rope_scaling=scaling)), divisors)
