"""The moments of llama.cpp's history that this library reproduces.

An *era* is a commit: the container it writes, the tensor types it knows, and the arithmetic of its quantizers.

==========  ===  =========  ========  =======================================================================
era         pin  commit     writes    what is particular
==========  ===  =========  ========  =======================================================================
2023-03-19  p0   da5303c1e  ggml      no scores; q4_1's file quantizer starts its maximum at FLT_MIN
2023-03-30  p1   ed3c680bc  ggmf v1   vocabulary scores
2023-03-31  p2   352589927  ggjt v1   mapped, aligned tensors; one file. **The default**
2023-04-30  p3   3e5aa8a1c  ggjt v1   q4_0 with a signed scale (max / -8); q4_2, q5_0, q5_1, q8_0
2023-05-19  p4   6986c7835  ggjt v2   codes of elements j and j + 16 share a byte; q4_2 is gone
2023-08-21  p5   dadbed99e  ggjt v3   scales in f16; k-quants
==========  ===  =========  ========  =======================================================================

GGUF came that same day, and llama-quantize has changed ever since. An era of GGUF lasts until the next begins; what a
later one adds it adds to those before:

=============  =========  ============================================================================================
era            commit     what is particular
=============  =========  ============================================================================================
2023-08-22     bac66994c  the search for scales of k-quants has weights: all have other bytes, and keep them. GGUF v1
2023-08-26     04f4b1eb1  k-quants need only rows of 256, not columns; more bits for attn_v of the 70B model
2023-08-27     d0cee0d36  GGUF v2. An output whose rows blocks of 256 don't divide is q8_0, and stays so in Q8_0
2023-09-05     d59bd9706  q6_K: behind a block of zeros only, all up to the next multiple of 64 blocks are zeros
2023-09-06     178b1850e  q6_K: that block alone is
2023-10-20     8cf19d60d  GGUF v3
2023-10-28     bd6d9e205  rows that blocks of 256 don't divide: q2_K becomes q4_0, q3_K q4_1, q4_K q5_0 and so on
2023-12-13     799a1cb13  attn_k and attn_v of eight experts are q8_0
2024-01-11     469e75d0a  Q2_K_S; Q2_K has fewer q3_K; Q3_K_M and Q4_K_S count eighths of the layers
2024-01-14     467a882fd  importance matrices, which k-quants heed; IQ2_XXS and IQ2_XS, which need one
2024-01-15     2faaef397  rows that blocks don't divide: iq2_xxs and iq2_xs become q4_0
2024-01-16     334a835a1  q4_0, q4_1, q5_0 and q5_1 heed an importance matrix, too
2024-01-17     2b3a665d3  grouped heads give attn_v more bits
2024-01-22     66d575c45  Q3_K_XS
2024-01-25     faa3526a1  Q3_K_XS of experts
2024-01-30     f4d7e5497  IQ3_XXS
2024-02-05     89503dcb5  another search of iq2_xxs; IQ3_XXS without an importance matrix
2024-02-06     f57fadc00  other scales of q4_K and q5_K with an importance matrix
2024-02-18     bd2d4e393  IQ1_S, with a grid that no later program knows
2024-02-21     a14679cc3  IQ4_NL; rows that blocks of 256 don't divide become iq4_nl where they became q4_0 or q4_1
2024-02-24     4c4cb3073  IQ3_S and IQ3_M, with a grid that no later program knows; other weights of iq3_xxs
2024-02-26     a33e6a0d2  IQ2_S, IQ2_M; IQ3_XS instead of Q3_K_XS; other mixes of IQ2 and IQ3
2024-02-27     0becb22ac  IQ4_XS; codes of iq4_nl come from its scale, not from the inverse that led to it
2024-02-28     adcb12a9b  the gate of experts stays as it is
2024-03-02     bbde6eb25  iq3_s has its grid of today
2024-03-08     515f7d0d4  an embedding that is the output too has the type of an output
2024-03-11T08  be858f620  iq1_s: the grid of today, but no eighths, for ten hours
2024-03-11T18  44ca159fa  iq1_s is today's
2024-03-22     1d0331c12  --output-tensor-type, --token-embedding-type; IQ3_XS gives attn_v of grouped heads more bits
2024-03-26     55c1b2a3b  IQ1_M
2024-04-03     08a0c0206  the experts of a layer are one tensor
2024-04-12     91c736015  split.* keys are left out
2024-04-26     0c4d489e2  quantize.imatrix.* keys; scales that are not finite are refused
2024-05-08     385541602  bf16
2024-05-18     05834841d  groups of nearly nothing (below 1e-15) count as nothing; before, below 1e-30, or zeros only
2024-05-19     e4e6f67be  a group whose values count nothing has the scale 0; before, one that is not a number
2024-06-16     cddaf028a  iq1_s and iq1_m of groups whose fit is nearly nothing
2024-09-05     9bc6db28d  TQ1_0, TQ2_0
2024-10-31     ab3d71f97  tensors in the order of their names, which is the order that counts layers
2025-01-07     53ff6b9b9  changed keys move to the end
2026-10        0.3.36     other order of the sums of iq1_m; rows that blocks don't divide: q4_0; f16 where blocks of 32
                          don't either. **Default of GGUF**
=============  =========  ============================================================================================

The dates are those of the commits; between 2025-02-20 and the last only the two ends are known. The commit of the last
is the version of llama-cpp-python that has it.

Eras are ordered: ``era >= APRIL_30`` asks for what came with a commit. A fact that several places ask for has a name,
such as ``era.has_convert_py``. Dates are for people; code compares eras.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from ggmlpy.files.errors import UsageError

from .tensor_types import TENSOR_TYPES, TensorType, types_of

__all__ = [
    "APRIL_3_24",
    "APRIL_12_24",
    "APRIL_26_24",
    "APRIL_30",
    "AUGUST_21",
    "AUGUST_22",
    "AUGUST_26",
    "AUGUST_27",
    "DECEMBER_13",
    "DEFAULT_ERA",
    "ERAS",
    "FEBRUARY_5_24",
    "FEBRUARY_6_24",
    "FEBRUARY_18_24",
    "FEBRUARY_21_24",
    "FEBRUARY_24_24",
    "FEBRUARY_26_24",
    "FEBRUARY_27_24",
    "FEBRUARY_28_24",
    "GGUF_ERA",
    "GGUF_ERAS",
    "JANUARY_7_25",
    "JANUARY_11_24",
    "JANUARY_14_24",
    "JANUARY_15_24",
    "JANUARY_16_24",
    "JANUARY_17_24",
    "JANUARY_22_24",
    "JANUARY_25_24",
    "JANUARY_30_24",
    "JUNE_16_24",
    "MARCH_2_24",
    "MARCH_8_24",
    "MARCH_11_24",
    "MARCH_11_24_08",
    "MARCH_19",
    "MARCH_22_24",
    "MARCH_26_24",
    "MARCH_30",
    "MARCH_31",
    "MAY_8_24",
    "MAY_18_24",
    "MAY_19",
    "MAY_19_24",
    "OCTOBER_20",
    "OCTOBER_28",
    "OCTOBER_31_24",
    "SEPTEMBER_5",
    "SEPTEMBER_5_24",
    "SEPTEMBER_6",
    "TODAY",
    "Era",
    "era_of",
    "eras_writing",
    "held_in",
    "quantizing_era",
    "tensor_type_of",
]


@dataclass(frozen=True, order=True)
class Era:
    """One pinned commit of llama.cpp. Eras are ordered by date.

    Attributes:
        date: its name on the command line.
        pin: its short name in the golden files, "p0" … "p5".
        commit: the abbreviated hash.
        container, version: what its tools write.
        type_names: the tensor types that its quantizer can write, f32 and f16 included; a layout ("iq3_s-2024-02")
            where the container does not say which it is.
    """

    date: str
    pin: str
    commit: str
    container: str
    version: int
    type_names: tuple[str, ...]

    @cached_property
    def types(self) -> dict[str, TensorType]:
        """The tensor types of this era by name, with the bytes they had then."""
        known = TENSOR_TYPES | {record.name: record for record in types_of(self.container, self.version).values()}
        return {known[name].name: known[name] for name in self.type_names if name in known}

    def type(self, name: str) -> TensorType:
        """The tensor type called ``name`` then.

        Raises:
            UsageError: the era has no such type.
        """
        if name not in self.types:
            raise UsageError(f"era {self.date} has no type {name!r}; it has {', '.join(self.types)}")
        return self.types[name]

    def writes(self, record: TensorType) -> bool:
        """Whether a file of this era can have a tensor of this very type.

        >>> [era.date for era in ERAS.values() if era.writes(MAY_19.type("q4_0"))]
        ['2023-05-19']
        """
        return self.types.get(record.name) == record

    def reads(self, record: TensorType) -> bool:
        """Whether its programs understand these bytes, whatever id the file gives them."""
        own = self.types.get(record.name)
        return own is not None and own.layout == record.layout

    @property
    def is_of_gguf(self) -> bool:
        """Whether it is later than the containers before GGUF."""
        return self.container == "gguf"

    @property
    def has_convert_py(self) -> bool:
        """Whether convert.py, which sorts tensors, has replaced convert-pth-to-ggml.py."""
        return self >= APRIL_30

    @property
    def has_k_quants(self) -> bool:
        """Whether a file type may mix tensor types (and be F32 or F16)."""
        return self >= AUGUST_21

    def __str__(self) -> str:
        return self.date

    def __repr__(self) -> str:
        return f"<Era {self.date}: {self.container} v{self.version}, llama.cpp {self.commit}>"


_MARCH = ("f32", "f16", "q4_0", "q4_1")
_FIVES = ("q5_0", "q5_1", "q8_0")
_K_QUANTS = ("q2_K", "q3_K", "q4_K", "q5_K", "q6_K")

# fmt: off
MARCH_19  = Era("2023-03-19", "p0", "da5303c1e", "ggml", 0, _MARCH)
MARCH_30  = Era("2023-03-30", "p1", "ed3c680bc", "ggmf", 1, _MARCH)
MARCH_31  = Era("2023-03-31", "p2", "352589927", "ggjt", 1, _MARCH)
APRIL_30  = Era("2023-04-30", "p3", "3e5aa8a1c", "ggjt", 1, (*_MARCH, "q4_2", *_FIVES))
MAY_19    = Era("2023-05-19", "p4", "6986c7835", "ggjt", 2, (*_MARCH, *_FIVES))
AUGUST_21 = Era("2023-08-21", "p5", "dadbed99e", "ggjt", 3, (*_MARCH, *_FIVES, *_K_QUANTS))
# fmt: on


GGUF_ERAS: dict[str, Era] = {}  # by date; each era below enters itself, in order


def _after(before: Era, date: str, commit: str, *types: str, version: int = 0, pin: str = "") -> Era:
    """The era of GGUF that follows another: with more types, or others in the place of those of the same name."""
    names = {kind.split("-")[0]: kind for kind in (*before.type_names, *types)}
    GGUF_ERAS[date] = Era(date, pin, commit, "gguf", version or before.version, tuple(names.values()))
    return GGUF_ERAS[date]


# fmt: off
AUGUST_22      = _after(AUGUST_21,      "2023-08-22", "bac66994c", version=1)
AUGUST_26      = _after(AUGUST_22,      "2023-08-26", "04f4b1eb1")
AUGUST_27      = _after(AUGUST_26,      "2023-08-27", "d0cee0d36", version=2)
SEPTEMBER_5    = _after(AUGUST_27,      "2023-09-05", "d59bd9706")
SEPTEMBER_6    = _after(SEPTEMBER_5,    "2023-09-06", "178b1850e")
OCTOBER_20     = _after(SEPTEMBER_6,    "2023-10-20", "8cf19d60d", version=3)
OCTOBER_28     = _after(OCTOBER_20,     "2023-10-28", "bd6d9e205")
DECEMBER_13    = _after(OCTOBER_28,     "2023-12-13", "799a1cb13")
JANUARY_11_24  = _after(DECEMBER_13,    "2024-01-11", "469e75d0a")
JANUARY_14_24  = _after(JANUARY_11_24,  "2024-01-14", "467a882fd", "iq2_xxs", "iq2_xs")
JANUARY_15_24  = _after(JANUARY_14_24,  "2024-01-15", "2faaef397")
JANUARY_16_24  = _after(JANUARY_15_24,  "2024-01-16", "334a835a1")
JANUARY_17_24  = _after(JANUARY_16_24,  "2024-01-17", "2b3a665d3")
JANUARY_22_24  = _after(JANUARY_17_24,  "2024-01-22", "66d575c45")
JANUARY_25_24  = _after(JANUARY_22_24,  "2024-01-25", "faa3526a1")
JANUARY_30_24  = _after(JANUARY_25_24,  "2024-01-30", "f4d7e5497", "iq3_xxs")
FEBRUARY_5_24  = _after(JANUARY_30_24,  "2024-02-05", "89503dcb5")
FEBRUARY_6_24  = _after(FEBRUARY_5_24,  "2024-02-06", "f57fadc00")
FEBRUARY_18_24 = _after(FEBRUARY_6_24,  "2024-02-18", "bd2d4e393", "iq1_s-2024-02")
FEBRUARY_21_24 = _after(FEBRUARY_18_24, "2024-02-21", "a14679cc3", "iq4_nl")
FEBRUARY_24_24 = _after(FEBRUARY_21_24, "2024-02-24", "4c4cb3073", "iq3_s-2024-02")
FEBRUARY_26_24 = _after(FEBRUARY_24_24, "2024-02-26", "a33e6a0d2", "iq2_s")
FEBRUARY_27_24 = _after(FEBRUARY_26_24, "2024-02-27", "0becb22ac", "iq4_xs")
FEBRUARY_28_24 = _after(FEBRUARY_27_24, "2024-02-28", "adcb12a9b")
MARCH_2_24     = _after(FEBRUARY_28_24, "2024-03-02", "bbde6eb25", "iq3_s")
MARCH_8_24     = _after(MARCH_2_24,     "2024-03-08", "515f7d0d4")
MARCH_11_24_08 = _after(MARCH_8_24,     "2024-03-11T08", "be858f620", "iq1_s-2024-03")
MARCH_11_24    = _after(MARCH_11_24_08, "2024-03-11T18", "44ca159fa", "iq1_s")
MARCH_22_24    = _after(MARCH_11_24,    "2024-03-22", "1d0331c12")
MARCH_26_24    = _after(MARCH_22_24,    "2024-03-26", "55c1b2a3b", "iq1_m")
APRIL_3_24     = _after(MARCH_26_24,    "2024-04-03", "08a0c0206")
APRIL_12_24    = _after(APRIL_3_24,     "2024-04-12", "91c736015")
APRIL_26_24    = _after(APRIL_12_24,    "2024-04-26", "0c4d489e2")
MAY_8_24       = _after(APRIL_26_24,    "2024-05-08", "385541602", "bf16")
MAY_18_24      = _after(MAY_8_24,       "2024-05-18", "05834841d")
MAY_19_24      = _after(MAY_18_24,      "2024-05-19", "e4e6f67be")
JUNE_16_24     = _after(MAY_19_24,      "2024-06-16", "cddaf028a")
SEPTEMBER_5_24 = _after(JUNE_16_24,     "2024-09-05", "9bc6db28d", "tq1_0", "tq2_0")
OCTOBER_31_24  = _after(SEPTEMBER_5_24, "2024-10-31", "ab3d71f97")
JANUARY_7_25   = _after(OCTOBER_31_24,  "2025-01-07", "53ff6b9b9")
TODAY          = _after(JANUARY_7_25,   "2026-10",    "0.3.36", "mxfp4", "nvfp4", "q1_0", "q2_0", pin="p7")
# fmt: on

ERAS: dict[str, Era] = {era.date: era for era in (MARCH_19, MARCH_30, MARCH_31, APRIL_30, MAY_19, AUGUST_21)}
DEFAULT_ERA = MARCH_31.date
GGUF_ERA = AUGUST_21.date  # GGUF came the same day, with the same bytes; today's llama.cpp still reads and writes them


def era_of(era: str | Era) -> Era:
    """The era of a date (or pin), or the era itself.

    Raises:
        UsageError: no such era.

    >>> era_of("2023-03-31").commit
    '352589927'
    """
    if isinstance(era, Era):
        return era
    by_pin = {record.pin: record for record in ERAS.values()}
    found = ERAS.get(era) or by_pin.get(era)
    if found is None:
        raise UsageError(f"unknown era {era!r}; the eras are {', '.join(ERAS)}")
    return found


def quantizing_era(era: str | Era) -> Era:
    """The era whose ``quantize`` is meant: any of :data:`ERAS`, or, of GGUF, the one that a date falls into.

    Args:
        era: "2023-05-19", "2024-06-10", "today".

    Raises:
        UsageError: no such era.

    >>> quantizing_era("2024-06-10").date, quantizing_era("today").date
    ('2024-05-19', '2026-10')
    """
    if isinstance(era, Era) or era in ERAS or era in {record.pin for record in ERAS.values()}:
        return era_of(era)
    if era in ("today", TODAY.pin):
        return TODAY
    if re.fullmatch(r"20\d\d-\d\d(-\d\d(T\d\d)?)?", era) and AUGUST_22.date <= era:
        day_over = f"{era}~"  # which comes after any hour of that day
        return max(record for record in GGUF_ERAS.values() if record.date <= day_over)
    dates = f"{', '.join(ERAS)}, and of GGUF any date from {AUGUST_22} on, or today"
    raise UsageError(f"unknown era {era!r}; the eras are {dates}")


T = TypeVar("T")


def held_in(since: Mapping[Era, T], era: Era) -> T:
    """What held in an era, of things that each hold from one era until the next.

    >>> held_in({MARCH_19: "nibbles", MAY_19: "halves"}, APRIL_30)
    'nibbles'
    """
    return since[max(start for start in since if start <= era)]


def eras_writing(record: TensorType) -> list[Era]:
    """The eras whose tools write this very type, the default era first; of what only GGUF has, the last of GGUF.

    >>> print(*eras_writing(MARCH_31.type("q4_0")))
    2023-03-31 2023-03-19 2023-03-30 2023-04-30
    >>> print(*eras_writing(TENSOR_TYPES["iq3_s-2024-02"]), *eras_writing(TENSOR_TYPES["iq3_s"]))
    2024-02-28 2026-10
    """
    found = [era for era in ERAS.values() if era.writes(record)]
    of_gguf = [era for era in GGUF_ERAS.values() if era.writes(record)]
    return sorted(found, key=lambda era: era.date != DEFAULT_ERA) or of_gguf[-1:]


def tensor_type_of(type: str | TensorType, era: str | Era | None = None) -> TensorType:
    """The tensor type that a person means.

    Args:
        type: a record, which is returned as it is; the name of a layout ("q4_0-2023-05"); or a name that an era gave to
            its blocks ("q4_0").
        era: whose name it is; 2023-03-31 if not given, unless the name has meant the same at all times ("q4_K").

    Raises:
        UsageError: the era has no such type.

    >>> tensor_type_of("q4_0").layout, tensor_type_of("q4_0", "2023-08-21").layout, tensor_type_of("q4_K").layout
    ('q4_0-2023-03', 'q4_0-2023-08', 'q4_K')
    """
    if isinstance(type, TensorType):
        return type
    if era is None and type in TENSOR_TYPES:
        return TENSOR_TYPES[type]
    return quantizing_era(era or DEFAULT_ERA).type(type)
