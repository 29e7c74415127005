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

Eras are ordered: ``era >= APRIL_30`` asks for what came with a commit. A fact that several places ask for has a name,
such as ``era.has_convert_py``. Dates are for people; code compares eras.
"""

from __future__ import annotations

from dataclasses import dataclass

from ggmlpy.files.errors import UsageError

from .tensor_types import TENSOR_TYPES, TensorType, types_of

__all__ = [
    "APRIL_30",
    "AUGUST_21",
    "DEFAULT_ERA",
    "ERAS",
    "GGUF_ERA",
    "MARCH_19",
    "MARCH_30",
    "MARCH_31",
    "MAY_19",
    "Era",
    "era_of",
    "eras_writing",
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

    @property
    def types(self) -> dict[str, TensorType]:
        """The tensor types of this era by name, with the bytes they had then."""
        known = {record.name: record for record in types_of(self.container, self.version).values()}
        return {name: known[name] for name in self.type_names}

    def type(self, name: str) -> TensorType:
        """The tensor type called ``name`` then.

        Raises:
            UsageError: the era has no such type.
        """
        if name not in self.type_names:
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


def eras_writing(record: TensorType) -> list[Era]:
    """The eras whose tools write this very type, the default era first.

    >>> print(*eras_writing(MARCH_31.type("q4_0")))
    2023-03-31 2023-03-19 2023-03-30 2023-04-30
    """
    found = [era for era in ERAS.values() if era.writes(record)]
    return sorted(found, key=lambda era: era.date != DEFAULT_ERA)


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
    return era_of(era or DEFAULT_ERA).type(type)
