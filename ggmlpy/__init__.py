"""ggmlpy: every GGML model file from before GGUF, read and written from declared tables. Knows no transformer.

    >>> import ggmlpy
    >>> sorted(ggmlpy.ERAS)
    ['2023-03-19', '2023-03-30', '2023-03-31', '2023-04-30', '2023-05-19', '2023-08-21']

:func:`open_model` opens a file of any container; :func:`write_model` writes one; ``dequantize`` and ``quantize`` turn
blocks into numbers and back, each as one *era* of llama.cpp did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .files.errors import FormatError, UsageError
from .formats.containers import CONTAINERS, Container
from .formats.dequantize import dequantize
from .formats.eras import DEFAULT_ERA, ERAS, Era, era_of
from .formats.model_file import ModelFile, Tensor, Vocabulary
from .formats.model_params import ModelParams
from .formats.opening import open_model
from .formats.out_tensor import OutTensor, out_tensor
from .formats.tensor_types import TENSOR_TYPES, TensorType, types_of
from .formats.writer import write_model

if TYPE_CHECKING:
    from .formats.dequantize import dequantize
    from .quantizers.classic import quantize
    from .quantizers.whole_file import quantize_file

__all__ = [
    "CONTAINERS",
    "DEFAULT_ERA",
    "ERAS",
    "TENSOR_TYPES",
    "Container",
    "Era",
    "FormatError",
    "ModelFile",
    "ModelParams",
    "OutTensor",
    "Tensor",
    "TensorType",
    "UsageError",
    "Vocabulary",
    "dequantize",
    "era_of",
    "open_model",
    "out_tensor",
    "quantize",
    "quantize_file",
    "types_of",
    "write_model",
]


def __getattr__(name: str) -> Any:
    """Numba is imported only when a quantizer is wanted."""
    if name == "quantize":
        from .quantizers.classic import quantize

        return quantize
    if name == "quantize_file":
        from .quantizers.whole_file import quantize_file

        return quantize_file
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
