"""File types: what a person asks ``quantize`` for, and which tensor gets which tensor type then.

Up to May 2023 one word named both: a file of type q4_0 has all its matrices in q4_0. The k-quants of June 2023 brought
mixes: in a Q4_K_M file most matrices are q4_K, but ``wv`` and ``w2`` of some layers, and the output, are q6_K.

====  =======  ==============  =================================================================================
id    name     first era       tensor types
====  =======  ==============  =================================================================================
0     F32      2023-08-21      f32 (as a target)
1     F16      2023-08-21      f16 (as a target)
2     Q4_0     2023-03-19      q4_0
3     Q4_1     2023-03-19      q4_1
4     Q4_1 …   never           q4_1; embedding and output f16 (a converter's, for GPTQ)
5     Q4_2     2023-04-30      q4_2 (gone in May)
6     Q4_3     never           q4_3 (only from 2023-04-20 to 2023-04-28)
7     Q8_0     2023-04-30      q8_0
8     Q5_0     2023-04-30      q5_0
9     Q5_1     2023-04-30      q5_1
10    Q2_K     2023-08-21      q2_K; wv, wo, w2 q4_K
11    Q3_K_S   2023-08-21      q3_K
12    Q3_K_M   2023-08-21      q3_K; wv, wo, w2 q4_K
13    Q3_K_L   2023-08-21      q3_K; wv, wo, w2 q5_K
14    Q4_K_S   2023-08-21      q4_K
15    Q4_K_M   2023-08-21      q4_K; wv and w2 of "more bits" layers q6_K
16    Q5_K_S   2023-08-21      q5_K
17    Q5_K_M   2023-08-21      q5_K; wv and w2 of "more bits" layers q6_K
18    Q6_K     2023-08-21      q6_K
19 …  IQ2_XXS  eras of GGUF    :mod:`ggmlpy.formats.gguf_mixes` says which tensor gets which type there
22    Q3_K_XS  2024-01-22      q3_K, in its last two days iq3_s; since 2024-02-26 the number means IQ3_XS
====  =======  ==============  =================================================================================

"More bits" layers are the first and the last eighth and every third between. From 2023-08-21 ``output.weight`` is q6_K
in **every** file type if both its dimensions are multiples of 256. A k-quant needs both dimensions to be multiples of
256; where they aren't, the output becomes f16, the embedding q4_0, and any other tensor is an error.

Sources: llama_model_quantize_internal in llama.cpp and examples/quantize/quantize.cpp at 352589927, 3e5aa8a1c,
6986c7835, dadbed99e.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ggmlpy.files.errors import ShapeError, UsageError

from .eras import (
    APRIL_30,
    AUGUST_21,
    DEFAULT_ERA,
    ERAS,
    FEBRUARY_18_24,
    FEBRUARY_21_24,
    FEBRUARY_24_24,
    FEBRUARY_26_24,
    FEBRUARY_27_24,
    GGUF_ERAS,
    JANUARY_11_24,
    JANUARY_14_24,
    JANUARY_22_24,
    JANUARY_30_24,
    MARCH_19,
    MARCH_26_24,
    MAY_8_24,
    SEPTEMBER_5_24,
    TODAY,
    Era,
    era_of,
    quantizing_era,
)
from .tensor_types import QK_K, TensorType

__all__ = ["FILE_TYPES", "FTYPES", "FileType", "TypeChooser", "fallback_notes", "file_type_of", "file_types"]


@dataclass(frozen=True)
class FileType:
    """What the header of a file promises, and a name that ``quantize`` takes.

    Attributes:
        id: the number in the header.
        name: llama.cpp's spelling from August 2023 ("Q4_K_M").
        type: the tensor type of most matrices.
        raised: the tensor type of wv, wo and w2, where it differs from ``type`` in every layer.
        raised_in_some: the tensor type of wv and w2 in "more bits" layers.
        first: the first era whose ``quantize`` takes it; None if none does.
        words: what it is called in a summary, where that is not its name.
        end: the first era whose ``quantize`` does not take it any more.
        later: the tensor type of most matrices from an era on, where that changed.
    """

    id: int
    name: str
    type: str
    first: Era | None
    raised: str | None = None
    raised_in_some: str | None = None
    words: str | None = None
    end: Era | None = None
    later: tuple[Era, str] | None = None

    @property
    def is_k_quant(self) -> bool:
        return self.type.endswith("_K")

    @property
    def title(self) -> str:
        """Its name as the summary of a header has it: "q4_K_M"."""
        return self.words or (self.name[0].lower() + self.name[1:] if self.name[0] in "FQ" else self.name.lower())

    @property
    def only_in_gguf(self) -> bool:
        """Whether it is later than the last container before GGUF."""
        return self.id > LAST_BEFORE_GGUF

    def is_target_of(self, era: Era) -> bool:
        """Whether an era's ``quantize`` takes it."""
        ended = self.end is not None and era >= self.end
        return self.first is not None and era >= self.first and not ended and self.type in era.types

    def type_in(self, era: Era) -> str:
        """The tensor type of most matrices in an era."""
        return self.later[1] if self.later and era >= self.later[0] else self.type

    def __str__(self) -> str:
        return self.name


