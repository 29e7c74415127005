"""The codes inside quantized blocks, and carrying them from one era's layout to another's without requantizing.

llama.cpp moved the codes within a block (April: neighbors share a byte; May: elements j and j + 16 do) and
changed how wide the scale is (f32, from August f16). The code of an element means the same throughout, so a block can
be carried over: codes are reordered, which loses nothing, and a scale may be rounded to f16, which loses what
:func:`repack`'s caller can measure.

In every type a value is the scale of its run times a small integer (and more, where there is a minimum):
:func:`signed_codes` reads those integers, whatever way they are packed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .grids import grid_values
from .tensor_types import CodeBits, TensorType

__all__ = ["pack_codes", "repack", "repackable", "signed_codes", "unpack_codes"]


def unpack_codes(blocks: NDArray[Any], tensor_type: TensorType) -> NDArray[Any]:
    """The code of each element of a type that has ``codes``: uint8 (q8_0: int8) [..., n_blocks, blck_size].

    >>> from ggmlpy.formats.tensor_types import TENSOR_TYPES
    >>> block = np.zeros(1, TENSOR_TYPES["q4_0-2023-03"].block)
    >>> block["qs"][0, :2] = 0x21, 0x43
    >>> unpack_codes(block, TENSOR_TYPES["q4_0-2023-03"])[0, :4].tolist()
    [1, 2, 3, 4]
    """
    low, *rest = tensor_type.codes
    codes, shift = _unpack(blocks, low), low.width
    for part in rest:
        codes |= _unpack(blocks, part) << np.uint8(shift)
        shift += part.width
    return codes


def signed_codes(blocks: NDArray[Any], tensor_type: TensorType) -> NDArray[Any]:
    """Each value in units of its scale: int8, or uint8 where none is less than 0. [..., n_blocks, blck_size]."""
    if tensor_type.grid:
        return grid_values(blocks, tensor_type.layout)
    if not tensor_type.codes:
        return ternary_digits(blocks).view(np.int8) - np.int8(1)
    codes = unpack_codes(blocks, tensor_type)
    if tensor_type.levels:
        return np.array(tensor_type.levels, np.int8)[codes]
    return codes.view(np.int8) - np.int8(tensor_type.zero) if tensor_type.zero else codes


POWERS_OF_3 = np.array([1, 3, 9, 27, 81], np.uint8)[:, np.newaxis]


def ternary_digits(blocks: NDArray[Any]) -> NDArray[np.uint8]:
    """The codes 0, 1, 2 of tq1_0, five in a byte (four in the bytes of ``qh``): uint8 [..., n_blocks, 256].

    A byte is the fraction of 256 that the number with these digits is of 3^5, rounded up: so multiplying it by 3 moves
    the first digit out at the top. Neighboring values stand in neighboring bytes.
    """
    runs = []
    for data, digits in ((blocks["qs"][..., :32], 5), (blocks["qs"][..., 32:], 5), (blocks["qh"], 4)):
        rest = data[..., np.newaxis, :] * POWERS_OF_3[:digits]  # modulo 256
        runs.append((rest.astype(np.uint16) * 3 >> 8).astype(np.uint8).reshape(*blocks.shape, -1))
    return np.concatenate(runs, axis=-1)


def pack_codes(codes: NDArray[Any], blocks: NDArray[Any], tensor_type: TensorType) -> None:
    """Put codes [..., n_blocks, blck_size] into the code fields of ``blocks``; the inverse of :func:`unpack_codes`."""
    shift = 0
    for part in tensor_type.codes:
        _pack(codes >> np.uint8(shift) if shift else codes, blocks, part)
        shift += part.width


def _unpack(blocks: NDArray[Any], part: CodeBits) -> NDArray[Any]:
    """Some bits of each code, as small integers: [..., n_blocks, blck_size]."""
    if part.width == 8:
        return blocks[part.field]
    data, per_byte = _bytes_of(blocks, part), 8 // part.width
    groups = data.reshape(*blocks.shape, -1, part.apart)  # the bytes that hold values apart * per_byte …
    bits = np.empty((*groups.shape[:-1], per_byte, part.apart), np.uint8)
    for k in range(per_byte):
        np.right_shift(groups, np.uint8(part.width * k), out=bits[..., k, :])
    bits &= np.uint8((1 << part.width) - 1)
    return bits.reshape(*blocks.shape, -1)


def _pack(codes: NDArray[Any], blocks: NDArray[Any], part: CodeBits) -> None:
    """Put the lowest bits of each code [..., n_blocks, blck_size] where ``part`` has them."""
    field = blocks[part.field]
    if part.width == 8:
        field[...] = codes
        return
    per_byte = 8 // part.width
    bits = (codes & np.uint8((1 << part.width) - 1)).reshape(*blocks.shape, -1, per_byte, part.apart)
    data = bits[..., 0, :].copy()
    for k in range(1, per_byte):
        data |= bits[..., k, :] << np.uint8(part.width * k)
    field[...] = data.reshape(*blocks.shape, -1).view(field.dtype).reshape(field.shape)


def _bytes_of(blocks: NDArray[Any], part: CodeBits) -> NDArray[np.uint8]:
    """A field as its bytes: uint8 [..., n_blocks, n_bytes]."""
    field = np.ascontiguousarray(blocks[part.field])
    return field.reshape(*blocks.shape, -1).view(np.uint8)


def repackable(source: TensorType, target: TensorType) -> bool:
    """Whether the codes of ``source`` can be carried into ``target``: the same type in two eras."""
    return source.name == target.name and bool(source.codes)


def repack(blocks: NDArray[Any], source: TensorType, target: TensorType) -> NDArray[Any]:
    """The same codes in the layout of ``target``; scales are converted (rounded to nearest where f32 becomes f16)."""
    out = np.zeros(blocks.shape, target.block)
    with np.errstate(over="ignore"):
        for name in set(target.field_names) - {part.field for part in target.codes}:
            out[name] = blocks[name]
    pack_codes(unpack_codes(blocks, source), out, target)
    return out
