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

==========  =========  ===============================================================================================
era         commit     what is particular
==========  =========  ===============================================================================================
2023-08-22  bac66994c  the search for the scales of k-quants has weights. All k-quants have other bytes, and keep them
2023-09-06  178b1850e  a q6_K block of zeros only is written as zeros (2023-09-05: and those behind it, too)
2023-10-28  bd6d9e205  rows that blocks of 256 don't divide: q2_K, q3_K become q4_1 and so on. GGUF v3
2024-01-11  469e75d0a  Q2_K_S; Q2_K has fewer q3_K; Q3_K_M and Q4_K_S count eighths of the layers
2024-01-14  467a882fd  importance matrices, which k-quants heed
2024-01-16  334a835a1  q4_0, q4_1, q5_0 and q5_1 heed them, too
2024-01-17  2b3a665d3  grouped heads give attn_v more bits
2024-02-06  f57fadc00  other scales of q4_K and q5_K with an importance matrix
2024-02-27  0becb22ac  rows that blocks don't divide: iq4_nl (from 2024-02-21 on, with other bytes)
2024-03-08  515f7d0d4  an embedding that is the output too has the type of an output
2024-04-26  0c4d489e2  quantize.imatrix.* keys
2024-05-18  05834841d  groups of nearly nothing (below 1e-15) count as nothing; before, below 1e-30, or zeros only
2024-10-31  ab3d71f97  tensors in the order of their names, which is the order that counts layers
2025-01-07  53ff6b9b9  changed keys move to the end
2026-10     0.3.36     rows that blocks don't divide: q4_0; f16 where blocks of 32 don't either. **Default of GGUF**
==========  =========  ===============================================================================================

The dates are those of the commits; between 2025-02-20 and the last only the two ends are known. The commit of the last
is the version of llama-cpp-python that has it.

Eras are ordered: ``era >= APRIL_30`` asks for what came with a commit. A fact that several places ask for has a name,
such as ``era.has_convert_py``. Dates are for people; code compares eras.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from ggmlpy.files.errors import UsageError

from .tensor_types import TENSOR_TYPES, TensorType, types_of

