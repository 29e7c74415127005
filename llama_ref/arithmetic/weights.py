"""The tensors of a file handed to a backend, each checked against the shape that the model's numbers imply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ggmlpy.files.errors import ShapeError, UnsupportedError
from ggmlpy.formats.tensor_names import expected_shapes

from .transformer import F32, LayerWeights, Weights

if TYPE_CHECKING:
    from ggmlpy.formats.model_file import ModelFile

    from .transformer import Backend

__all__ = ["BIASED", "HEAD_NORMED", "bias_name", "head_norm_name", "load_weights"]

BIASED = (
    *("attention.wq", "attention.wk", "attention.wv", "attention.wo"),
    *("feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
)  # the matrices of a layer that may have a bias
HEAD_NORMED = ("attention.wq", "attention.wk")  # and those after which each head may be normed


def load_weights(file: ModelFile, backend: Backend) -> Weights:
    """Hand every tensor of ``file`` to the backend, checked against the shapes that the header implies.

    Raises:
        ShapeError: a tensor is missing or of another shape.
    """
    h = file.hparams
    _check_heads(file)
    shapes = expected_shapes(h)

    def matrix(name: str) -> Any:
        return backend.matrix(_tensor(file, name, shapes[name]))

    def norm(name: str) -> F32:
        return backend.vector(_tensor(file, name, shapes[name]))

    def one_layer(at: str) -> LayerWeights:
        return LayerWeights(
            attention_norm=norm(f"{at}.attention_norm.weight"),
            wq=matrix(f"{at}.attention.wq.weight"),
            wk=matrix(f"{at}.attention.wk.weight"),
            wv=matrix(f"{at}.attention.wv.weight"),
            wo=matrix(f"{at}.attention.wo.weight"),
            ffn_norm=norm(f"{at}.ffn_norm.weight"),
            w1=matrix(f"{at}.feed_forward.w1.weight"),
            w2=matrix(f"{at}.feed_forward.w2.weight"),
            w3=matrix(f"{at}.feed_forward.w3.weight"),
            biases=dict(_biases(file, backend, at)),
            head_norms=dict(_head_norms(file, backend, at)),
        )

    return Weights(
        tok_embeddings=matrix("tok_embeddings.weight"),
        layers=tuple(one_layer(f"layers.{i}") for i in range(h.n_layer)),
        norm=norm("norm.weight"),
        output=matrix("output.weight"),
    )


def _biases(file: ModelFile, backend: Backend, at: str) -> Iterator[tuple[str, F32]]:
    """The biases of a layer, by the names of their matrices; they are as long as these have rows."""
    h = file.hparams
    shapes = expected_shapes(h)
    for matrix in BIASED:
        weight = f"{at}.{matrix}.weight"
        name = bias_name(weight)
        if name in file.tensors:
            tensor = _tensor(file, name, shapes[weight][:1])
            yield matrix.partition(".")[2], backend.vector(tensor)


def _head_norms(file: ModelFile, backend: Backend, at: str) -> Iterator[tuple[str, F32]]:
    """The norms of queries and keys of a layer (Qwen 3), by the names of their matrices: one weight for all heads."""
    for matrix in HEAD_NORMED:
        name = head_norm_name(f"{at}.{matrix}.weight")
        if name in file.tensors:
            yield matrix.partition(".")[2], backend.vector(_tensor(file, name, (file.hparams.head_dim,)))


def bias_name(weight: str) -> str:
    """The name of a matrix's bias in a model file: only GGUF has any."""
    return weight.removesuffix("weight") + "bias"


def head_norm_name(weight: str) -> str:
    """The name of the norm of a matrix's heads in a model file: ``blk.0.attn_q_norm.weight``."""
    return gguf_name(weight).removesuffix(".weight") + "_norm.weight"


def _check_heads(file: ModelFile) -> None:
    """The heads must have an even width, for the rotary embedding turns pairs; all of it is turned in a LLaMA."""
    h = file.hparams
    uneven = h.n_head > 0 and h.head_dim == h.n_embd // h.n_head and h.n_embd % h.n_head
    if min(h.n_head, h.n_embd, h.head_dim) < 1 or h.n_layer < 0 or h.head_dim % 2 or uneven:
        raise ShapeError(
            "width and heads do not fit together",
            path=file.path,
            field="n_head",
            expected="a width that divides into heads of an even size",
            found=f"n_embd {h.n_embd}, n_head {h.n_head}, n_layer {h.n_layer}",
            cause="a corrupt header",
        )
    if h.n_head_kv < 1 or h.n_head % h.n_head_kv:
        raise ShapeError(
            "heads of queries and keys do not fit together",
            path=file.path,
            field=f"{h.architecture}.attention.head_count_kv",
            expected=f"a divisor of {h.n_head}",
            found=h.n_head_kv,
        )
    if file.container == "gguf" and h.n_rot != h.head_dim:
        raise UnsupportedError(
            "only a part of each head is rotated, which no LLaMA does",
            path=file.path,
            field="llama.rope.dimension_count",
            expected=h.head_dim,
            found=h.n_rot,
            cause="a model of another family, or a converter's mistake; llama.cpp refuses it too",
        )


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
