"""Rotary position embedding: by what angle each pair of a head turns, position by position.

The pair ``i`` of a head of ``d`` dimensions turns by ``position * θ_i``, with θ_i = base^(-2i/d) (Su et al. 2021). It
is the dimensions 2i and 2i+1 in a LLaMA, whose GGUF and GGML files have Meta's order of rows, and i and i + d/2 in the
other architectures, whose rows llama.cpp leaves in the order of GPT-NeoX and Hugging Face.
Models for longer contexts stretch that:

=========  ============================================================  ==========================
scaling    frequency                                                     factor on cosine and sine
=========  ============================================================  ==========================
none       θ_i                                                           1
linear     θ_i / factor                                                  1
yarn       θ_i / factor where a pair turns less than once within the     0.1 · ln(factor) + 1
           original context, θ_i where it turns more than 32 times, and
           a mixture of both between
=========  ============================================================  ==========================

LLaMA 3.1's scaling stands in GGUF as a tensor, ``rope_freqs.weight`` [d/2], that divides the frequencies. Everything
here follows llama.cpp, which reads GGUF so: of YaRN it takes the factor and the original context, and always 32 and 1
for the two bounds and the factor above on cosine and sine, whatever ``rope.scaling.yarn_*`` says (transformers honors
those); ``rope.scaling.attn_factor`` is one more factor. Scalings that llama.cpp does not know in GGUF (dynamic, llama3
by name, longrope) are refused.

Sources: rope_yarn in ggml's ops.cpp and load_hparams in llama-model.cpp at c392e5094; Peng et al. 2023 (YaRN).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ggmlpy.files.errors import FormatError, ShapeError, UnsupportedError

from .elementary import cosines_and_sines, logarithm, powers

if TYPE_CHECKING:
    from ggmlpy.formats.model_file import ModelFile
    from ggmlpy.formats.model_params import ModelParams, RopeScaling

__all__ = ["ROPE_FREQS", "Rotation", "rotation_of"]

ROPE_FREQS = "rope_freqs.weight"
FAST_TURNS, SLOW_TURNS = 32.0, 1.0  # within the original context, where YaRN's interpolation ends and begins
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rotation:
    """How the pairs of a head turn.

    Attributes:
        frequencies: float64 [head_dim / 2], radians per position.
        magnitude: factor on cosine and sine.
        apart: dimensions between the two of a pair: 1, or half of a head.
    """

    frequencies: F64
    magnitude: float = 1.0
    apart: int = 1

    def pairs(self, x: F32) -> tuple[F32, F32]:
        """Views of the first and of the second of each pair: [..., head_dim] -> twice [..., head_dim / 2]."""
        if self.apart == 1:
            return x[..., 0::2], x[..., 1::2]
        return x[..., : self.apart], x[..., self.apart :]

    def table(self, first: int, last: int) -> F32:
        """Cosine and sine for every position from first to last and every pair: [last - first, head_dim / 2, 2]."""
        angle = np.arange(first, last)[:, None] * self.frequencies  # [last - first, head_dim / 2]
        return (np.stack(cosines_and_sines(angle), axis=-1) * self.magnitude).astype(np.float32)


def rotation_of(file: ModelFile, *, as_said: bool = False) -> Rotation:
    """The rotation of a model file's heads.

    Args:
        as_said: honor YaRN's bounds and factor on cosine and sine where the file says them, as transformers does with
            the directory that it was made from.

    Raises:
        UnsupportedError: a scaling that is not known.
        FormatError: numbers that mean nothing.
    """
    frequencies, magnitude = _stretched(file, as_said)
    h = file.hparams
    return Rotation(frequencies, magnitude, 1 if h.architecture == "llama" else h.head_dim // 2)


def _stretched(file: ModelFile, as_said: bool) -> tuple[F64, float]:
    """The frequencies, and the factor on cosine and sine, after all scaling."""
    h = file.hparams
    if not 0 < h.rope_freq_base < math.inf:
        raise FormatError(
            "the base of the rotary frequencies must be positive",
            path=file.path,
            field="llama.rope.freq_base",
            found=h.rope_freq_base,
        )
    base = powers(h.rope_freq_base, -np.arange(0, h.head_dim, 2) / h.head_dim) / _divisors(file)
    scaling = h.rope_scaling
    if scaling is None or scaling.type == "none":
        return base, _extra(scaling)
    if scaling.type not in ("linear", "yarn"):
        raise UnsupportedError(
            f"rope scaling {scaling.type!r} is not supported",
            path=file.path,
            field="llama.rope.scaling.type",
            expected="none, linear or yarn; LLaMA 3.1's stands in GGUF as the tensor rope_freqs.weight",
            found=scaling.type,
            cause="a converter of its own, for llama.cpp refuses such a file too",
        )
    factor = _factor(file, scaling)
    if scaling.type == "linear":
        return base / factor, _extra(scaling)
    fast, slow, said = (scaling.beta_fast, scaling.beta_slow, scaling.attention_factor) if as_said else (None,) * 3
    kept = _kept(h, scaling, fast or FAST_TURNS, slow or SLOW_TURNS)
    magnitude = 0.1 * logarithm(factor) + 1 if said is None else said
    return base / factor * (1 - kept) + base * kept, _extra(scaling) * magnitude


def _divisors(file: ModelFile) -> F64:
    """What divides each frequency: float64 [head_dim / 2]."""
    tensor, n = file.tensors.get(ROPE_FREQS), file.hparams.head_dim // 2
    if tensor is None:
        return np.ones(n)
    if tensor.shape != (n,):
        raise ShapeError(
            f"tensor {ROPE_FREQS} has another shape than the header implies",
            path=file.path,
            offset=tensor.offset,
            field=ROPE_FREQS,
            expected=[n],
            found=list(tensor.shape),
        )
    return tensor.numpy().astype(np.float64)


def _factor(file: ModelFile, scaling: RopeScaling) -> float:
    """By how much the context grows; a missing factor and 0 mean that it does not."""
    factor = scaling.factor or 1.0
    if factor < 0:
        field = "llama.rope.scaling.factor"
        raise FormatError("the factor of rope scaling must be positive", path=file.path, field=field, found=factor)
    return factor


def _extra(scaling: RopeScaling | None) -> float:
    """The further factor on cosine and sine; a missing one and 0 mean 1."""
    return (scaling.magnitude if scaling else None) or 1.0


def _kept(h: ModelParams, scaling: RopeScaling, fast: float, slow: float) -> F64:
    """How much of each frequency YaRN leaves unscaled, 0 to 1: float64 [head_dim / 2].

    Args:
        fast, slow: rotations within the original context where interpolation ends and begins.
    """
    context = scaling.original_context or h.context_length

    def pair(turns: float) -> float:
        """The pair that turns so many times within the original context."""
        return h.head_dim * logarithm(context / (turns * 2 * math.pi)) / (2 * logarithm(h.rope_freq_base))

    low, high = max(0, math.floor(pair(fast))), min(h.head_dim - 1, math.ceil(pair(slow)))
    ramp = (np.arange(h.head_dim // 2) - low) / max(0.001, high - low)
    return 1 - np.clip(ramp, 0, 1)
