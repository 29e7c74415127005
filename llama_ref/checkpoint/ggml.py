"""The way back: a GGML or GGUF file as the checkpoint that it was made from.

================  ======================================================================================================
in the file       in the checkpoint
================  ======================================================================================================
f16, bf16, f32    the same bits
quantized         dequantized and rounded to float16, as llama.cpp's convert-ggml-to-pth.py of 2023-03 stored it; what
                  quantizing dropped is gone
norms             GGML keeps them in f32; beside float16 matrices they become float16, as Meta has them, where no value
                  changes by it
================  ======================================================================================================

So a checkpoint that was converted to f16 comes back tensor for tensor. Its vocabulary is another matter:
:mod:`llama_ref.vocabulary.rebuilding`.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator

import numpy as np

from ggmlpy.formats.model_file import ModelFile, Tensor
from ggmlpy.formats.opening import open_model

from .layout import Checkpoint, check_model, known_tensors
from .tensor import DTYPES, LazyTensor

__all__ = ["open_ggml"]

# fmt: off
_SAME_BITS = {  # type in the file -> element type of the checkpoint
    "f32":  "float32",
    "f16":  "float16",
    "bf16": "bfloat16",
}
# fmt: on


def open_ggml(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a GGML or GGUF file of a LLaMA as a checkpoint in Meta's layout.

    Raises:
        FormatError: the file is bad, or not a whole model.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open_model(path))
        known = known_tensors(file.path, file.tensors)
        narrow = _has_narrow_norms(file)
        tensors = {name: _lazy(file, file.tensors[name], narrow) for name in known}
        notes = list(_losses(file))
        if "output.weight" not in tensors and "tok_embeddings.weight" in tensors:
            tensors["output.weight"] = tensors["tok_embeddings.weight"].with_(name="output.weight")
            notes.append("the file has no output matrix of its own: the embedding is written in its place")
        check_model(file.path, file.hparams, file.path, tensors, "the conversion was interrupted")
        return Checkpoint(
            file.path,
            "gguf" if file.container == "gguf" else "ggml",
            file.hparams,
            file.path,
            tensors,
            [*file.paths],
            {name: name for name in tensors},
            notes=notes,
            vocabulary=file.vocab,
            _open=stack.pop_all(),
        )


def _lazy(file: ModelFile, tensor: Tensor, narrow: bool) -> LazyTensor:
    """The rows of a tensor in the element type that a checkpoint has for it."""
    same = _SAME_BITS.get(tensor.type.name)
    dtype = "float16" if same is None or (narrow and len(tensor.shape) == 1) else same
    stored = DTYPES[dtype].stored

    def read(start: int, stop: int) -> np.ndarray:
        if len(tensor.shape) == 1:
            return tensor.numpy()[start:stop].astype(stored)
        if same:
            return tensor.raw_rows(start, stop).reshape(-1).view(stored).reshape(stop - start, tensor.n_cols)
        with np.errstate(over="ignore"):
            return tensor.rows(start, stop).reshape(stop - start, tensor.n_cols).astype(stored)

    return LazyTensor(tensor.name, tensor.shape, dtype, read, f"{file.path}, {tensor.type}", "meta")


def _has_narrow_norms(file: ModelFile) -> bool:
    """Whether the norms are to become float16: the matrices are not f32, and every value is one of float16."""
    if any(len(t.shape) == 2 and t.type.name in ("f32", "bf16") for t in file.tensors.values()):
        return False
    with np.errstate(over="ignore"):
        norms = [t.numpy() for t in file.tensors.values() if len(t.shape) == 1]
        return all(np.array_equal(norm, norm.astype(np.float16).astype(np.float32)) for norm in norms)


def _losses(file: ModelFile) -> Iterator[str]:
    """What the file no longer has of the model that it was made from."""
    quantized = Counter(t.type.name for t in file.tensors.values() if t.type.name not in _SAME_BITS)
    if quantized:
        count = sum(quantized.values())
        yield (
            f"{count} of {len(file.tensors)} tensors were quantized ({', '.join(sorted(quantized))}): dequantized and "
            "rounded to float16; what quantizing dropped does not come back"
        )
