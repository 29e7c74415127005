"""The tensors of a file handed to a backend, each checked against the shape that the model's numbers imply."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ggmlpy.files.errors import ShapeError, UnsupportedError
from ggmlpy.formats.tensor_names import expected_shapes

from .transformer import F32, LayerWeights, Weights

if TYPE_CHECKING:
    from ggmlpy.formats.model_file import ModelFile, Tensor

    from .transformer import Backend

__all__ = ["load_weights"]


def load_weights(file: ModelFile, backend: Backend) -> Weights:
    """Hand every tensor of ``file`` to the backend, checked against the shapes that the header implies.

    Raises:
        ShapeError: a tensor is missing or of another shape.
        UnsupportedError: the heads have a width of their own.
    """
    h = file.hparams
    _check_heads(file)
    shapes = expected_shapes(h)

    def matrix(name: str) -> Any:
        return backend.matrix(_tensor(file, name, shapes[name]))

    def shared(name: str) -> Any:
        """Keys or values: where several queries share a head, its rows are repeated for each of them."""
        tensor = _tensor(file, name, shapes[name])
        return backend.matrix(tensor if h.n_kv == h.n_embd else _repeated(tensor, h.n_head, h.n_head_kv))

    def norm(name: str) -> F32:
        return backend.vector(_tensor(file, name, shapes[name]))

    def one_layer(at: str) -> LayerWeights:
        return LayerWeights(
            attention_norm=norm(f"{at}.attention_norm.weight"),
            wq=matrix(f"{at}.attention.wq.weight"),
            wk=shared(f"{at}.attention.wk.weight"),
            wv=shared(f"{at}.attention.wv.weight"),
            wo=matrix(f"{at}.attention.wo.weight"),
            ffn_norm=norm(f"{at}.ffn_norm.weight"),
            w1=matrix(f"{at}.feed_forward.w1.weight"),
            w2=matrix(f"{at}.feed_forward.w2.weight"),
            w3=matrix(f"{at}.feed_forward.w3.weight"),
        )

    return Weights(
        tok_embeddings=matrix("tok_embeddings.weight"),
        layers=tuple(one_layer(f"layers.{i}") for i in range(h.n_layer)),
        norm=norm("norm.weight"),
        output=matrix("output.weight"),
    )


def _check_heads(file: ModelFile) -> None:
    """The heads must divide the width into even parts, for the rotary embedding turns pairs."""
    h = file.hparams
    if min(h.n_head, h.n_embd) < 1 or h.n_layer < 0 or h.n_embd % (2 * h.n_head):
        raise ShapeError(
            "width and heads do not fit together",
            path=file.path,
            field="n_head",
            expected="a width that divides into heads of an even size",
            found=f"n_embd {h.n_embd}, n_head {h.n_head}, n_layer {h.n_layer}",
            cause="a corrupt header",
        )
    if h.head_dim * h.n_head != h.n_embd:
        raise UnsupportedError(
            "heads that are not n_embd / n_head wide",
            path=file.path,
            field="llama.attention.key_length",
            expected=h.n_embd // h.n_head,
            found=h.head_dim,
            cause="a model of a later family (Mistral Nemo)",
        )


def _repeated(tensor: Tensor, n_head: int, n_head_kv: int) -> Tensor:
    """[n_head_kv * head_dim, n_embd] -> [n_head * head_dim, n_embd], each head as often as queries share it.

    This is what grouped-query attention means (Ainslie et al. 2023, figure 2), at the price of a copy of wk and wv; no
    backend needs to know of it.

    Raises:
        ShapeError: the queries can't be divided among the heads.
    """
    if n_head_kv <= 0 or n_head % n_head_kv:
        raise ShapeError(
            "heads of queries and keys do not fit together",
            field="llama.attention.head_count_kv",
            expected=f"a divisor of {n_head}",
            found=n_head_kv,
        )
    heads = tensor.raw().reshape(n_head_kv, -1)  # [n_head_kv, head_dim * row_bytes]
    data = np.repeat(heads, n_head // n_head_kv, axis=0).reshape(-1)
    shape = (tensor.n_rows * n_head // n_head_kv, tensor.n_cols)
    return replace(tensor, shape=shape, pieces=(replace(tensor.pieces[0], shape=shape, data=data),), axis=None)


def _tensor(file: ModelFile, name: str, shape: tuple[int, ...]) -> Any:
    tensor = file.tensors.get(name)
    if tensor is None:
        raise ShapeError(
            f"tensor {name} is missing",
            path=file.path,
            expected=f"{name} {list(shape)}",
            found=f"{len(file.tensors)} tensors without it",
            cause="a vocabulary-only or truncated file",
            next_step=f"`inspect {file.path} --tensors`",
        )
    if tuple(tensor.shape) != shape:
        raise ShapeError(
            f"tensor {name} has another shape than the header implies",
            path=file.path,
            offset=tensor.offset,
            field=name,
            expected=list(shape),
            found=list(tensor.shape),
        )
    return tensor
