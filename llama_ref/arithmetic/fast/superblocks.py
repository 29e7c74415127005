"""How k-quants become codes and scales inside a kernel: blocks of 256 values, in runs of 16 or 32 that have scales.

A value is d · scale · (code - zero) - dmin · min, where scales and mins are small integers. So a row times a vector is

    Σ over blocks of  d·da · S  -  dmin·da · M      S = Σ over runs of scale · Σ (code - zero)·a,   M = Σ of min · Σ a

with a, the vector's int8 codes, and their one scale da per block. S and M are whole numbers: however a kernel finds
them, the floats of a row are d·da·S added block by block, dmin·da·M likewise, and the difference at the end. That is
why the kernel for one token and the one for many give the same bits.

Where the codes lie comes from the table of tensor types (`registers_of`); how scales are packed is a function for each
of the three ways. Four rows are read side by side: the headers of four blocks fill one register.

Two instructions carry the work. `dot_bytes` makes lanes of four products, which fit 16 bits; two such registers are
packed to words, and `dot_words` multiplies these with the scales of their runs and adds them, still exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llvmlite import ir

from ggmlpy.formats.tensor_types import TensorType
from ggmlpy.machine.vectors import (
    F16,
    I8X64,
    I16,
    I16X32,
    I32,
    I32X16,
    at,
    call,
    constant,
    dot_bytes,
    dot_words,
    fields_of_bytes,
    gather,
    gather_sums,
    has_lookup,
    join,
    load_as,
    look_up,
    look_up_in_quarters,
    pack_words,
    shuffle,
    vector,
    widen_f16,
)

from .blocks import times_zero
from .layouts import A_CODES, A_RUN_STARTS, A_STARTS, A_SUMS32, A_SUMS_EVEN, A_SUMS_ODD, START_ZERO, zero_of
from .side_by_side import columns_of_block, columns_of_quarters, factors_of_rows

__all__ = ["Register", "Superblock", "registers_of"]

ROWS = 4  # read side by side


@dataclass(frozen=True)
class Register:
    """64 codes of a block: the bytes at `offset`, shifted, and which value of the block each of them holds."""

    offset: int
    shift: int
    values: tuple[int, ...]


def registers_of(record: TensorType) -> list[Register]:
    """The registers that the low bits of all codes of a block fill, in the order of memory.

    >>> from ggmlpy.formats.tensor_types import TENSOR_TYPES
    >>> [(r.offset, r.shift, r.values[0], r.values[32]) for r in registers_of(TENSOR_TYPES["q4_K"])]
    [(16, 0, 0, 64), (16, 4, 32, 96), (80, 0, 128, 192), (80, 4, 160, 224)]
    """
    low = record.codes[0]
    per_byte, size = 8 // low.width, record.block[low.field].itemsize
    found = []
    for start in range(0, size, 64):
        for part in range(per_byte):
            values = tuple(
                j // low.apart * low.apart * per_byte + part * low.apart + j % low.apart
                for j in range(start, start + 64)
            )
            found.append(Register(record.offset(low.field) + start, part * low.width, values))
    return found


@dataclass(frozen=True)
class Superblock:
    """A k-quant, and the instructions that read four rows of it."""

    record: TensorType

    @property
    def has_mins(self) -> bool:
        return "dmin" in self.record.field_names

    @property
    def runs(self) -> int:
        return self.record.blck_size // self.record.run

    @cached_property
    def registers(self) -> list[Register]:
        return registers_of(self.record)

    # Codes.

    @property
    def zero(self) -> int:
        """The code that means 0."""
        return zero_of(self.record)

    @property
    def small(self) -> bool:
        """Whether the sum of four products of codes fits 16 bits."""
        return not self.record.levels

    def codes(self, b: ir.IRBuilder, block: Any, register: Register, plus: int = 0) -> Any:
        """64 codes without sign, or-ed with `plus`, as i32 [16]."""
        low = self.record.codes[0]
        x = load_as(b, at(b, block, register.offset), I32X16)
        x = fields_of_bytes(b, x, register.shift, low.width, plus=plus)
        if self.record.levels:
            return look_up(b, x, [level + self.zero for level in self.record.levels])
        return b.or_(x, self._high_bits(b, block, register)) if len(self.record.codes) > 1 else x

    def _high_bits(self, b: ir.IRBuilder, block: Any, register: Register) -> Any:
        """The bits of the same codes that lie in a field of their own, in place."""
        low, high = self.record.codes
        byte, left = zip(*map(self._place_of_high, register.values[::4]), strict=True)
        x = load_as(b, at(b, block, self.record.offset(high.field) + min(byte)), vector(I32, 8))
        x = shuffle(b, x, x, [(place - min(byte)) // 4 for place in byte])
        x = call(b, "llvm.fshl.v16i32", I32X16, [x, x, constant([n % 32 for n in left], I32X16)])
        return b.and_(x, in_every_byte(((1 << high.width) - 1) << low.width))

    # Scales, as bytes without sign: of row r and run j at 16r + j. A scale is such a byte minus `scale_zero`.

    @property
    def scale_zero(self) -> int:
        return {"q3_K": 32, "q6_K": 128, "iq4_xs": 32}.get(self.record.name, 0)

    @property
    def header(self) -> int:
        """Where the 16 bytes of a block that hold its scales begin."""
        return {"q3_K": 94, "q6_K": 192}.get(self.record.name, 0)

    def scales(self, b: ir.IRBuilder, headers: Any) -> tuple[Any, Any, int]:
        """Scales and mins of four rows, i8 [64] each, and where a row's mins begin."""
        if self.record.name == "q2_K":
            nibble = in_every_byte(0x0F)
            scales, mins = b.and_(headers, nibble), b.and_(b.lshr(headers, constant(4, I32X16)), nibble)
            return b.bitcast(scales, I8X64), b.bitcast(mins, I8X64), 0
        if self.record.name == "q3_K":
            return b.bitcast(six_bits_of_q3(b, headers), I8X64), None, 0
        if self.record.name == "q6_K":
            return b.bitcast(b.xor(headers, in_every_byte(-0x80)), I8X64), None, 0
        if self.record.name == "iq4_xs":
            return six_bits_of_iq4(b, headers), None, 0
        both = b.bitcast(six_bits(b, headers), I8X64)
        return both, both, 8

    def headers(self, b: ir.IRBuilder, blocks: Sequence[Any]) -> Any:
        """16 bytes of each of four blocks, as i32 [16]."""
        return join(b, [load_as(b, at(b, block, self.header), vector(I32, 4)) for block in blocks])

    def factors(self, b: ir.IRBuilder, blocks: Sequence[Any], headers: Any) -> Any:
        """d of four blocks, then dmin of all where there is one, as f32; some headers hold them."""
        places = [self.record.offset(name) for name in self.factor_names]
        if max(places) < self.header + 16 and min(places) >= self.header:
            words = [8 * row + (place - self.header) // 2 for place in places for row in range(ROWS)]
            halves = shuffle(b, b.bitcast(headers, I16X32), b.bitcast(headers, I16X32), words)
        else:
            halves = gather(b, [load_as(b, at(b, block, place), I16) for place in places for block in blocks])
        return widen_f16(b, b.bitcast(halves, vector(F16, ROWS * len(places))))

    @property
    def factor_names(self) -> tuple[str, ...]:
        """The fields by which whole numbers are scaled."""
        return ("d", "dmin") if self.has_mins else ("d",)

    # Whole numbers of a block.

    def quarter_sums(self, b: ir.IRBuilder, blocks: Sequence[Any], scales: Any, vector_at: Any) -> Any:
        """S of four rows in quarters, i32 [16]: that of row j is the sum of the lanes j, j+4, j+8 and j+12."""
        if not self.small:
            return self._sums_of_runs(b, blocks, scales, vector_at)
        if self.scales_are_high:
            scales = b.sub(scales, constant(self.scale_zero, I8X64))
        row_sums = self._sums_of_scaled_codes if self.scaled_codes else self._row_sums
        sums = [row_sums(b, block, row, scales, vector_at) for row, block in enumerate(blocks)]
        found = gather_sums(b, sums, b.add)
        return b.ashr(found, constant(8, I32X16)) if self.scales_are_high else found

    @property
    def scales_are_high(self) -> bool:
        """Whether 256 times S fits 32 bits: scales that are the high bytes of words have their sign there."""
        largest = self.record.blck_size * max(self.zero, 1) * 127 * self.scale_zero
        return 0 < largest < 1 << 23

    def _sums_of_runs(self, b: ir.IRBuilder, blocks: Sequence[Any], scales: Any, vector_at: Any) -> Any:
        """The same where each quarter of a register is of one run, and the sums of these need 32 bits."""
        acc = constant(0, I32X16)
        for runs, registers in self._registers_of_runs().items():
            start = self._start_of_runs(b, runs, vector_at)
            dots = [start] * len(blocks)
            for r in registers:
                a = codes_of(b, r, vector_at)
                dots = [
                    dot_bytes(b, dot, self.codes(b, block, r), a, self.small)
                    for dot, block in zip(dots, blocks, strict=True)
                ]
            factors = as_integers(b, scales, [16 * row + run for run in runs for row in range(ROWS)])
            factors = b.sub(factors, constant(self.scale_zero, I32X16))
            acc = b.add(acc, b.mul(gather_sums(b, dots, b.add), factors))
        return acc

    def _registers_of_runs(self) -> dict[tuple[int, ...], list[Register]]:
        """The registers, by the runs of their quarters."""
        found: dict[tuple[int, ...], list[Register]] = {}
        for r in self.registers:
            found.setdefault(self._runs_of(r), []).append(r)
        return found

    def _runs_of(self, register: Register) -> tuple[int, ...]:
        """The run of each quarter."""
        return tuple(value // self.record.run for value in register.values[::16])

    def _start_of_runs(self, b: ir.IRBuilder, runs: Sequence[int], vector_at: Any) -> Any:
        """Lanes i32 [16] whose quarters add up to minus the zero times what the vector's codes of these runs do."""
        each = self.record.run // 16
        places = [run * each + i if i < each else 16 for run in runs for i in range(4)]
        starts = load_as(b, at(b, vector_at, A_RUN_STARTS), I32X16)
        return times_zero(b, shuffle(b, starts, constant(0, I32X16), places), self.zero, START_ZERO)

    @property
    def scaled_codes(self) -> bool:
        """Whether a code times its scale is a byte, and a table of a row, with four entries per run, says which."""
        return self.record.name == "q2_K" and has_lookup()

    def _sums_of_scaled_codes(self, b: ir.IRBuilder, block: Any, row: int, scales: Any, vector_at: Any) -> Any:
        """S of one row: lanes i32 [16] that add up to it. A quarter of the table is about the runs of its codes."""
        runs = zip(*map(self._runs_of, self.registers), strict=True)
        factors = as_integers(b, scales, [16 * row + run for of_quarter in runs for run in of_quarter])
        table = b.mul(factors, constant(0x03020100, I32X16))
        acc = constant(0, I32X16)
        for i, r in enumerate(self.registers):
            place = self.codes(b, block, r, plus=4 * i)
            acc = dot_bytes(b, acc, look_up_in_quarters(b, place, table), codes_of(b, r, vector_at), self.small)
        return acc

    def _row_sums(self, b: ir.IRBuilder, block: Any, row: int, scales: Any, vector_at: Any) -> Any:
        """The same by words: the sums of four products times the scales of their runs."""
        acc = constant(0, I32X16)
        for pair in zip(self.registers[::2], self.registers[1::2], strict=True):
            dots = [self._dots(b, block, r, vector_at) for r in pair]
            runs = [self._runs_of(r)[part] for part in range(4) for r in pair for _ in range(4)]
            words = as_words(b, scales, [16 * row + run for run in runs], self.scales_are_high)
            if self.scale_zero and not self.scales_are_high:
                words = b.sub(words, constant(self.scale_zero, I16X32))
            acc = dot_words(b, acc, pack_words(b, *dots), words)
        return acc

    def _dots(self, b: ir.IRBuilder, block: Any, register: Register, vector_at: Any) -> Any:
        """The sums of four products of (code - zero) and the vector's codes."""
        start, codes = self._start(b, register, vector_at), self.codes(b, block, register)
        return dot_bytes(b, start, codes, codes_of(b, register, vector_at), self.small)

    def _start(self, b: ir.IRBuilder, register: Register, vector_at: Any) -> Any:
        """What the sums of four products begin with: minus the zero times four codes of the vector."""
        if not self.zero:
            return constant(0, I32X16)
        return times_zero(b, in_order(b, register, at(b, vector_at, A_STARTS)), self.zero, START_ZERO)

    def min_sums(self, b: ir.IRBuilder, mins: Any, begin: int, vector_at: Any) -> Any:
        """M of four rows: four lanes each, i32 [16], that add up to it."""
        zero = constant(0, I32X16)
        if self.runs == 8:
            places = [16 * row + begin + run for row in range(ROWS) for run in range(self.runs)]
            return dot_words(b, zero, as_words(b, mins, places), load_as(b, at(b, vector_at, A_SUMS32), I16X32))
        words = b.bitcast(mins, I16X32)
        even, odd = b.and_(words, constant(0xFF, I16X32)), b.lshr(words, constant(8, I16X32))
        x, y = (self._repeated(b, at(b, vector_at, place)) for place in (A_SUMS_EVEN, A_SUMS_ODD))
        return dot_words(b, dot_words(b, zero, even, x), odd, y)

    def _repeated(self, b: ir.IRBuilder, a: Any) -> Any:
        """Eight words, four times."""
        x = load_as(b, a, vector(I16, 8))
        return shuffle(b, x, x, [*range(8)] * 4)

    # Sixteen rows side by side.

    def words_of_rows(self, b: ir.IRBuilder, rows: Sequence[Any]) -> Iterator[dict[int, Any]]:
        """The codes of a block without sign: first value of four -> those of sixteen rows; sixteen words at a time."""
        low, size = self.record.codes[0], self.record.block[self.record.codes[0].field].itemsize
        parts = 8 // low.width
        high = self._high_columns(b, rows)
        for start in range(0, size, 64 // parts):
            words = {}
            for byte in range(start, start + 64 // parts, 16):
                columns = columns_of_block(b, rows, self.record.offset(low.field) + byte)
                for part in range(parts):
                    first = byte // low.apart * low.apart * parts + part * low.apart + byte % low.apart
                    for i, column in enumerate(columns):
                        words[first + 4 * i] = self._word(b, column, part * low.width, high, first + 4 * i)
            yield words

    def _word(self, b: ir.IRBuilder, column: Any, shift: int, high: dict[int, Any], value: int) -> Any:
        low = self.record.codes[0]
        x = fields_of_bytes(b, column, shift, low.width)
        if self.record.levels:
            return look_up(b, x, [level + self.zero for level in self.record.levels])
        if not high:
            return x
        byte, left = self._place_of_high(value)
        return b.or_(x, fields_of_bytes(b, high[byte], low.width - left, self.record.codes[1].width, to=low.width))

    def _place_of_high(self, value: int) -> tuple[int, int]:
        """Which byte of its field holds the high bits of a code, and how far they are shifted to the left."""
        low, high = self.record.codes
        span = high.apart * 8 // high.width  # values that share bytes
        return value // span * high.apart + value % high.apart, low.width - value % span // high.apart * high.width

    def _high_columns(self, b: ir.IRBuilder, rows: Sequence[Any]) -> dict[int, Any]:
        """The bits that lie in a field of their own: number of the first byte of four -> [16 rows][4]."""
        if len(self.record.codes) == 1:
            return {}
        field = self.record.codes[1].field
        starts = range(0, self.record.block[field].itemsize, 16)
        columns = [columns_of_block(b, rows, self.record.offset(field) + start) for start in starts]
        return {start + 4 * i: x for start, four in zip(starts, columns, strict=True) for i, x in enumerate(four)}

    def factors_of_rows(self, b: ir.IRBuilder, rows: Sequence[Any]) -> list[Any]:
        """d of sixteen rows, and dmin if there is one, as f32 [16] each."""
        return factors_of_rows(b, rows, [self.record.offset(n) for n in self.factor_names], self.record.type_size)

    def scales_of_rows(self, b: ir.IRBuilder, rows: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Scales i32 [16] of each run of sixteen rows; mins, if any, of each two runs: i32 [16] of two words."""
        quarters = [self.scales(b, self.headers(b, rows[i::4])) for i in range(4)]  # rows i, i+4, i+8, i+12

        def of_runs(which: int, begin: int) -> list[Any]:
            columns = columns_of_quarters(b, [b.bitcast(quarter[which], I32X16) for quarter in quarters])
            places = range(begin, begin + self.runs)
            low = constant(0xFF, I32X16)
            return [b.and_(b.lshr(columns[i // 4], constant(8 * (i % 4), I32X16)), low) for i in places]

        zero, sixteen = constant(self.scale_zero, I32X16), constant(16, I32X16)
        scales = [b.sub(x, zero) for x in of_runs(0, 0)]
        mins = of_runs(1, quarters[0][2]) if self.has_mins else []
        return scales, [b.or_(x, b.shl(y, sixteen)) for x, y in zip(mins[::2], mins[1::2], strict=True)]


def in_every_byte(byte: int) -> Any:
    return constant(int.from_bytes(bytes([byte & 0xFF] * 4), "little", signed=True), I32X16)


def six_bits(b: ir.IRBuilder, x: Any) -> Any:
    """The eight scales and eight mins of four rows, from headers d dmin [12 bytes]: words s0-3, s4-7, m0-3, m4-7."""

    def picked(words: Sequence[int], shifts: Sequence[int], masks: Sequence[int]) -> Any:
        lanes = shuffle(b, x, x, [lane // 4 * 4 + words[lane % 4] for lane in range(16)])
        masks = [mask * 0x01010101 for mask in masks]
        return b.and_(b.lshr(lanes, constant([*shifts] * 4, I32X16)), constant(masks * 4, I32X16))

    return b.or_(
        picked((1, 3, 2, 3), (0, 0, 0, 4), (0x3F, 0x0F, 0x3F, 0x0F)),
        picked((1, 1, 2, 2), (0, 2, 0, 2), (0, 0x30, 0, 0x30)),
    )


def six_bits_of_q3(b: ir.IRBuilder, x: Any) -> Any:
    """The sixteen scales of four rows, from headers [2 bytes of codes, 12 bytes, d]."""
    x = b.bitcast(x, I8X64)
    order = [lane // 16 * 16 + (lane % 16 + 2) % 16 for lane in range(64)]
    x = b.bitcast(shuffle(b, x, x, order), I32X16)  # the 12 bytes first

    def picked(words: Sequence[int], shifts: Sequence[int], mask: int) -> Any:
        lanes = shuffle(b, x, x, [lane // 4 * 4 + words[lane % 4] for lane in range(16)])
        return b.and_(b.lshr(lanes, constant([*shifts] * 4, I32X16)), in_every_byte(mask))

    high = picked((2, 2, 2, 2), (0, 2, 4, 6), 0x03)
    return b.or_(picked((0, 1, 0, 1), (0, 0, 4, 4), 0x0F), b.shl(high, constant(4, I32X16)))


def as_integers(b: ir.IRBuilder, x: Any, places: Sequence[int]) -> Any:
    """16 of 64 bytes without sign, as i32 [16]."""
    nothing = constant(0, I8X64)
    return b.bitcast(shuffle(b, x, nothing, [index for place in places for index in (place, 64, 64, 64)]), I32X16)


def as_words(b: ir.IRBuilder, x: Any, places: Sequence[int], high: bool = False) -> Any:
    """32 of 64 bytes without sign, as i16 [32]; or as their high bytes."""
    pairs = [(64, place) if high else (place, 64) for place in places]
    return b.bitcast(shuffle(b, x, constant(0, I8X64), [index for pair in pairs for index in pair]), I16X32)


def six_bits_of_iq4(b: ir.IRBuilder, x: Any) -> Any:
    """The eight scales of four rows, as bytes, from headers [d, u16 of high bits, 4 bytes of low ones]."""
    x = b.bitcast(x, I8X64)
    of_row = [lane // 16 * 16 for lane in range(64)]
    low = b.bitcast(shuffle(b, x, x, [row + 4 + lane % 16 // 2 % 4 for lane, row in enumerate(of_row)]), I32X16)
    nibbles = in_every_byte(0x0F)
    even, odd = (b.bitcast(b.and_(y, nibbles), I8X64) for y in (low, b.lshr(low, constant(4, I32X16))))
    low = shuffle(b, even, odd, [lane + 64 * (lane % 2) for lane in range(64)])
    high = b.bitcast(shuffle(b, x, x, [row + 2 + lane % 2 for lane, row in enumerate(of_row)]), I32X16)
    high = b.and_(b.lshr(high, constant([0, 2, 4, 6] * 4, I32X16)), constant(0x0303, I32X16))  # lane j: j and j + 4
    high = b.bitcast(b.shl(high, constant(4, I32X16)), I8X64)
    order = [row + 4 * (lane % 4) + lane % 8 // 4 for lane, row in enumerate(of_row)]
    return b.or_(low, shuffle(b, high, high, order))


def codes_of(b: ir.IRBuilder, register: Register, vector_at: Any) -> Any:
    """The vector's codes that meet those of a register, as i32 [16]."""
    return in_order(b, register, at(b, vector_at, A_CODES))


def in_order(b: ir.IRBuilder, register: Register, a: Any) -> Any:
    """A byte for each value, or four for every four, in the order of a register, whose halves or quarters follow on."""
    values = register.values
    parts = next(n for n in (1, 2, 4) if all(values[i] + 1 == values[i + 1] for i in range(63) if (i + 1) % (64 // n)))
    if parts < 4:
        return join(b, [load_as(b, at(b, a, value), vector(I32, 16 // parts)) for value in values[:: 64 // parts]])
    first = min(values)
    x, y = (load_as(b, at(b, a, first + start), I32X16) for start in (0, 64))
    return shuffle(b, x, y, [(value - first) // 4 for value in values[::4]])


def totals(b: ir.IRBuilder, whole: Any, mins: Any) -> Any:
    """The totals of four rows, i32 [4], and then of their mins, if any.

    Args:
        whole: i32 [16], as `Superblock.quarter_sums` gives it.
        mins: i32 [16], as `Superblock.min_sums` gives it, or None.
    """
    if mins is None:
        x = b.add(shuffle(b, whole, whole, range(8)), shuffle(b, whole, whole, range(8, 16)))
        return b.add(shuffle(b, x, x, range(4)), shuffle(b, x, x, range(4, 8)))
    mins = shuffle(b, mins, mins, [4 * row + i for i in range(4) for row in range(ROWS)])
    low, high = ([*range(start, start + 8), *range(start + 16, start + 24)] for start in (0, 8))
    x = b.add(shuffle(b, whole, mins, low), shuffle(b, whole, mins, high))
    return b.add(shuffle(b, x, x, [0, 1, 2, 3, 8, 9, 10, 11]), shuffle(b, x, x, [4, 5, 6, 7, 12, 13, 14, 15]))
