"""The tensor types of every GGML file before and including GGUF v3: one record per meaning of an id.

llama.cpp changed the bytes behind an id several times in 2023 and said so only by the version of the container
(or, in April 2023, not at all). Here each distinct layout is one record, and :func:`types_of` says which record an id
means in which container.

================  ===  =====  =====  ==========================================================  ====================
layout            id   block  bytes  fields of a block                                           element order of codes
================  ===  =====  =====  ==========================================================  ====================
q4_0-2023-03      2    32     20     f32 d, 16 bytes                                             2j low, 2j+1 high
q4_0-2023-05      2    32     20     f32 d, 16 bytes                                             j low, j+16 high
q4_0-2023-08      2    32     18     f16 d, 16 bytes                                             j low, j+16 high
q4_1-2023-03      3    32     24     f32 d, f32 m, 16 bytes                                      2j low, 2j+1 high
q4_1-2023-05      3    32     24     f32 d, f32 m, 16 bytes                                      j low, j+16 high
q4_1-2023-08      3    32     20     f16 d, f16 m, 16 bytes                                      j low, j+16 high
q4_2              4    16     10     f16 d, 8 bytes                                              2j low, 2j+1 high
q4_3              5    16     12     f16 d, f16 m, 8 bytes                                       2j low, 2j+1 high
q5_0-2023-04      6    32     22     f16 d, u32 qh (bit l = element l), 16 bytes                 2j low, 2j+1 high
q5_0-2023-05      6    32     22     f16 d, u32 qh (bit l = element l), 16 bytes                 j low, j+16 high
q5_1-2023-04      7    32     24     f16 d, f16 m, u32 qh, 16 bytes                              2j low, 2j+1 high
q5_1-2023-05      7    32     24     f16 d, f16 m, u32 qh, 16 bytes                              j low, j+16 high
q8_0-2023-04      8    32     36     f32 d, 32 signed bytes                                      in order
q8_0-2023-08      8    32     34     f16 d, 32 signed bytes                                      in order
bf16              30   1      2      the upper half of an f32 (GGUF only)                        in order
q2_K … q6_K       10…  256    84…    see the block dtypes below                                  k_quants.c, 2023-06
================  ===  =====  =====  ==========================================================  ====================

Sources: ggml.c at llama.cpp da5303c1e, 352589927, 3e5aa8a1c, 6986c7835 and dadbed99e; k_quants.h at dadbed99e;
q4_3 from ggml.c between e0305ead3 (2023-04-20) and 36d19a603 (2023-04-28). For one day (7a32fcb3b, 2023-04-25, to
574406dc7, 2023-04-26) q8_0 had id 6, which q5_0 has since: such a file has ftype 7 in its header.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ggmlpy.files.errors import UsageError

__all__ = ["TENSOR_TYPES", "CodeBits", "TensorType", "type_named", "types_of"]

QK = 32
QK_K = 256
Q8_0_FTYPE = 7
Q8_0_ID_OF_ONE_DAY = 6


@dataclass(frozen=True)
class CodeBits:
    """Some bits of every code of a block, and where they are.

    A byte holds the bits of 8 / ``width`` values, the first in its lowest bits. These values are ``apart`` places from
    each other: with 4 bits, byte j holds values 2j and 2j + 1 if ``apart`` is 1, values j and j + 16 if it is 16.

    Attributes:
        field: the field of the block that holds them.
        width: how many bits of a code: 1, 2, 4 or 8.
        apart: the distance between values that share a byte.
    """

    field: str
    width: int
    apart: int = 1


@dataclass(frozen=True)
class TensorType:
    """One meaning of a tensor type id: everything that packs or unpacks blocks is derived from this record.

    Attributes:
        id: the number in the file.
        name: llama.cpp's name, the same in every era ("q4_0").
        layout: the name of these very bytes ("q4_0-2023-05"); equal layouts are interchangeable byte for byte.
        blck_size: values in a block; a row's length must be a multiple of it.
        block: the numpy dtype of one block.
        doc: how a value is decoded.
        codes: where the bits of a code are, the lowest bits first; empty where values are not codes.
        zero: the code that stands for 0 (what is subtracted from a code before it is scaled).
        run: values that share a scale: the block, or in k-quants a part of it.
    """

    id: int
    name: str
    layout: str
    blck_size: int
    block: np.dtype
    doc: str
    codes: tuple[CodeBits, ...] = ()
    zero: int = 0
    run: int = 1

    @property
    def type_size(self) -> int:
        """Bytes of one block."""
        return self.block.itemsize

    @property
    def quantized(self) -> bool:
        """Whether values are codes that share a scale (everything but f32, f16 and bf16)."""
        return self.blck_size > 1

    @property
    def is_k_quant(self) -> bool:
        """Whether a block has parts with scales of their own, which are codes themselves."""
        return self.run < self.blck_size

    @cached_property
    def code_width(self) -> int:
        """Bits of a code."""
        return sum(part.width for part in self.codes)

    @cached_property
    def bits_per_weight(self) -> float:
        """Bits that one value costs, scales included."""
        return 8 * self.type_size / self.blck_size

    @property
    def field_names(self) -> tuple[str, ...]:
        """The fields of a block; empty for f32 and f16."""
        return self.block.names or ()

    def offset(self, field: str) -> int:
        """The byte of a block at which a field begins.

        >>> TENSOR_TYPES["q4_1-2023-05"].offset("qs")
        8
        """
        assert self.block.fields is not None
        return self.block.fields[field][1]

    def row_bytes(self, n: int) -> int:
        """Bytes of a row of ``n`` values.

        >>> TENSOR_TYPES["q4_0-2023-03"].row_bytes(4096)
        2560
        """
        if n % self.blck_size:
            raise UsageError(f"a row of {n} values is not a multiple of {self.name}'s block of {self.blck_size}")
        return n // self.blck_size * self.type_size

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<TensorType {self.layout}: {self.blck_size} values in {self.type_size} bytes>"


def _fields(*fields: str) -> np.dtype:
    """A packed little-endian block from "name code" or "name code count" words.

    >>> _fields("d <f2", "qs u1 16").itemsize
    18
    """
    rows = [field.split() for field in fields]
    return np.dtype([(row[0], row[1], int(row[2])) if len(row) == 3 else (row[0], row[1]) for row in rows])


def _plain(number: int, name: str, block: str, doc: str) -> TensorType:
    """A type whose values are numbers, not codes."""
    return TensorType(number, name, name, 1, np.dtype(block), doc)


def _type(
    number: int, layout: str, fields: tuple[str, ...], codes: tuple[CodeBits, ...], zero: int, doc: str, run: int = 0
) -> TensorType:
    """A type of blocks; how many values one has follows from its fields."""
    block = _fields(*fields)
    blck_size = block[codes[0].field].itemsize * 8 // codes[0].width
    return TensorType(number, layout.split("-")[0], layout, blck_size, block, doc, codes, zero, run or blck_size)


PAIRS, HALVES = (CodeBits("qs", 4, 1),), (CodeBits("qs", 4, 16),)
PAIRS5, HALVES5 = (*PAIRS, CodeBits("qh", 1)), (*HALVES, CodeBits("qh", 1))
BYTES = (CodeBits("qs", 8),)
MINS = "d * scale * q - dmin * min"

# fmt: off
_ALL = (
    _plain(0, "f32", "<f4", "the value"),
    _plain(1, "f16", "<f2", "the value"),
    #        layout          fields of a block                                 codes  zero   a value is
    _type(2,  "q4_0-2023-03", ("d <f4", "qs u1 16"),                           PAIRS,    8, "(q - 8) * d"),
    _type(2,  "q4_0-2023-05", ("d <f4", "qs u1 16"),                           HALVES,   8, "(q - 8) * d"),
    _type(2,  "q4_0-2023-08", ("d <f2", "qs u1 16"),                           HALVES,   8, "(q - 8) * d"),
    _type(3,  "q4_1-2023-03", ("d <f4", "m <f4", "qs u1 16"),                  PAIRS,    0, "q * d + m"),
    _type(3,  "q4_1-2023-05", ("d <f4", "m <f4", "qs u1 16"),                  HALVES,   0, "q * d + m"),
    _type(3,  "q4_1-2023-08", ("d <f2", "m <f2", "qs u1 16"),                  HALVES,   0, "q * d + m"),
    _type(4,  "q4_2",         ("d <f2", "qs u1 8"),                            PAIRS,    8, "(q - 8) * d"),
    _type(5,  "q4_3",         ("d <f2", "m <f2", "qs u1 8"),                   PAIRS,    0, "q * d + m"),
    _type(6,  "q5_0-2023-04", ("d <f2", "qh <u4", "qs u1 16"),                 PAIRS5,  16, "(q - 16) * d"),
    _type(6,  "q5_0-2023-05", ("d <f2", "qh <u4", "qs u1 16"),                 HALVES5, 16, "(q - 16) * d"),
    _type(7,  "q5_1-2023-04", ("d <f2", "m <f2", "qh <u4", "qs u1 16"),        PAIRS5,   0, "q * d + m"),
    _type(7,  "q5_1-2023-05", ("d <f2", "m <f2", "qh <u4", "qs u1 16"),        HALVES5,  0, "q * d + m"),
    _type(8,  "q8_0-2023-04", ("d <f4", "qs i1 32"),                           BYTES,    0, "q * d"),
    _type(8,  "q8_0-2023-08", ("d <f2", "qs i1 32"),                           BYTES,    0, "q * d"),
    _plain(30, "bf16", "<u2", "the upper half of an f32"),
    _type(10, "q2_K", ("scales u1 16", "qs u1 64", "d <f2", "dmin <f2"),
          (CodeBits("qs", 2, 32),), 0, MINS, run=16),
    _type(11, "q3_K", ("hmask u1 32", "qs u1 64", "scales u1 12", "d <f2"),
          (CodeBits("qs", 2, 32), CodeBits("hmask", 1, 32)), 4, "d * scale * (q - 4)", run=16),
    _type(12, "q4_K", ("d <f2", "dmin <f2", "scales u1 12", "qs u1 128"),
          (CodeBits("qs", 4, 32),), 0, MINS, run=32),
    _type(13, "q5_K", ("d <f2", "dmin <f2", "scales u1 12", "qh u1 32", "qs u1 128"),
          (CodeBits("qs", 4, 32), CodeBits("qh", 1, 32)), 0, MINS, run=32),
    _type(14, "q6_K", ("ql u1 128", "qh u1 64", "scales i1 16", "d <f2"),
          (CodeBits("ql", 4, 64), CodeBits("qh", 2, 32)), 32, "d * scale * (q - 32)", run=16),
)

TENSOR_TYPES: dict[str, TensorType] = {record.layout: record for record in _ALL}

_GGUF_ONLY = ("bf16",)
_K_QUANTS = ("q2_K", "q3_K", "q4_K", "q5_K", "q6_K")
_MARCH  = ("f32", "f16", "q4_0-2023-03", "q4_1-2023-03")
_APRIL  = (*_MARCH, "q4_2", "q4_3", "q5_0-2023-04", "q5_1-2023-04", "q8_0-2023-04")
_MAY    = ("f32", "f16", "q4_0-2023-05", "q4_1-2023-05", "q5_0-2023-05", "q5_1-2023-05", "q8_0-2023-04")
_AUGUST = ("f32", "f16", "q4_0-2023-08", "q4_1-2023-08", "q5_0-2023-05", "q5_1-2023-05", "q8_0-2023-08", *_K_QUANTS)

_LAYOUTS_OF: dict[tuple[str, int], tuple[str, ...]] = {
    ("ggml", 0): _MARCH,
    ("ggmf", 1): _MARCH,
    ("ggjt", 1): _APRIL,
    ("ggjt", 2): _MAY,
    ("ggjt", 3): _AUGUST,
    ("gguf", 1): _AUGUST,
    ("gguf", 2): (*_AUGUST, *_GGUF_ONLY),
    ("gguf", 3): (*_AUGUST, *_GGUF_ONLY),
}
# fmt: on


def types_of(container: str, version: int, ftype: int | None = None) -> dict[int, TensorType]:
    """What each tensor type id means in a container.

    Args:
        ftype: the header's, where it is known: it tells apart what the container does not.

    >>> types_of("ggjt", 3)[2].layout
    'q4_0-2023-08'
    >>> types_of("ggmf", 1)[2].layout
    'q4_0-2023-03'
    """
    types = {TENSOR_TYPES[layout].id: TENSOR_TYPES[layout] for layout in _LAYOUTS_OF[container, version]}
    if (container, version, ftype) == ("ggjt", 1, Q8_0_FTYPE):
        types[Q8_0_ID_OF_ONE_DAY] = replace(types[8], id=Q8_0_ID_OF_ONE_DAY)
    return types


def type_named(name: str, container: str, version: int) -> TensorType:
    """The type that ``name`` ("q4_0") means in a container.

    Raises:
        UsageError: the container's era knows no such type.
    """
    known = {record.name: record for record in types_of(container, version).values()}
    if name not in known:
        raise UsageError(f"{container} v{version} has no tensor type {name!r}; it has {', '.join(known)}")
    return known[name]
