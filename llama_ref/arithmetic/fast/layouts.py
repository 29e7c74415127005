"""The layouts that the kernels know, in numbers: where the parts of a block lie, and what memory the kernels need.

No code is compiled here and Numba isn't imported: this is what the Python side and the kernels (`fast_blocks`) share.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ggmlpy.formats.codes import signed_codes
from ggmlpy.formats.dequantize import scales_of
from ggmlpy.formats.tensor_types import TENSOR_TYPES, TensorType
from ggmlpy.machine.features import MACHINE

if TYPE_CHECKING:
    from ggmlpy.formats.model_file import ModelFile, Tensor

GROUP = 16  # blocks whose sums share a register
QUAD = 4  # blocks decoded together

# A group of the vector, quantized: byte offsets of its parts. A part of 256 bytes is 4 quads x 4 blocks x 16 codes.
FIRST, SECOND, EVEN, ODD = 0, 256, 512, 768  # int8 codes: elements 0…15, 16…31, 0 2 4…, 1 3 5… of each block
SCALE = 1024  # f32 [16] da
START, START_FIRST, START_SECOND = 1088, 1152, 1216  # i32 [16] -LEAST_ZERO · Σ a of the block, of each half
OFFSET, OFFSET_FIRST, OFFSET_SECOND = 1280, 1344, 1408  # f32 [16] da · Σ a of the same
GROUP_BYTES = 1472
LEAST_ZERO = 8  # the smallest code that means 0; larger ones are multiples by a power of two

# The vector for k-quants: a record for each 256 values, byte offsets of its parts.
A_CODES = 0  # int8 [256], in order
A_STARTS = 256  # i32 [64] -START_ZERO times the sum of every four codes
A_SUMS16 = 512  # i16 [16] the sum of every sixteen codes
A_SUMS_EVEN, A_SUMS_ODD = 544, 560  # i16 [8] the first, third … of these; the second, fourth …
A_SUMS32 = 576  # i16 [4][8] of every 32, four times
A_RUN_STARTS = 640  # i32 [16] -START_ZERO times the sum of every sixteen
A_SCALE = 704  # f32 da
A_BYTES = 768
START_ZERO = 32  # the largest code that means 0; of smaller ones it is a multiple by a power of two

#: in the kernel for many tokens the vector's codes are the unsigned factor; tiles take two signed ones
ACTIVATION_BIAS = 0 if MACHINE.simd == "amx" else 128


@dataclass(frozen=True)
class Layout:
    """Where the parts of a block of 32 values lie, in bytes.

    Attributes:
        size: bytes of a block.
        bits: of a code in `codes`: 4 or 8.
        codes: offset of the codes (8 bits: of elements 0…15; see `codes_second`).
        zero: the code that means 0.
        d, m: offsets of scale and minimum; None where there is no minimum.
        scale: numpy's name of their type.
        high: offset of the fifth bits (u32, bit l = element l), or None.
        interleaved: whether byte j holds elements 2j and 2j+1, instead of j and j+16.
        codes_second, d_second, m_second: where the second sixteen have their own; else None.
        levels: what each code stands for, where that is not the code less `zero`; `zero` is then added to make them
            unsigned.
    """

    size: int
    bits: int
    codes: int
    zero: int
    d: int
    scale: str
    m: int | None = None
    high: int | None = None
    interleaved: bool = False
    codes_second: int | None = None
    d_second: int | None = None
    m_second: int | None = None
    levels: tuple[int, ...] = ()

    @property
    def halves(self) -> bool:
        """Whether the two halves of a block have scales of their own."""
        return self.d_second is not None

    @property
    def scale_bytes(self) -> int:
        return int(self.scale[-1])

    @property
    def parts(self) -> int:
        """How many parts of a block have scales of their own."""
        return 2 if self.halves else 1

    @property
    def scale_places(self) -> list[tuple[int, int | None]]:
        """The offsets of d and m of each part."""
        second = [] if self.d_second is None else [(self.d_second, self.m_second)]
        return [(self.d, self.m), *second]

    @property
    def first_scale(self) -> int:
        """Where in a block the first of all its scales lies."""
        return min(place for places in self.scale_places for place in places if place is not None)

    @property
    def scaled_together(self) -> int:
        """How many blocks that follow have all their scales in 64 bytes."""
        last = max(place for places in self.scale_places for place in places if place is not None)
        return max(0, 64 - self.scale_bytes - last + self.first_scale) // self.size + 1

    @property
    def number_places(self) -> list[tuple[int, int]]:
        """Where a group of the vector has START and OFFSET of each part."""
        return [(START_FIRST, OFFSET_FIRST), (START_SECOND, OFFSET_SECOND)] if self.halves else [(START, OFFSET)]

    @property
    def small(self) -> bool:
        """Whether two products of codes fit 16 bits."""
        return self.bits == 4 and not self.levels


#: bytes of a value; these types meet the vector as it is, in f32
FLOATS = {name: TENSOR_TYPES[name].type_size for name in ("f32", "f16", "bf16")}


def layout_of(record: TensorType) -> Layout:
    """A type of blocks of 32 values, in bytes."""
    low, size = record.codes[0], record.type_size
    whole_bytes = low.width == 8
    return Layout(
        size=size,
        bits=low.width,
        codes=record.offset(low.field),
        zero=zero_of(record),
        d=record.offset("d"),
        scale=record.block["d"].str,
        m=record.offset("m") if "m" in record.field_names else None,
        high=record.offset(record.codes[1].field) if len(record.codes) > 1 else None,
        interleaved=low.apart == 1 and not whole_bytes,
        codes_second=record.offset(low.field) + 16 if whole_bytes else None,
        levels=record.levels,
    )


def zero_of(record: TensorType) -> int:
    """The code that means 0, once signed codes and levels are unsigned, as the kernels make them."""
    return 128 if record.levels or record.codes[0].width == 8 else record.zero


LAYOUTS: dict[str, Layout] = {
    name: layout_of(record)
    for name, record in TENSOR_TYPES.items()
    if record.blck_size == 32 and "d" in record.field_names
}
SUPERBLOCKS = {name: TENSOR_TYPES[name] for name in ("q2_K", "q3_K", "q4_K", "q5_K", "q6_K", "iq4_xs")}
DIRECT = (*LAYOUTS, *SUPERBLOCKS, *FLOATS)  # read where they lie in the file
# Ours, in memory only: two runs of 16 values with f32 d, f32 m and 16 codes each. Every value of q4_2, q4_3 and all
# other types after the k-quants has this form exactly (d = the scale of its run), so `fast` widens those when it loads
# them.
LAYOUTS["sixteens"] = Layout(48, 8, codes=8, zero=128, d=0, scale="<f4", m=4, codes_second=32, d_second=24, m_second=28)
SIXTEENS = np.dtype([("d", "<f4"), ("m", "<f4"), ("codes", "i1", 16)])


#: tokens that meet sixteen rows in a step of the product with many: their sums must fit the registers
TILE_TOKENS = {"amx": 16, "vnni": 8}.get(MACHINE.simd, 4)
K_TOKENS = 8 if MACHINE.wide else 4  # the same of k-quants
K_BLOCKS = 2  # that meet all tokens before the next
FEW_TOKENS = 8 if MACHINE.simd == "amx" else 32  # that meet the rows without packing these
# Of floats: rows and tokens whose sums fit the registers, and how many tokens of a last tile do; how many columns of
# sixteen rows and of such a tile the first cache keeps, and of how many tiles the second one keeps the sums.
FLOAT_ROWS, FLOAT_TOKENS, FLOAT_TAIL = (4, 6, 2) if MACHINE.wide else (2, 2, 2)
FLOAT_COLUMNS, FLOAT_TILES = 512, 11
ROWS = 64  # in a unit of work of the product with one vector
# Which rows meet one vector together: those of four streams of a unit's own; of four that run on through a thread's
# share of the matrix; sixteen side by side, as for a few vectors.
OWN_STREAMS, LONG_STREAMS, SIDE_BY_SIDE = range(3)
PANELS = 4  # x 16 rows, in a unit of work of the product with many vectors
CHAINS_OF_PEAK = 12  # that multiply side by side, to measure how fast that can be
LEVELS = 5  # of a tree of sixteen sums


def panel_bytes(layout: Layout) -> int:
    """Bytes of one block of sixteen packed rows: codes, sums, d, m."""
    parts = 2 if layout.halves else 1
    return 512 + 64 * parts * (2 if layout.m is None else 3)


def superblock_panel_parts(record: TensorType) -> dict[str, int]:
    """Where the parts of one block of sixteen packed rows of a k-quant lie, and where they end.

    codes u8 [64][16 rows][4]; scales i32 [runs][16 rows]; mins i16 [runs / 2][16 rows][2]; d and dmin f32 [16 rows].
    """
    runs = record.blck_size // record.run
    sizes = {"codes": 16 * record.blck_size, "scales": 64 * runs, "d": 64}
    if "dmin" in record.field_names:
        sizes |= {"mins": 32 * runs, "dmin": 64}
    places = np.cumsum([0, *sizes.values()]).tolist()
    return dict(zip([*sizes, "end"], places, strict=True))


#: one block of one token for the product with many: u8 [32] codes, f32 da, and f32 da·Σa of the block, of its first and
#: of its second half
TOKEN_BYTES = 48


# Widening: from layouts that the kernels don't read to `SIXTEENS`, without changing a value.

WIDEN_ROWS_BYTES = 1 << 24


def widen(tensor: Tensor) -> npt.NDArray[np.uint8]:
    """A matrix of any type of blocks but k-quants as `SIXTEENS`: uint8 [rows * cols / 16 * 24]."""
    rows, cols = tensor.shape
    out = np.zeros((rows, cols // 16), SIXTEENS)
    step = max(1, WIDEN_ROWS_BYTES // (4 * cols))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        blocks = tensor.raw_rows(start, stop).reshape(-1).view(tensor.type.block).reshape(stop - start, -1)
        scale, minimum = scales_of(blocks, tensor.type)  # [rows, n_blocks, runs]
        codes = signed_codes(blocks, tensor.type)
        out[start:stop]["codes"] = codes.reshape(stop - start, -1, 16)
        out[start:stop]["d"] = of_sixteens(scale, tensor.type)
        if minimum is not None:
            out[start:stop]["m"] = of_sixteens(minimum, tensor.type)
    return out.reshape(-1).view(np.uint8)


def widened(file: ModelFile) -> tuple[list[str], int]:
    """The types of a file that have to be widened, and what memory that takes, in bytes."""
    found = [tensor for tensor in file.tensors.values() if tensor.type.quantized and tensor.type.layout not in DIRECT]
    values = sum(tensor.n_rows * tensor.n_cols for tensor in found)
    return sorted({tensor.type.name for tensor in found}), values // 16 * SIXTEENS.itemsize


def of_sixteens(runs: npt.NDArray[np.float32], type: TensorType) -> npt.NDArray[np.float32]:
    """One number per run [rows, n_blocks, runs] -> one per sixteen values [rows, cols / 16]."""
    return np.repeat(runs, type.run // 16, axis=-1).reshape(len(runs), -1)


# What a call of the kernels needs.


AS_FLOATS, IN_BLOCKS, IN_SUPERBLOCKS = range(3)  # the forms of a vector


def form_of(kind: str) -> int:
    """In which form a kind of matrix meets vectors."""
    return AS_FLOATS if kind in FLOATS else IN_SUPERBLOCKS if kind in SUPERBLOCKS else IN_BLOCKS


@dataclass(frozen=True)
class WorkSizes:
    """Bytes of working memory: fields of the plan -> bytes, and the parts of each thread's scratch memory."""

    shared: dict[str, int]
    scratch: dict[str, int]  # field -> offset
    scratch_bytes: int


