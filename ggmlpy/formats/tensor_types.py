"""The tensor types of every GGML file up to today's GGUF: one record per meaning of an id.

llama.cpp changed the bytes behind an id several times in 2023 and said so only by the version of the container
(or, in April 2023, not at all). Here each distinct layout is one record, and :func:`types_of` says which record an id
means in which container. Since GGUF an id means the same forever, but for iq1_s and iq3_s, whose blocks were others in
their first weeks, which no file says: an era knows (:mod:`ggmlpy.formats.eras`). Types that were given up are in
``REMOVED``.

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
q2_K … q6_K       10…  256    84…    see the records below                                       k_quants.c, 2023-06
================  ===  =====  =====  ==========================================================  ====================

What came later stands only in GGUF. In all of these types a value is the scale of its run times a small integer:

================  ===============================================================================================
bf16              no codes: the upper half of an f32
q1_0, q2_0        codes of 1 and 2 bits, in order
tq1_0, tq2_0      ternary: five digits to base 3 share a byte (tq1_0), or codes of 2 bits
iq4_nl, iq4_xs    a code is an index into sixteen ``levels`` that stand closer together around 0
mxfp4, nvfp4      a code is a float of four bits (E2M1: ``levels``, doubled); the scale has no mantissa, or three bits
iq1_… to iq3_…    an index says four or eight values at once: a point of a ``grid``, see :mod:`ggmlpy.formats.grids`
iq1_s-2024-02     until 2024-03-11: another grid, a scale for each eight values, no eighths
iq1_s-2024-03     for ten hours of 2024-03-11: scales of four bits, no eighths
iq3_s-2024-02     until 2024-03-02: another grid
================  ===============================================================================================

Sources: ggml.c at llama.cpp da5303c1e, 352589927, 3e5aa8a1c, 6986c7835 and dadbed99e; k_quants.h at dadbed99e;
ggml-common.h and ggml.h of ggml 0.25.3 (2026); q4_3 from ggml.c between e0305ead3 (2023-04-20) and 36d19a603
(2023-04-28). For one day (7a32fcb3b, 2023-04-25, to 574406dc7, 2023-04-26) q8_0 had id 6, which q5_0 has since: such a
file has ftype 7 in its header.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ggmlpy.files.errors import UsageError

__all__ = ["REMOVED", "TENSOR_TYPES", "CodeBits", "TensorType", "type_named", "types_of"]

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
        codes: where the bits of a code are, the lowest bits first; empty where no bits are a value's own.
        zero: the code that stands for 0 (what is subtracted from a code before it is scaled).
        run: values that share a scale: the block or a part of it.
        levels: the integer that each code stands for, where that is not the code less ``zero``.
        grid: whose points are several values at once, see :mod:`ggmlpy.formats.grids`; empty where there is none.
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
    levels: tuple[int, ...] = ()
    grid: str = ""

    @property
    def type_size(self) -> int:
        """Bytes of one block."""
        return self.block.itemsize

    @property
    def quantized(self) -> bool:
        """Whether values are codes that share a scale (not f32, f16 and other plain numbers)."""
        return self.blck_size > 1

    @property
    def is_k_quant(self) -> bool:
        """Whether it is one of the k-quants of 2023-06: parts of a block have scales, which are codes themselves."""
        return self.name.endswith("_K")

    @property
    def scale_fields(self) -> tuple[str, ...]:
        """The fields that hold one scale or minimum each."""
        single = ("d", "m", "dmin", "e")
        return tuple(name for name in self.field_names if name in single and not self.block[name].shape)

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

    def field_words(self, field: str) -> str:
        """A field's name, type and count.

        >>> TENSOR_TYPES["q4_1-2023-05"].field_words("qs")
        'qs u1 × 16'
        """
        item = self.block[field]
        return f"{field} {item.base.str.lstrip('<|')}" + (f" × {item.shape[0]}" if item.shape else "")

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
    number: int,
    layout: str,
    fields: tuple[str, ...],
    codes: tuple[CodeBits, ...],
    zero: int,
    doc: str,
    run: int = 0,
    levels: tuple[int, ...] = (),
) -> TensorType:
    """A type of blocks; how many values one has follows from its fields."""
    block = _fields(*fields)
    blck_size = block[codes[0].field].itemsize * 8 // codes[0].width
    return TensorType(
        number, layout.split("-")[0], layout, blck_size, block, doc, codes, zero, run or blck_size, levels
    )


def _packed(number: int, layout: str, fields: tuple[str, ...], doc: str, run: int = QK_K, grid: str = "") -> TensorType:
    """A type of 256 values in which no bits are a value's own."""
    return TensorType(number, layout.split("-")[0], layout, QK_K, _fields(*fields), doc, run=run, grid=grid)