# fmt: off
_ALL = (
    FileType(0,  "F32",    "f32",  AUGUST_21),
    FileType(1,  "F16",    "f16",  AUGUST_21),
    FileType(2,  "Q4_0",   "q4_0", MARCH_19),
    FileType(3,  "Q4_1",   "q4_1", MARCH_19),
    FileType(4,  "Q4_1_SOME_F16", "q4_1", None, words="q4_1, embeddings and output f16"),
    FileType(5,  "Q4_2",   "q4_2", APRIL_30),
    FileType(6,  "Q4_3",   "q4_3", None),
    FileType(7,  "Q8_0",   "q8_0", APRIL_30),
    FileType(8,  "Q5_0",   "q5_0", APRIL_30),
    FileType(9,  "Q5_1",   "q5_1", APRIL_30),
    FileType(10, "Q2_K",   "q2_K", AUGUST_21, raised="q4_K"),
    FileType(11, "Q3_K_S", "q3_K", AUGUST_21),
    FileType(12, "Q3_K_M", "q3_K", AUGUST_21, raised="q4_K"),
    FileType(13, "Q3_K_L", "q3_K", AUGUST_21, raised="q5_K"),
    FileType(14, "Q4_K_S", "q4_K", AUGUST_21),
    FileType(15, "Q4_K_M", "q4_K", AUGUST_21, raised_in_some="q6_K"),
    FileType(16, "Q5_K_S", "q5_K", AUGUST_21),
    FileType(17, "Q5_K_M", "q5_K", AUGUST_21, raised_in_some="q6_K"),
    FileType(18, "Q6_K",   "q6_K", AUGUST_21),
    # only GGUF has them
    FileType(19, "IQ2_XXS",    "iq2_xxs",  JANUARY_14_24),
    FileType(20, "IQ2_XS",     "iq2_xs",   JANUARY_14_24),
    FileType(21, "Q2_K_S",     "q2_K",     JANUARY_11_24),
    FileType(22, "Q3_K_XS",    "q3_K",     JANUARY_22_24, end=FEBRUARY_26_24, later=(FEBRUARY_24_24, "iq3_s")),
    FileType(22, "IQ3_XS",     "iq3_s",    FEBRUARY_26_24),
    FileType(23, "IQ3_XXS",    "iq3_xxs",  JANUARY_30_24),
    FileType(24, "IQ1_S",      "iq1_s",    FEBRUARY_18_24),
    FileType(25, "IQ4_NL",     "iq4_nl",   FEBRUARY_21_24),
    FileType(26, "IQ3_S",      "iq3_s",    FEBRUARY_24_24),
    FileType(27, "IQ3_M",      "iq3_s",    FEBRUARY_24_24),
    FileType(28, "IQ2_S",      "iq2_xs",   FEBRUARY_26_24),
    FileType(29, "IQ2_M",      "iq2_s",    FEBRUARY_26_24),
    FileType(30, "IQ4_XS",     "iq4_xs",   FEBRUARY_27_24),
    FileType(31, "IQ1_M",      "iq1_m",    MARCH_26_24),
    FileType(32, "BF16",       "bf16",     MAY_8_24),
    FileType(33, "Q4_0_4_4",   "q4_0_4_4", None),
    FileType(34, "Q4_0_4_8",   "q4_0_4_8", None),
    FileType(35, "Q4_0_8_8",   "q4_0_8_8", None),
    FileType(36, "TQ1_0",      "tq1_0",    SEPTEMBER_5_24),
    FileType(37, "TQ2_0",      "tq2_0",    SEPTEMBER_5_24),
    FileType(38, "MXFP4_MOE",  "mxfp4",    TODAY),
    FileType(39, "NVFP4",      "nvfp4",    None),
    FileType(40, "Q1_0",       "q1_0",     TODAY),
    FileType(41, "Q2_0",       "q2_0",     TODAY),
)
# fmt: on

LAST_BEFORE_GGUF = 18

FILE_TYPES: dict[str, FileType] = {record.name: record for record in _ALL}
FTYPES: dict[int, FileType] = {record.id: record for record in _ALL}  # by the number in the header: its last meaning
_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


def file_types(era: str | Era = DEFAULT_ERA) -> dict[str, FileType]:
    """The file types that an era's ``quantize`` accepts as its target.

    >>> list(file_types("2023-05-19"))
    ['Q4_0', 'Q4_1', 'Q8_0', 'Q5_0', 'Q5_1']
    """
    moment = quantizing_era(era)
    return {name: record for name, record in FILE_TYPES.items() if record.is_target_of(moment)}


