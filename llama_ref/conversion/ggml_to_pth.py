"""A GGML file as llama.cpp's convert-ggml-to-pth.py of 2023-03 saved it: weights, header and vocabulary in one .pth.

::

    {"state_dict": {name: tensor, ...},
     "hparams": {"vocab_size", "dim", "multiple_of", "n_heads", "n_layers"},
     "tokens": [(text, score), ...]}

f32 stays float32 and f16 float16; what is quantized is dequantized and saved as float16. With ``huggingface`` the
tensors have Hugging Face's names, order and rows, and a float32 ``inv_freq`` in each layer. Texts that are not UTF-8
(the pieces of single bytes) have U+FFFD in place of their bytes.

Source: convert-ggml-to-pth.py at llama.cpp 352589927, which reads ggjt v1 with f32, f16 and q4_0 (of q4_1 it dies);
here it is any container and type.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from ggmlpy.files.paths import refuse_overwriting
from ggmlpy.formats.model_file import ModelFile
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.opening import open_model
from ggmlpy.formats.tensor_names import TABLE, rename
from llama_ref.checkpoint import LazyTensor, in_layout
from llama_ref.checkpoint.ggml import lazy_tensor
from llama_ref.checkpoint.pth_pickle import Plain, SameTensor, TensorToWrite
from llama_ref.checkpoint.pth_writer import write_pth

__all__ = ["ggml_to_pth"]

SUFFIX = "-to-torch.pth"


def ggml_to_pth(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    huggingface: bool = False,
    torch_format: str = "1.13",
) -> Path:
    """Write the .pth and return its path.

    Args:
        source: a GGML or GGUF file, the first of several parts.
        output: by default ``NAME-to-torch.pth`` beside ``NAME.bin``.
        huggingface: names, order and rows as Hugging Face has them.
        torch_format: see :func:`~llama_ref.checkpoint.pth_writer.write_pth`.

    Raises:
        FormatError: the source is bad or not a whole LLaMA.
        UsageError: the output is the source.
    """
    with open_model(source) as model:
        path = Path(output) if output else model.path.with_name(model.path.stem + SUFFIX)
        refuse_overwriting(path, model.paths)
        tensors = list(_huggingface(model) if huggingface else map(partial(lazy_tensor, model), model.stored))
        beside: dict[str, Plain] = {"hparams": _hparams(model.hparams), "tokens": _tokens(model)}
        write_pth(path, tensors, torch_format, beside=beside)
    return path


def _hparams(params: ModelParams) -> dict[str, Plain]:
    return {
        "vocab_size": params.n_vocab,
        "dim": params.n_embd,
        "multiple_of": params.n_mult,
        "n_heads": params.n_head,
        "n_layers": params.n_layer,
    }


def _tokens(model: ModelFile) -> list[Plain]:
    pairs = zip(model.vocab, model.vocab.scores.tolist(), strict=True)
    return [(piece.decode("utf-8", "replace"), float(score)) for piece, score in pairs]


def _huggingface(model: ModelFile) -> Iterator[TensorToWrite]:
    in_layer = [row.meta for row in TABLE if row.per_layer]
    for layer in range(model.hparams.n_layer):
        for pattern in in_layer:
            yield _turned(model, pattern.format(layer))
        name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        first = LazyTensor.of_array(name, _frequencies(model.hparams))
        yield first if layer == 0 else SameTensor(name, name.replace(str(layer), "0", 1))
    for name in ("tok_embeddings.weight", "norm.weight", "output.weight"):
        yield _turned(model, name)


def _turned(model: ModelFile, name: str) -> LazyTensor:
    tensor = in_layout(lazy_tensor(model, model.tensors[name]), "huggingface", model.hparams)
    return tensor.with_(name=rename(name, "huggingface"))


def _frequencies(params: ModelParams) -> np.ndarray:
    """float32 [head_dim / 2], as the script computes them."""
    exponents = np.arange(0, params.head_dim, 2, dtype=np.float32) / np.float32(params.head_dim)
    return np.float32(1) / np.power(np.float32(10000), exponents, dtype=np.float32)