def work_sizes(
    n_embd: int, n_ff: int, n_q: int, n_kv: int, head_dim: int, n_ctx: int, n_tokens: int, kinds: Iterable[str]
) -> WorkSizes:
    """The working memory for up to n_tokens tokens a call, with matrices of these kinds."""
    n_most, n_padded = max(n_embd, n_ff, n_q), rounded(n_tokens, max(TILE_TOKENS, K_TOKENS))
    blocks, groups, superblocks = n_most // 32, -(-n_most // (32 * GROUP)), n_most // 256
    kinds = list(kinds)
    layouts = [LAYOUTS[kind] for kind in kinds if kind in LAYOUTS]
    k_quants = [SUPERBLOCKS[kind] for kind in kinds if kind in SUPERBLOCKS]
    floats = any(kind in FLOATS for kind in kinds)
    shared = {
        "qkv_at": 4 * n_tokens * (n_q + 2 * n_kv),
        "attention_at": 4 * n_tokens * n_q,
        "gate_at": 4 * n_tokens * n_ff,
        "up_at": 4 * n_tokens * n_ff,
        "normed_at": 4 * n_tokens * n_most if floats else 0,
        "records_at": max(n_padded * blocks * TOKEN_BYTES, FEW_TOKENS * groups * GROUP_BYTES) if layouts else 0,
        "superblocks_at": n_padded * superblocks * A_BYTES if k_quants else 0,
    }
    sums = max(LEVELS * n_padded, 2 * PANELS * n_padded, GROUP * (FEW_TOKENS + 1)) * 64
    float_sums = GROUP * (64 * FLOAT_TILES * FLOAT_TOKENS * PANELS + 4 * FLOAT_COLUMNS)
    packed = [blocks * panel_bytes(layout) for layout in layouts]
    packed += [superblocks * superblock_panel_parts(record)["end"] for record in k_quants]
    parts = {
        "scratch_vector": 4 * max(n_most, 8 * rounded(head_dim, 16)),
        "scratch_record": groups * GROUP_BYTES,
        "scratch_superblocks": superblocks * A_BYTES,
        "scratch_panel": PANELS * max(packed, default=0),
        "scratch_sums": max(sums, float_sums if floats else 0),
        "scratch_scores": 4 * score_bytes(n_ctx),
    }
    offsets, end = {}, 0
    for name, size in parts.items():
        offsets[name], end = end, end + rounded(size, 64)
    return WorkSizes(shared, offsets, rounded(end, 4096))


def score_bytes(n_ctx: int) -> int:
    """Room for the scores of one query, a few more than it has keys."""
    return rounded(4 * (n_ctx + 32), 64)


def rounded(n: int, step: int) -> int:
    """n, rounded up to a multiple of step."""
    return -(-n // step) * step


def matrix_bytes(kind: str, cols: int) -> int:
    """Bytes of a row of `cols` values of a kind of matrix."""
    if kind == "sixteens":
        return cols // 32 * LAYOUTS[kind].size
    return TENSOR_TYPES[kind].row_bytes(cols)