def file_type_of(request: str | int | FileType, era: str | Era = DEFAULT_ERA) -> FileType:
    """The file type that ``request`` means to an era's ``quantize``: its number or its name in any case.

    Raises:
        UsageError: the era has no such file type.

    >>> file_type_of("2").name, file_type_of("q4_k_m", "2023-08-21").id
    ('Q4_0', 15)
    """
    if isinstance(request, FileType):
        request = request.name
    known = file_types(era)
    word = str(request).strip().upper()
    found = known.get(_ALIASES.get(word, word))
    if found is None and word.isdecimal():
        found = next((record for record in known.values() if record.id == int(word)), None)
    if found is None:
        elsewhere, moment = FILE_TYPES.get(_ALIASES.get(word, word)), quantizing_era(era)
        eras = [each for each in (*ERAS.values(), TODAY) if elsewhere and elsewhere.is_target_of(each)]
        eras = eras or [each for each in GGUF_ERAS.values() if elsewhere and elsewhere.is_target_of(each)][:1]
        # who has a file from before GGUF is told of GGUF only where there is no other way
        near = [each for each in eras if each.is_of_gguf == moment.is_of_gguf] or eras
        hint = f"; {elsewhere.name.lower()} needs --era {' or '.join(map(str, near))}" if elsewhere and near else ""
        choice = ", ".join(f"{record.id} or {record.name.lower()}" for record in known.values())
        raise UsageError(f"unknown type {str(request)!r} for era {moment}; it has {choice}{hint}")
    return found


class TypeChooser:
    """Which type each tensor of one file gets. Ask once for each tensor, in the order of the file.

    Args:
        file_type: what was asked for.
        names: the names of all tensors (their layers are counted).
        leave_output: keep ``output.weight`` as it is.

    Attributes:
        fallbacks: of each tensor asked for so far whose rows its type's blocks do not fit, what it got, and that type.
    """

    def __init__(
        self, file_type: FileType, era: str | Era, names: Iterable[str], *, leave_output: bool = False
    ) -> None:
        self.file_type = file_type
        self.era = era_of(era)
        self.leave_output = leave_output
        names = list(names)
        self._layers = {part: sum(part in name for name in names) for part in (WV, W2)}
        self._seen = {WV: 0, W2: 0}
        self.fallbacks: dict[str, tuple[str, str]] = {}

    def __call__(self, name: str, shape: tuple[int, ...], now: TensorType) -> TensorType | None:
        """The type that a tensor of ``shape`` (rows, columns) gets; None if it stays as it is.

        Raises:
            ShapeError: a k-quant was asked for and a dimension is not a multiple of 256.
        """
        if len(shape) != 2 or not MATRIX.fullmatch(name):
            return None
        if not self.era.has_k_quants:
            return self.era.type(self.file_type.type)
        if (self.leave_output and name == OUTPUT) or now.name == self.file_type.type:
            return None
        return self.era.type(self._k_quant_fallback(name, shape, self._mixed(name, shape)))

    def _mixed(self, name: str, shape: tuple[int, ...]) -> str:
        asked = self.file_type
        if name == OUTPUT:
            return "q6_K" if divisible(shape) else asked.type
        raised = any(part in name for part in (WV, WO, W2)) and asked.raised
        for part in (WV, W2):
            if part in name:
                if asked.raised_in_some and more_bits(self._seen[part], self._layers[part]):
                    raised = asked.raised_in_some
                self._seen[part] += 1
        return raised or asked.type

    def _k_quant_fallback(self, name: str, shape: tuple[int, ...], chosen: str) -> str:
        if not chosen.endswith("_K") or divisible(shape):
            return chosen
        if name in (OUTPUT, EMBEDDING):
            given = "f16" if name == OUTPUT else "q4_0"
            self.fallbacks[name] = given, chosen
            return given
        raise ShapeError(
            f"tensor {name!r} can't be {chosen}: k-quants need both dimensions to be multiples of {QK_K}",
            field="dims",
            expected=f"multiples of {QK_K}",
            found=" x ".join(map(str, shape[::-1])),
            cause="a small or unusual model (llama.cpp says: Unsupported tensor size encountered)",
            next_step="choose Q4_0, Q5_0 or Q8_0, whose blocks are 32 values",
        )


def fallback_notes(fallbacks: Iterable[tuple[str, str]]) -> list[str]:
    """What to say of tensors that got another type: of each its type, and the one that it was to have.

    >>> fallback_notes([("q5_0", "q4_K"), ("q5_0", "q4_K")])
    ['2 tensors became q5_0 instead of q4_K, whose blocks do not fit their rows: llama.cpp does the same']
    """
    return [
        f"{n} tensor{'s' * (n > 1)} became {got} instead of {wanted}, whose blocks do not fit their rows: llama.cpp "
        "does the same"
        for (got, wanted), n in Counter(fallbacks).items()
    ]


OUTPUT, EMBEDDING = "output.weight", "tok_embeddings.weight"
WV, WO, W2 = "attention.wv.weight", "attention.wo.weight", "feed_forward.w2.weight"
MATRIX = re.compile(".*weight")


def divisible(shape: tuple[int, ...]) -> bool:
    """Whether k-quant super-blocks fit: llama.cpp wants it of both dimensions."""
    return all(n % QK_K == 0 for n in shape)


def more_bits(layer: int, n_layers: int) -> bool:
    """Whether a layer is in the first or the last eighth, or every third between them."""
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2