PAIRS, HALVES = (CodeBits("qs", 4, 1),), (CodeBits("qs", 4, 16),)
PAIRS5, HALVES5 = (*PAIRS, CodeBits("qh", 1)), (*HALVES, CodeBits("qh", 1))
BYTES = (CodeBits("qs", 8),)
MINS = "d * scale * q - dmin * min"
NON_LINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # doubled, so that they are integers

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
    _packed(16, "iq2_xxs", ("d <f2", "qs u1 64"),
            "d * (1 + 2 * scale) / 8 * sign * point", run=32, grid="iq2xxs"),
    _packed(17, "iq2_xs", ("d <f2", "qs <u2 32", "scales u1 8"),
            "d * (1 + 2 * scale) / 8 * sign * point", run=16, grid="iq2xs"),
    _packed(18, "iq3_xxs", ("d <f2", "qs u1 64", "signs <u4 8"),
            "d * (1 + 2 * scale) / 4 * sign * point", run=32, grid="iq3xxs"),
    _packed(19, "iq1_s-2024-02", ("d <f2", "qs u1 32", "scales u1 16"),
            "d * (1 + 2 * scale) * point", run=8, grid="iq1s-2024-02"),
    _packed(19, "iq1_s-2024-03", ("d <f2", "qs u1 32", "qh <u2 8"),
            "d * (1 + 2 * scale) * point", run=32, grid="iq1s"),
    _packed(19, "iq1_s", ("d <f2", "qs u1 32", "qh <u2 8"),
            "d * (1 + 2 * scale) * (point ± 1/8)", run=32, grid="iq1s"),
    _type(20, "iq4_nl", ("d <f2", "qs u1 16"), HALVES, 0, "d * level[q]", levels=NON_LINEAR),
    _packed(21, "iq3_s-2024-02", ("d <f2", "qs u1 64", "qh u1 8", "signs u1 32", "scales u1 4"),
            "d * (1 + 2 * scale) / 4 * sign * point", run=32, grid="iq3s-2024-02"),
    _packed(21, "iq3_s", ("d <f2", "qs u1 64", "qh u1 8", "signs u1 32", "scales u1 4"),
            "d * (1 + 2 * scale) * sign * point", run=32, grid="iq3s"),
    _packed(22, "iq2_s", ("d <f2", "qs u1 32", "signs u1 32", "qh u1 8", "scales u1 8"),
            "d * (1 + 2 * scale) / 8 * sign * point", run=16, grid="iq2s"),
    _type(23, "iq4_xs", ("d <f2", "scales_h <u2", "scales_l u1 4", "qs u1 128"), HALVES, 0,
          "d * (scale - 32) * level[q]", run=32, levels=NON_LINEAR),
    _plain(24, "i8",  "i1",  "the value"),
    _plain(25, "i16", "<i2", "the value"),
    _plain(26, "i32", "<i4", "the value"),
    _plain(27, "i64", "<i8", "the value"),
    _plain(28, "f64", "<f8", "the value"),
    _packed(29, "iq1_m", ("qs u1 32", "qh u1 16", "scales <u2 4"),
            "d * (1 + 2 * scale) * (point ± 1/8)", run=16, grid="iq1s"),
    _plain(30, "bf16", "<u2", "the upper half of an f32"),
    _packed(34, "tq1_0", ("qs u1 48", "qh u1 4", "d <f2"), "(digit - 1) * d"),
    _type(35, "tq2_0", ("qs u1 64", "d <f2"),    (CodeBits("qs", 2, 32),), 1,  "(q - 1) * d"),
    _type(39, "mxfp4", ("e u1", "qs u1 16"),     HALVES, 0, "level[q] * 2 ** (e - 128)", levels=E2M1),
    _type(40, "nvfp4", ("d u1 4", "qs u1 32"),   (CodeBits("qs", 4, 8),), 0, "level[q] * d / 2", run=16, levels=E2M1),
    _type(41, "q1_0",  ("d <f2", "qs u1 16"),    (CodeBits("qs", 1),), 0, "d or -d", levels=(-1, 1)),
    _type(42, "q2_0",  ("d <f2", "qs u1 16"),    (CodeBits("qs", 2),), 1, "(q - 1) * d"),
)

TENSOR_TYPES: dict[str, TensorType] = {record.layout: record for record in _ALL}

_OF_WEEKS = ("iq1_s-2024-02", "iq1_s-2024-03", "iq3_s-2024-02")  # no file says that it has them
_GGUF_ONLY = tuple(record.layout for record in _ALL if record.id > 14 and record.layout not in _OF_WEEKS)
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

# Ids that no program reads any more: name, and what became of it.
_ARM = "an order of q4_0's blocks for ARM processors, given up in 2024-11: programs now reorder q4_0 when they load it"
_NL_ARM = "an order of iq4_nl's blocks for ARM processors, given up before a release"
REMOVED: dict[int, tuple[str, str]] = {
    4:  ("q4_2", "a type of April 2023, given up before GGUF"),
    5:  ("q4_3", "a type of April 2023, given up before GGUF"),
    9:  ("q8_1", "a type of activations, which are never in a file"),
    15: ("q8_K", "a type of activations, which are never in a file"),
    31: ("q4_0_4_4", _ARM),
    32: ("q4_0_4_8", _ARM),
    33: ("q4_0_8_8", _ARM),
    36: ("iq4_nl_4_4", _NL_ARM),
    37: ("iq4_nl_4_8", _NL_ARM),
    38: ("iq4_nl_8_8", _NL_ARM),
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
