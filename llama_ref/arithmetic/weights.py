"""The tensors of a file handed to a backend, each checked against the shape that the model's numbers imply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ggmlpy.files.errors import ShapeError, UnsupportedError
from ggmlpy.formats.tensor_names import OPTIONAL, expected_shapes, optional_shapes

from .transformer import F32, LayerWeights, Weights

if TYPE_CHECKING:
    from ggmlpy.formats.model_file import ModelFile

    from .transformer import Backend

__all__ = ["check_heads", "check_weights", "load_weights"]


def load_weights(file: ModelFile, backend: Backend) -> Weights:
    """Hand every tensor of ``file`` to the backend, checked against the shapes that the header implies.

    Raises:
        ShapeError, UnsupportedError: see :func:`check_weights`.
    """
    check_weights(file)

    def matrix(name: str) -> Any:
        return backend.matrix(file.tensors[name])

    def norm(name: str) -> F32:
        return backend.vector(file.tensors[name])

    def one_layer(i: int) -> LayerWeights:
        at, optional = f"layers.{i}", dict(_optional(file, backend, i))
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
            biases={name: values for name, values in optional.items() if not name.endswith("_norm")},
            head_norms={f"w{name[0]}": values for name, values in optional.items() if name.endswith("_norm")},
        )

    return Weights(
        tok_embeddings=matrix("tok_embeddings.weight"),
        layers=tuple(one_layer(i) for i in range(file.hparams.n_layer)),
        norm=norm("norm.weight"),
        output=matrix("output.weight"),
    )


def _optional(file: ModelFile, backend: Backend, layer: int) -> Iterator[tuple[str, F32]]:
    """What only some models have in a layer: a bias by the name of its matrix (wq), a norm by its own (q_norm)."""
    for name in (row.meta.format(layer) for row in OPTIONAL):
        if name in file.tensors:
            yield name.split(".")[-2], backend.vector(file.tensors[name])


def check_weights(file: ModelFile) -> None:
    """Whether all tensors are there, in the shapes that the header implies, and the heads can be computed with.

    Raises:
        ShapeError: a tensor is missing or of another shape, or the heads do not fit together.
        UnsupportedError: only a part of each head is rotated.
    """
    check_heads(file)
    for name, shape in expected_shapes(file.hparams).items():
        _check_tensor(file, name, shape)
    for name, shape in optional_shapes(file.hparams).items():
        if name in file.tensors:
            _check_tensor(file, name, shape)


def check_heads(file: ModelFile) -> None:
    """The heads must have an even width, for the rotary embedding turns pairs; all of it is turned in a LLaMA.

    Raises:
        ShapeError, UnsupportedError: with the numbers.
    """
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


def _check_tensor(file: ModelFile, name: str, shape: tuple[int, ...]) -> None:
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
