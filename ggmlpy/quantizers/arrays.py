"""Arrays of numbers to blocks, and to whole files: what a person at a Python prompt asks for.

:func:`quantize` is the inverse of :func:`ggmlpy.formats.dequantize.dequantize`, as far as rounding allows; what one
returns the other takes. :func:`write_arrays` makes a model file from a dictionary of arrays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ggmlpy.files.errors import UsageError
from ggmlpy.formats.bfloat16 import bfloat16_of_converter
from ggmlpy.formats.containers import container_named
from ggmlpy.formats.eras import Era, eras_writing, quantizing_era, tensor_type_of
from ggmlpy.formats.file_types import FILE_TYPES
from ggmlpy.formats.model_file import Vocabulary
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.tensor_types import TensorType, type_named
from ggmlpy.formats.writer import write_model
from ggmlpy.machine.contraction import BASELINE

__all__ = ["quantize", "write_arrays"]

Pieces = Iterable[bytes] | Iterable[tuple[bytes, float]]


def quantize(
    array: ArrayLike,
    type: str | TensorType,
    era: str | Era | None = None,
    *,
    importance: ArrayLike | None = None,
    compiler: str = BASELINE,
) -> NDArray[Any]:
    """The blocks to which an era's ``quantize`` rounds an array of numbers, byte for byte.

    Args:
        array: float32 or float16 [..., n]; n is a multiple of the type's block.
        type: a name ("q4_0"), or a record such as a tensor's ``type``; see
            :func:`~ggmlpy.formats.eras.tensor_type_of`.
        era: a date, see :mod:`ggmlpy.formats.eras`; by default the one that writes such blocks (2023-03-31 if
            several do). For types that only GGUF has it is the last.
        importance: float32 [n], how much an error in each column counts, as an importance matrix says it.
        compiler: what built the program, see :mod:`ggmlpy.quantizers.compilers`.

    Returns:
        an array of ``type.block`` [..., n / blck_size], whose fields are the scales and the codes.

    Raises:
        UsageError: the era has no such type, or no importance, or the type needs it; n is not a multiple of its block;
            the array is not of floats; or what this compiler makes is not known.

    >>> x = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)
    >>> blocks = quantize(x, "q4_0")
    >>> blocks.shape, blocks.dtype.names
    ((2, 2), ('d', 'qs'))
    >>> from ggmlpy import dequantize
    >>> values = dequantize(blocks, "q4_0")
    >>> values.shape, bool(abs(values - x).max() < 0.1)
    ((2, 64), True)
    """
    from .rows import quantize_rows  # Numba takes half a second to import

    values = np.asarray(array)
    if values.ndim == 0:
        raise UsageError("a single number cannot be quantized: blocks are made of rows")
    record = tensor_type_of(type, era)
    moments = [quantizing_era(era)] if era else eras_writing(record)
    if not moments:
        raise UsageError(f"no era's quantizer writes {record.layout}")
    moment, written = moments[0], moments[0].type(record.name)
    if written.layout != record.layout:
        raise UsageError(f"the quantizer of {moment} writes {written.layout}, not {record.layout}")
    weights = None if importance is None else np.asarray(importance, np.float32)
    return quantize_rows(values, record.name, moment, importance=weights, compiler=compiler).view(record.block)


def write_arrays(
    path: str | os.PathLike[str],
    arrays: Mapping[str, ArrayLike],
    params: ModelParams,
    vocabulary: Pieces,
    *,
    type: str = "f16",
    container: str = "ggjt1",
    progress: Callable[[int], object] | None = None,
) -> int:
    """Write a model file from arrays, and return its size in bytes.

    Args:
        path: the file; it appears under this name when it is complete.
        arrays: tensors by their Meta names, in the order of the file: anything that numpy can read as an array
            [rows, columns] or [n], such as the tensors of an open file.
        params: the model's shape; the size of the vocabulary and the file type are filled in.
        vocabulary: the text of each token, or pairs of text and score; or the vocabulary of an open file.
        type: the tensor type of matrices ("f32", "f16", "q4_0" …), with the bytes that it has in this container. Other
            tensors are f32.
        container: "ggml", "ggmf", "ggjt1", "ggjt2", "ggjt3" or "gguf".
        progress: called with the number of bytes after each piece that was written.

    Raises:
        UsageError: there is no such container, it has no such type, or a row is not a multiple of the type's block.
        OutputError: the file could not be written; nothing has its name then.

    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "tiny.bin"
    >>> matrix = np.eye(32, dtype=np.float32)
    >>> params = ModelParams(n_embd=32, n_layer=0, n_head=1, n_mult=32)
    >>> arrays = {"tok_embeddings.weight": matrix, "norm.weight": np.ones(32), "output.weight": matrix}
    >>> write_arrays(path, arrays, params, [bytes([65 + i]) for i in range(32)], type="q4_0", container="ggjt3")
    1760
    >>> from ggmlpy import open_model
    >>> with open_model(path) as model:
    ...     print(model.tensors["output.weight"], np.array_equal(model.tensors["output.weight"], matrix))
    output.weight: q4_0 [32, 32] True
    """
    found, version = container_named(container)
    pairs = list(_pairs(vocabulary))
    record, plain = (type_named(name, found.name, version) for name in (type, "f32"))
    ftype = next((known.id for known in FILE_TYPES.values() if known.type == type), params.ftype)
    tensors = [_out_tensor(name, array, record, plain) for name, array in arrays.items()]
    params = replace(params, n_vocab=len(pairs), ftype=ftype)
    return write_model(path, found.name, version, params, pairs, tensors, progress)


def _out_tensor(name: str, array: ArrayLike, matrices: TensorType, others: TensorType) -> OutTensor:
    values = np.asarray(array)
    if values.ndim not in (1, 2) or not values.size:
        raise UsageError(f"tensor {name!r} has shape {list(values.shape)}; a model file holds [rows, columns] and [n]")
    if values.dtype not in (np.float16, np.float32):
        values = values.astype(np.float32)
    record = matrices if values.ndim == 2 else others
    record.row_bytes(values.shape[-1])  # checks the length before anything is written
    return OutTensor(name, record, values.shape, lambda: [_encoded(values, record)])


def _encoded(values: NDArray[Any], record: TensorType) -> NDArray[Any]:
    if record.quantized:
        return quantize(values, record)
    if record.name == "bf16":
        return bfloat16_of_converter(values.astype(np.float32))
    with np.errstate(over="ignore"):  # too large for f16: an infinity
        return values.astype(record.block)


def _pairs(vocabulary: Pieces) -> Iterator[tuple[bytes, float]]:
    """Text and score of each token; a score that is not known is zero."""
    if isinstance(vocabulary, Vocabulary):
        yield from zip(vocabulary, vocabulary.scores.tolist(), strict=True)
        return
    for piece in vocabulary:
        yield (piece, 0.0) if isinstance(piece, bytes) else piece