__all__ = [
    "APRIL_26_24",
    "APRIL_30",
    "AUGUST_21",
    "AUGUST_22",
    "DEFAULT_ERA",
    "ERAS",
    "FEBRUARY_6_24",
    "FEBRUARY_27_24",
    "GGUF_ERA",
    "GGUF_ERAS",
    "JANUARY_7_25",
    "JANUARY_11_24",
    "JANUARY_14_24",
    "JANUARY_16_24",
    "JANUARY_17_24",
    "MARCH_8_24",
    "MARCH_19",
    "MARCH_30",
    "MARCH_31",
    "MAY_18_24",
    "MAY_19",
    "OCTOBER_28",
    "OCTOBER_31_24",
    "SEPTEMBER_6",
    "TODAY",
    "Era",
    "era_of",
    "eras_writing",
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
        type_names: the tensor types that its quantizer can write, f32 and f16 included.
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
        known = {record.name: record for record in types_of(self.container, self.version).values()}
        return {name: known[name] for name in self.type_names if name in known}

    def type(self, name: str) -> TensorType:
        """The tensor type called ``name`` then.

        Raises:
            UsageError: the era has no such type.
        """
        if name not in self.types:
            raise UsageError(f"era {self.date} has no type {name!r}; it has {', '.join(self.type_names)}")
        return self.types[name]

    def writes(self, record: TensorType) -> bool:
        """Whether a file of this era can have a tensor of this very type.

        >>> [era.date for era in ERAS.values() if era.writes(MAY_19.type("q4_0"))]
        ['2023-05-19']
        """
        return self.types.get(record.name) == record

    def reads(self, record: TensorType) -> bool:
        """Whether its programs understand these bytes, whatever id the file gives them."""
        return record.name in self.type_names and self.types[record.name].layout == record.layout

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

_GGUF_K = (*_MARCH, *_FIVES, *_K_QUANTS)
_JANUARY = (*_GGUF_K, "iq2_xs")
_FEBRUARY = (*_JANUARY, "iq2_xxs")
_MARCH_24 = (*_FEBRUARY, "iq2_s", "iq3_xxs", "iq3_s", "iq4_nl", "iq4_xs")
_APRIL_24 = (*_MARCH_24, "iq1_s")
_OCTOBER_24 = (*_APRIL_24, "bf16", "tq1_0", "tq2_0")
_TODAY = (*_OCTOBER_24, "iq1_m", "mxfp4", "nvfp4", "q1_0", "q2_0")

# fmt: off
AUGUST_22      = Era("2023-08-22", "", "bac66994c", "gguf", 2, _GGUF_K)
SEPTEMBER_6    = Era("2023-09-06", "", "178b1850e", "gguf", 2, _GGUF_K)
OCTOBER_28     = Era("2023-10-28", "", "bd6d9e205", "gguf", 3, _GGUF_K)
JANUARY_11_24  = Era("2024-01-11", "", "469e75d0a", "gguf", 3, _GGUF_K)
JANUARY_14_24  = Era("2024-01-14", "", "467a882fd", "gguf", 3, _GGUF_K)
JANUARY_16_24  = Era("2024-01-16", "", "334a835a1", "gguf", 3, _GGUF_K)
JANUARY_17_24  = Era("2024-01-17", "", "2b3a665d3", "gguf", 3, _JANUARY)
FEBRUARY_6_24  = Era("2024-02-06", "", "f57fadc00", "gguf", 3, _FEBRUARY)
FEBRUARY_27_24 = Era("2024-02-27", "", "0becb22ac", "gguf", 3, (*_FEBRUARY, "iq4_nl"))
MARCH_8_24     = Era("2024-03-08", "", "515f7d0d4", "gguf", 3, _MARCH_24)
APRIL_26_24    = Era("2024-04-26", "", "0c4d489e2", "gguf", 3, _APRIL_24)
MAY_18_24      = Era("2024-05-18", "", "05834841d", "gguf", 3, _APRIL_24)
OCTOBER_31_24  = Era("2024-10-31", "", "ab3d71f97", "gguf", 3, _OCTOBER_24)
JANUARY_7_25   = Era("2025-01-07", "", "53ff6b9b9", "gguf", 3, _OCTOBER_24)
TODAY          = Era("2026-10",  "p7", "0.3.36",    "gguf", 3, _TODAY)
# fmt: on

GGUF_ERAS: dict[str, Era] = {
    era.date: era
    for era in (
        *(AUGUST_22, SEPTEMBER_6, OCTOBER_28, JANUARY_11_24, JANUARY_14_24, JANUARY_16_24),
        *(JANUARY_17_24, FEBRUARY_6_24, FEBRUARY_27_24),
        *(MARCH_8_24, APRIL_26_24, MAY_18_24, OCTOBER_31_24, JANUARY_7_25, TODAY),
    )
}
ERAS: dict[str, Era] = {era.date: era for era in (MARCH_19, MARCH_30, MARCH_31, APRIL_30, MAY_19, AUGUST_21)}
_NOT_KEPT = (  # days of GGUF whose bytes are not reproduced
    ("2023-09-05", "2023-09-06", "what follows a q6_K block of zeros was written as zeros, which is not reproduced"),
    ("2024-02-21", "2024-02-27", "rows that blocks don't divide became an iq4_nl that is not reproduced"),
)
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
        UsageError: no such era, or days whose bytes are not reproduced.

    >>> quantizing_era("2024-06-10").date, quantizing_era("today").date
    ('2024-05-18', '2026-10')
    """
    if isinstance(era, Era) or era in ERAS or era in {record.pin for record in ERAS.values()}:
        return era_of(era)
    if era in ("today", TODAY.pin):
        return TODAY
    for first, end, why in _NOT_KEPT:
        if first <= era < end:
            raise UsageError(f"from {first} to {end} {why}; name a date before or after")
    if re.fullmatch(r"20\d\d-\d\d(-\d\d)?", era) and AUGUST_22.date <= era:
        return max(record for record in GGUF_ERAS.values() if record.date <= era)
    dates = f"{', '.join(ERAS)}, and of GGUF any date from {AUGUST_22} on, or today"
    raise UsageError(f"unknown era {era!r}; the eras are {dates}")


def eras_writing(record: TensorType) -> list[Era]:
    """The eras whose tools write this very type, the default era first; of what only GGUF has, the last of GGUF.

    >>> print(*eras_writing(MARCH_31.type("q4_0")))
    2023-03-31 2023-03-19 2023-03-30 2023-04-30
    """
    found = [era for era in ERAS.values() if era.writes(record)]
    return sorted(found, key=lambda era: era.date != DEFAULT_ERA) or [TODAY] * TODAY.writes(record)


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
