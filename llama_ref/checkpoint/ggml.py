"""The way back: a GGML or GGUF file as the checkpoint that it was made from.

================  ======================================================================================================
in the file       in the checkpoint
================  ======================================================================================================
f16, bf16, f32    the same bits
quantized         dequantized and rounded to float16, as llama.cpp's convert-ggml-to-pth.py of 2023-03 stored it; what
                  quantizing dropped is gone
norms             GGML keeps them in f32; beside float16 or bfloat16 matrices they get that type, as checkpoints have
                  them, where no value changes by it
================  ======================================================================================================

So a checkpoint that was converted to f16 comes back tensor for tensor. Its vocabulary is another matter:
:mod:`llama_ref.vocabulary.rebuilding`.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ggmlpy.files.errors import UnsupportedError
from ggmlpy.formats.bfloat16 import cut_to_bfloat16
from ggmlpy.formats.model_file import ModelFile, Tensor
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.opening import open_model

from .layout import Checkpoint, check_model, in_layout, known_tensors
from .rope_freqs import ROPE_FREQS, llama3_scaling
from .tensor import DTYPES, LazyTensor, widen_bfloat16

__all__ = ["lazy_tensor", "open_ggml"]

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
        params, vectors = _with_scaling(file), _type_of_vectors(file)
        tensors = {name: lazy_tensor(file, file.tensors[name], vectors) for name in known}
        notes = list(_losses(file))
        if "output.weight" not in tensors and "tok_embeddings.weight" in tensors:
            tensors["output.weight"] = tensors["tok_embeddings.weight"].with_(name="output.weight")
            notes.append("the file has no output matrix of its own: the embedding is written in its place")
        check_model(file.path, params, file.path, tensors, "the conversion was interrupted")
        return Checkpoint(
            file.path,
            "gguf" if file.container == "gguf" else "ggml",
            params,
            file.path,
            tensors,
            [*file.paths],
            {name: name for name in tensors},
            notes=notes,
            vocabulary=file.vocab,
            metadata=file.metadata,
            _open=stack.pop_all(),
        )


def _with_scaling(file: ModelFile) -> ModelParams:
    """The model's numbers; LLaMA 3.1's rope scaling stands in a tensor.

    Raises:
        UnsupportedError: the tensor is none that this scaling gives.
    """
    tensor = file.tensors.get(ROPE_FREQS)
    if tensor is None or np.all(tensor.numpy() == 1):
        return file.hparams
    scaling = llama3_scaling(file.hparams, tensor.numpy())
    if scaling is None:
        raise UnsupportedError(
            f"no known numbers of LLaMA 3.1's rope scaling give the tensor {ROPE_FREQS}",
            path=file.path,
            field=ROPE_FREQS,
            cause="a model with scaling of another kind, which config.json and params.json would have to name",
            next_step="start from the checkpoint that the file was made from",
        )
    return replace(file.hparams, rope_scaling=scaling)


def lazy_tensor(file: ModelFile, tensor: Tensor, vectors: str = "float32") -> LazyTensor:
    """The rows of a tensor in the element type that a checkpoint has for it, in Meta's order.

    Args:
        vectors: the element type of norms and biases.
    """
    same = _SAME_BITS.get(tensor.type.name)
    dtype = vectors if len(tensor.shape) == 1 else same or "float16"
    stored = DTYPES[dtype].stored

    def read(start: int, stop: int) -> np.ndarray:
        if len(tensor.shape) == 1:
            values = tensor.numpy()[start:stop]
            return cut_to_bfloat16(values) if dtype == "bfloat16" else values.astype(stored)
        if same:
            return tensor.raw_rows(start, stop).reshape(-1).view(stored).reshape(stop - start, tensor.n_cols)
        with np.errstate(over="ignore"):
            return tensor.rows(start, stop).reshape(stop - start, tensor.n_cols).astype(stored)

    lazy = LazyTensor(tensor.name, tensor.shape, dtype, read, f"{file.path}, {tensor.type}", "meta")
    if file.hparams.architecture == "llama":
        return lazy
    return in_layout(lazy.with_(layout="huggingface"), "meta", file.hparams)


def _type_of_vectors(file: ModelFile) -> str:
    """The element type of norms and biases: that of the matrices, where it holds every value."""
    kinds = {t.type.name for t in file.tensors.values() if len(t.shape) == 2}
    vectors = [t.numpy() for name, t in file.tensors.items() if len(t.shape) == 1 and name != ROPE_FREQS]
    if kinds == {"bf16"}:
        exact = all(np.array_equal(v, widen_bfloat16(cut_to_bfloat16(v))) for v in vectors)
        return "bfloat16" if exact else "float32"
    if kinds & {"f32", "bf16"}:
        return "float32"
    with np.errstate(over="ignore"):
        exact = all(np.array_equal(v, v.astype(np.float16).astype(np.float32)) for v in vectors)
    return "float16" if exact else "float32"


def _losses(file: ModelFile) -> Iterator[str]:
    """What the file no longer has of the model that it was made from."""
    quantized = Counter(t.type.name for t in file.tensors.values() if t.type.name not in _SAME_BITS)
    if quantized:
        count = sum(quantized.values())
        yield (
            f"{count} of {len(file.tensors)} tensors were quantized ({', '.join(sorted(quantized))}): dequantized and "
            "rounded to float16; what quantizing dropped does not come back"
        )
