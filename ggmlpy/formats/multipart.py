"""Models over several files: finding the parts, joining their tensors, splitting them again.

Only ggml and ggmf models are split. Part k is ``PATH.k`` (part 0 is ``PATH``), each with the full header and
vocabulary. ``tok_embeddings``, ``wo`` and ``w2`` are split by columns; ``output``, ``wq``, ``wk``, ``wv``, ``w1`` and
``w3`` by rows; one-dimensional tensors are whole in each part, and part 0's counts. An odd number of rows gives parts
of unequal size (49953 = 24976 + 24977), so each part's own shape is used.

Source: llama_model_load at llama.cpp ed3c680bc; uneven parts as torch shards of 49953 rows give them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ggmlpy.files.errors import FormatError, MissingFileError, ShapeError

from .model_file import Part, Piece, Tensor
from .tensor_names import split_axis
from .tensor_types import TensorType

__all__ = ["MOST_PARTS", "find_parts", "join_parts", "part_path", "split_sizes"]

MOST_PARTS = 256  # LLaMA-65B has 8; a corrupt width would have us look for millions of files


def part_path(path: Path, index: int) -> Path:
    """The file of part ``index``.

    >>> part_path(Path("m.bin"), 2).name
    'm.bin.2'
    """
    return path if index == 0 else path.with_name(f"{path.name}.{index}")


def find_parts(first: Part, n_parts: int | None = None) -> list[Path]:
    """The files of the model that begins with ``first``.

    Arguments:
        n_parts: how many there are; by default as many as the width of part 0's embedding implies.

    Raises:
        MissingFileError: a part is missing, or this file is itself a later part.
    """
    expected = n_parts or _implied_parts(first)
    paths = [part_path(first.path, index) for index in range(expected)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise MissingFileError(
            f"a part of this {expected}-part model is missing",
            path=missing[0],
            field="tok_embeddings.weight" if n_parts is None else "n_parts",
            expected=f"{expected} files: {', '.join(path.name for path in paths)}",
            found=f"{expected - len(missing)} of them",
            cause=_why_missing(first),
            next_step=_first_of(first) or "put all parts into one directory and name the first",
        )
    return paths


def _why_missing(first: Part) -> str:
    suffix = first.path.suffix[1:]
    if suffix.isdigit():
        return f"{first.path.name} looks like part {suffix}, not the first"
    return "not all parts were downloaded, or they were renamed"


def _first_of(part: Part) -> str | None:
    """The first part beside a later one."""
    first = part.path.with_suffix("")
    return f"name {first}" if part.path.suffix[1:].isdigit() and first.is_file() else None


def _implied_parts(first: Part) -> int:
    """From the width of part 0's embedding: n_embd / columns there."""
    embedding = first.tensors.get("tok_embeddings.weight")
    if not first.container.multipart or embedding is None:
        return 1
    columns, n_embd = embedding[1].shape[-1], first.hparams.n_embd
    if not 0 < columns < n_embd or n_embd % columns or n_embd // columns > MOST_PARTS:
        return 1
    return n_embd // columns


def join_parts(parts: Sequence[Part]) -> dict[str, Tensor]:
    """The tensors over all parts, in the order of the first.

    Raises:
        FormatError: the parts do not belong together.
    """
    for part in parts[1:]:
        _check_sibling(parts[0], part)
    return {name: _join(name, parts) for name in parts[0].tensors}


def _check_sibling(first: Part, other: Part) -> None:
    strangers = sorted(set(first.tensors) ^ set(other.tensors))
    for what, expected, found in (
        ("container", first.container.title(first.version), other.container.title(other.version)),
        ("header", first.hparams, other.hparams),
        ("list of tensors", "the same in all parts", ", ".join(strangers[:3]) or "the same in all parts"),
    ):
        if expected != found:
            raise FormatError(
                f"this part does not belong to {first.path.name}: its {what} differs",
                path=other.path,
                field=what,
                expected=expected,
                found=found,
                cause="parts of two models, or of two conversions, lie in one directory",
                next_step="convert the checkpoint again so that all parts come from one run",
            )


def _join(name: str, parts: Sequence[Part]) -> Tensor:
    tensor_type, piece = parts[0].tensors[name]
    axis = split_axis(name, len(piece.shape)) if len(parts) > 1 else None
    if axis is None:
        return Tensor(name, tensor_type, piece.shape, (piece,))
    pieces = tuple(part.tensors[name][1] for part in parts)
    for part, other in zip(parts, pieces, strict=True):
        _check_joinable(name, part, tensor_type, piece, other, axis)
    shape = list(piece.shape)
    shape[axis] = sum(other.shape[axis] for other in pieces)
    return Tensor(name, tensor_type, tuple(shape), pieces, axis)


def _check_joinable(name: str, part: Part, tensor_type: TensorType, first: Piece, piece: Piece, axis: int) -> None:
    other = 1 - axis
    if part.tensors[name][0] == tensor_type and len(piece.shape) == 2 and piece.shape[other] == first.shape[other]:
        return
    raise ShapeError(
        f"tensor {name!r} of this part can't be joined to the others",
        path=part.path,
        offset=piece.header,
        field="dims",
        expected=f"{tensor_type.name} with {first.shape[other]} {'columns' if other else 'rows'}",
        found=f"{part.tensors[name][0].name} of shape {list(piece.shape)}",
        cause="parts of two conversions lie in one directory",
    )


def split_sizes(total: int, n_parts: int) -> list[int]:
    """How a dimension is divided: equally, the remainder to the last part.

    >>> split_sizes(49953, 2)
    [24976, 24977]
    """
    share = total // n_parts
    return [share] * (n_parts - 1) + [total - share * (n_parts - 1)]
