"""Differing tensors as text: columns of figures, the first differing block on both sides, a table for notebooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .tensors import BlockView, TensorDifference
from .terms import Terms
from .verdict import Table

__all__ = ["figures", "first_difference", "headings", "tensor_table"]

# fmt: off
_FIGURES = {  # heading: attribute, format
    "different":  ("n_different", ","),
    "of":         ("n_values",    ","),
    "median ulp": ("median_ulp",  "g"),
    "max ulp":    ("max_ulp",     ","),
    "max error":  ("max_error",   ".3g"),
}
# fmt: on


def headings(widths: Mapping[str, int]) -> str:
    """The headings of :func:`figures`.

    Args:
        widths: heading -> width of its column.
    """
    return " ".join(f"{heading:>{width}}" for heading, width in widths.items())


def figures(tensor: TensorDifference, widths: Mapping[str, int]) -> str:
    """How far a tensor differs, in columns."""
    return " ".join(f"{_figure(tensor, heading):>{width}}" for heading, width in widths.items())


def _figure(tensor: TensorDifference, heading: str) -> str:
    attribute, spec = _FIGURES[heading]
    return format(getattr(tensor, attribute), spec)


def first_difference(tensors: Sequence[TensorDifference], terms: Terms) -> Iterator[str]:
    """The first block that differs, decoded on both sides; nothing if there is none."""
    first = next((tensor for tensor in tensors if tensor.a and tensor.b), None)
    if first is None:
        return
    yield f"first difference: {first.name} row {first.row} column {first.column}"
    for side, view in zip(terms.sides, (first.a, first.b), strict=True):
        if view:
            yield from _block(side, view, terms.no_codes)
    if any(first.signs):
        yield from (f"  {side} looks like the {sign}" for side, sign in zip(terms.sides, first.signs, strict=True))


def _block(side: str, view: BlockView, no_codes: str) -> Iterator[str]:
    place = f" at offset {view.offset}" if view.offset is not None else ""
    yield f"  {side} {view.layout}{place}  " + "  ".join(f"{name} {value!r}" for name, value in view.fields.items())
    codes = " ".join(map(str, view.codes)) or no_codes
    if codes:
        yield f"    codes  {codes}"
    yield f"    values {' '.join(f'{value:.6g}' for value in view.values)}"


def tensor_table(tensors: Sequence[TensorDifference]) -> Table:
    """Headings and rows: name, status and all figures."""
    names = {"values": "of", **{name: name for name in _FIGURES if name != "of"}}
    rows = [[t.name, t.status, *(_figure(t, name) for name in names.values())] for t in tensors]
    return ["tensor", "status", *names], rows
