"""Found by content: a tensor that holds what belongs to another, or its own values the other way round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import md5

import numpy as np

from ggmlpy.formats.out_tensor import OutTensor, row_chunks
from ggmlpy.formats.tensor_names import is_known, rename

from .tensors import Found, TensorDifference, writes_exactly

__all__ = ["Exchanged"]


@dataclass(frozen=True)
class Exchanged:
    """The explainer of layers, halves of a feed-forward or vocabulary matrices that changed places.

    Attributes:
        expected: what each tensor should be, by its name in the report.
    """

    expected: Mapping[str, OutTensor]

    def explain(self, found: Found, difference: TensorDifference) -> str | None:
        """Whose content it is, if it is another tensor's."""
        own = self.expected.get(found.name)
        if own is None or own.shape != found.shape or own.type.layout != found.type.layout:
            return None
        candidates = self._by_first_row.get(_key(found.type.layout, found.shape, found.row_of(0, 1).tobytes()), ())
        others = [name for name in candidates if name != found.name and writes_exactly(self.expected[name], found)]
        if len(others) == 1 or (others and len(own.shape) == 2):  # norms of several layers may be equal
            return _words(found.name, others[0])
        if len(own.shape) != 2:
            return None
        if _is_transposed(own, found):
            return "the tensor was transposed"
        return "its rows stand in another order" if _row_digests(own) == _row_digests(found) else None

    @cached_property
    def _by_first_row(self) -> dict[tuple[str, tuple[int, ...], bytes], list[str]]:
        """Which tensors begin with a row: candidates, compared whole afterwards."""
        names: dict[tuple[str, tuple[int, ...], bytes], list[str]] = {}
        for name, tensor in self.expected.items():
            first = next(row_chunks(tensor))[:1].tobytes()
            names.setdefault(_key(tensor.type.layout, tensor.shape, first), []).append(name)
        return names


def _key(layout: str, shape: tuple[int, ...], first: bytes) -> tuple[str, tuple[int, ...], bytes]:
    return layout, shape, first


def _is_transposed(own: OutTensor, found: Found) -> bool:
    rows, columns = own.shape
    if rows != columns or own.type.quantized:
        return False
    ours = np.concatenate(list(_blocks(own)))
    there = found.row_of(0, rows).view(own.type.block).reshape(rows, columns)
    return bool(np.array_equal(ours.view(np.uint8), np.ascontiguousarray(there.T).view(np.uint8)))


def _row_digests(tensor: OutTensor) -> Counter[bytes]:
    """Which rows a tensor has, whatever their order."""
    return Counter(md5(row.tobytes(), usedforsecurity=False).digest() for rows in row_chunks(tensor) for row in rows)


def _blocks(tensor: OutTensor) -> Iterator[np.ndarray]:
    for chunk in row_chunks(tensor):
        yield np.ascontiguousarray(chunk).view(tensor.type.block).reshape(len(chunk), -1)


def _words(found: str, other: str) -> str:
    """In words that are the same for all tensors of an exchange.

    >>> _words("layers.1.attention.wq.weight", "layers.2.attention.wq.weight")
    'layers 1 and 2 were exchanged'
    >>> _words("layers.2.feed_forward.w3.weight", "layers.2.feed_forward.w1.weight")
    'w1 and w3 were exchanged, or one holds the other'
    """
    a, b = (_bare(name).split(".") for name in (found, other))
    if a[0] == b[0] == "layers" and a[1] != b[1] and a[2:] == b[2:]:
        return f"layers {' and '.join(sorted((a[1], b[1]), key=int))} were exchanged"
    if {a[0], b[0]} == {"tok_embeddings", "output"}:
        return "tok_embeddings and output were exchanged, or tied by mistake"
    return f"{' and '.join(sorted((a[-2], b[-2])))} were exchanged, or one holds the other"


def _bare(name: str) -> str:
    """The Meta name of a tensor in a report."""
    name = name.rsplit(": ", 1)[-1]
    return rename(name, "meta") if is_known(name) else name
