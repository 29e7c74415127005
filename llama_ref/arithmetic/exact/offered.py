"""What the exact arithmetic offers: for which eras and builds, and for which models. No code is compiled here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ggmlpy.files.errors import UsageError
from ggmlpy.formats.eras import APRIL_30, AUGUST_21, MARCH_19, MARCH_30, MARCH_31, MAY_19, Era, era_of
from ggmlpy.formats.model_params import LLAMA_EPS, LLAMA_ROPE_THETA
from llama_ref.arithmetic.rotation import ROPE_FREQS

if TYPE_CHECKING:
    from ggmlpy.formats.model_file import ModelFile, Tensor

__all__ = ["BUILDS", "SUPPORTED", "check_build", "check_exact"]

BUILDS = ("scalar", "avx2", "avx512", "cmake-avx2")
# fmt: off
SUPPORTED = {
    MARCH_19.date: ("scalar",),
    MARCH_30.date: ("scalar", "avx2", "avx512"),
    MARCH_31.date: ("scalar", "avx2", "avx512", "cmake-avx2"),
    APRIL_30.date: ("scalar", "avx2"),
    MAY_19.date: ("scalar", "avx2"),
    AUGUST_21.date: ("scalar", "avx2"),
}
# fmt: on


def check_exact(file: ModelFile, era: str, build: str) -> None:
    """Refuse a model that llama.cpp of an era did not compute.

    Raises:
        UsageError: with what it is; or there is no such build for that era.
    """
    check_build(era, build)
    moment = era_of(era)
    _check_numbers(moment, file)
    for tensor in file.tensors.values():
        _check_type(moment, tensor)


def check_build(era: str, build: str) -> None:
    """Refuse a build that does not exist, or is not offered for an era.

    Raises:
        UsageError: with those that are.
    """
    if build not in BUILDS:
        raise UsageError(f"no build called {build!r}; there are {', '.join(BUILDS)}")
    if build not in SUPPORTED[era]:
        raise UsageError(
            f"exact arithmetic of era {era} is not offered for build {build}, only for {', '.join(SUPPORTED[era])}"
        )


def _check_numbers(era: Era, file: ModelFile) -> None:
    """Refuse a model whose numbers the era's llama.cpp had no place for; each era computed with its own.

    Raises:
        UsageError: with what it is.
    """
    h, august = file.hparams, era >= AUGUST_21
    biased = any(name.endswith(".bias") for name in file.tensors)
    wrong = {
        "rope scaling": h.rope_scaling is not None and h.rope_scaling.type != "none",
        "factors of the rotary frequencies (rope_freqs.weight)": ROPE_FREQS in file.tensors,
        "biases": biased,
        "queries that share heads of keys and values": h.n_head_kv != h.n_head and not august,
        f"the architecture {h.architecture}": h.architecture != "llama",
        "heads that are not n_embd / n_head wide": h.n_head > 0 and h.head_dim * h.n_head != h.n_embd,
        f"a rope base of {h.rope_freq_base:g}": h.rope_freq_base != LLAMA_ROPE_THETA and not august,
        f"an epsilon of {h.eps:g} in its norms": np.float32(h.eps) != np.float32(LLAMA_EPS) and not august,
    }
    for what, is_wrong in wrong.items():
        if is_wrong:
            raise UsageError(
                f"{file.path} has {what}, which llama.cpp of {era} did not compute with; use --numerics fast or "
                "reference"
            )


def _check_type(era: Era, tensor: Tensor) -> None:
    """Refuse a tensor whose type the era did not know.

    Raises:
        UsageError: with the type's and the tensor's name.
    """
    if not era.reads(tensor.type):
        known = {record.layout for record in era.types.values()}
        raise UsageError(
            f"llama.cpp of {era} could not read {tensor.name}: its blocks are {tensor.type.layout}, and that era "
            f"knew {', '.join(sorted(known))}; leave --era out to use the era that wrote the file"
        )
