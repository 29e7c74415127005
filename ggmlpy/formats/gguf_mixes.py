"""Which tensor type each tensor of a GGUF file gets from llama-quantize: the mixes since 2023-08-22.

A *mix* gives most matrices the default type of a file type, and some another. Which ones is the table ``MIXES``, in
whose order the first row that fits decides. Where a row of values can't be cut into blocks of the type chosen, there is
a fallback (``FALLBACKS``). Layers are counted as tensors come by, in the order of the file that is written.

Source: llama_tensor_get_type in llama.cpp (2026), and its history at the commits of :mod:`ggmlpy.formats.eras`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ggmlpy.files.errors import ShapeError, UsageError

from .eras import (
    APRIL_26_24,
    FEBRUARY_27_24,
    JANUARY_7_25,
    JANUARY_11_24,
    JANUARY_16_24,
    JANUARY_17_24,
    MARCH_8_24,
    OCTOBER_28,
    OCTOBER_31_24,
    TODAY,
    Era,
)
from .file_types import FileType, more_bits
from .tensor_types import QK_K, TENSOR_TYPES, TensorType

__all__ = ["MixChooser", "MixOptions", "ModelShape", "needs_importance"]

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"


@dataclass(frozen=True)
class ModelShape:
    """What a mix asks of a model.

    Attributes:
        n_layer, n_head, n_head_kv, n_expert: from its metadata.
        tied: whether its embedding is the output too.
        n_attn_v: how many tensors of that name it has.
    """

    n_layer: int
    n_head: int
    n_head_kv: int
    n_expert: int
    tied: bool
    n_attn_v: int


@dataclass(frozen=True)
class MixOptions:
    """What a person may ask for beside the file type.

    Attributes:
        pure: no mix.
        leave_output: ``output.weight`` stays as it is.
        output, embedding: the types of these two tensors.
        tensors: expressions, and the types of tensors whose names have something that matches.
    """

    pure: bool = False
    leave_output: bool = False
    output: str | None = None
    embedding: str | None = None
    tensors: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Place:
    """A tensor, as the rows of ``MIXES`` ask about it: its number among those of its kind, and their number."""

    index: int
    count: int
    model: ModelShape
    weighted: bool
    era: Era

    @property
    def grouped(self) -> bool:
        """Whether four heads or more share keys and values."""
        return self.model.n_head >= 4 * self.model.n_head_kv

    @property
    def eight(self) -> bool:
        return self.model.n_expert == 8

    @property
    def more(self) -> bool:
        return more_bits(self.index, self.count)

    def first(self, part: int) -> bool:
        """Whether it is among the first 1 / part of its kind."""
        return self.index < self.count // part


Condition = Callable[[Place], bool]


def always(place: Place) -> bool:
    return True


def of_70b(place: Place) -> bool:
    """LLaMA 2 70B, by its looks: its heads of values are so few that more bits cost little."""
    return place.model.n_layer == 80 and place.model.n_head != place.model.n_head_kv


# fmt: off
_OLD   = lambda p: p.era < JANUARY_11_24  # noqa: E731
_GROUP = lambda p: p.grouped and p.era >= JANUARY_17_24  # noqa: E731

_SMALL = "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M"
_MOE_5 = "Q2_K IQ3_XS IQ3_XXS Q3_K_S Q3_K_M IQ4_NL Q4_K_S Q4_K_M IQ3_S IQ3_M IQ4_XS"

MIXES: dict[str, tuple[tuple[str, Condition, str], ...]] = {
    # file types                condition                                    type
    "token_embd": (
        ("IQ2_XXS IQ2_XS IQ1_S IQ1_M",  always,                              "q2_K"),
        ("IQ2_S IQ2_M IQ3_XXS",         always,                              "iq3_s"),
        ("TQ1_0 TQ2_0 Q2_0",            always,                              "q4_K"),
    ),
    "attn_v": (
        (_SMALL,            lambda p: p.grouped or p.model.n_expert >= 4,    "q4_K"),
        ("IQ2_S IQ2_M",             always,                                  "iq3_s"),
        (_SMALL,                    always,                                  "q2_K"),
        ("Q2_K Q2_K_S",             _GROUP,                                  "q4_K"),
        ("Q2_K",                    always,                                  "q3_K"),
        ("IQ3_XXS IQ3_S",           lambda p: p.grouped,                     "q4_K"),
        ("IQ3_XS",                  lambda p: p.grouped and p.era >= APRIL_26_24, "q4_K"),
        ("IQ3_XXS",                 lambda p: p.weighted,                    "iq3_xxs"),
        ("IQ3_XXS",                 always,                                  "iq3_s"),
        ("IQ3_M",                   always,                                  "q4_K"),
        ("Q3_K_M",                  lambda p: p.index < 2,                   "q5_K"),
        ("Q3_K_M",                  always,                                  "q4_K"),
        ("Q3_K_L",                  always,                                  "q5_K"),
        ("IQ4_NL IQ4_XS",           lambda p: p.grouped,                     "q5_K"),
        ("Q4_K_M Q5_K_M",           lambda p: p.more,                        "q6_K"),
        ("Q4_K_S",                  lambda p: p.index < 4,                   "q5_K"),
    ),
    "attn_k": (
        (_SMALL,                    lambda p: p.eight,                       "q4_K"),
        (_SMALL,                    always,                                  ""),
        ("",                        lambda p: p.eight,                       "q8_0"),
        ("IQ3_XS",                  always,                                  "iq3_xxs"),
        ("IQ3_XXS",                 always,                                  "iq2_s"),
    ),
    "attn_q": (
        ("IQ3_XS",                  always,                                  "iq3_xxs"),
        ("IQ3_XXS",                 always,                                  "iq2_s"),
    ),
    "ffn_down": (
        ("IQ2_S IQ2_M",             lambda p: p.first(8),                    "iq3_s"),
        (_SMALL,                    lambda p: p.first(8),                    "q2_K"),
        ("Q2_K",                    always,                                  "q3_K"),
        ("Q2_K_S",                  lambda p: p.first(8),                    "q4_K"),
        ("IQ3_XXS",                 lambda p: not p.weighted and p.first(8), "q4_K"),
        ("IQ3_XXS",                 lambda p: not p.weighted,                "q3_K"),
        ("Q3_K_M",                  lambda p: _OLD(p) and p.index < 2,       "q5_K"),
        ("Q3_K_M",                  lambda p: not _OLD(p) and p.first(16),   "q5_K"),
        ("Q3_K_M",                  always,                                  "q4_K"),
        ("IQ3_M",                   lambda p: p.first(8) or (p.eight and p.more), "q4_K"),
        ("Q3_K_L",                  always,                                  "q5_K"),
        ("Q4_K_M Q5_K_M",           lambda p: p.more,                        "q6_K"),
        ("IQ4_NL IQ4_XS",           lambda p: not p.weighted and p.first(8), "q5_K"),
        ("Q4_K_S",                  lambda p: _OLD(p) and p.index < 4,       "q5_K"),
        ("Q4_K_S",                  lambda p: not _OLD(p) and p.first(8),    "q5_K"),
        ("Q4_0",                    lambda p: p.weighted and p.first(8),     "q4_1"),
        ("Q5_0",                    lambda p: p.weighted and p.first(8),     "q5_1"),
    ),
    "attn_output": (
        (_SMALL,                    lambda p: p.eight,                       "q5_K"),
        ("IQ1_S IQ1_M",             always,                                  "iq2_xxs"),
        ("IQ2_S IQ2_M",             always,                                  "iq3_s"),
        (_MOE_5,                    lambda p: p.eight,                       "q5_K"),
        ("Q2_K",                    lambda p: not p.eight,                   "q3_K"),
        ("IQ3_XXS",                 lambda p: not p.eight,                   "iq3_s"),
        ("Q3_K_M IQ3_M",            lambda p: not p.eight,                   "q4_K"),
        ("Q3_K_L",                  lambda p: not p.eight,                   "q5_K"),
    ),
    "attn_qkv": (
        ("Q3_K_M Q3_K_L IQ3_M",     always,                                  "q4_K"),
        ("Q4_K_M",                  always,                                  "q5_K"),
        ("Q5_K_M",                  always,                                  "q6_K"),
    ),
    "ffn_gate": (
        ("Q2_K",                    _OLD,                                    "q3_K"),
        ("IQ3_XS",                  lambda p: p.count // 8 <= p.index < 7 * p.count // 8, "iq3_xxs"),
    ),
    "ffn_up": (
        ("Q2_K",                    _OLD,                                    "q3_K"),
        ("IQ3_XS",                  lambda p: p.count // 8 <= p.index < 7 * p.count // 8, "iq3_xxs"),
    ),
}

_FINE = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s")

#: what a type becomes whose blocks don't divide a row: from an era on
FALLBACKS: dict[Era, dict[str, str]] = {
    OCTOBER_28: {"q2_K": "q4_1", "q3_K": "q4_1", "q4_K": "q5_0", "q5_K": "q5_1", "q6_K": "q8_0"},
    FEBRUARY_27_24: dict.fromkeys((*_FINE, "q2_K", "q3_K", "iq4_xs"), "iq4_nl"),
    OCTOBER_31_24: dict.fromkeys(("tq1_0", "tq2_0"), "q4_0"),
    TODAY: dict.fromkeys(("q2_0", "q2_K", "q3_K"), "q4_0"),
}
# fmt: on

_KEPT = ("_norm.weight", "ffn_gate_inp.weight")


def needs_importance(type_name: str, file_type: FileType, tensor: str, era: Era) -> bool:
    """Whether llama-quantize refuses to make this tensor without an importance matrix."""
    if tensor in (EMBEDDING, OUTPUT):
        return False
    if type_name == "q2_K":
        return file_type.name == "Q2_K_S"
    if type_name == "iq3_xxs":
        return era >= TODAY
    return type_name in ("iq2_xxs", "iq2_xs", "iq2_s", "iq1_s", "iq1_m")


@dataclass
class MixChooser:
    """Which type each tensor of one file gets. Ask once for each tensor, in the order of the file that is written.

    Attributes:
        file_type, era, model, options: what was asked for, and of what.
        weighted: whether there is an importance matrix.
    """

    file_type: FileType
    era: Era
    model: ModelShape
    options: MixOptions = field(default_factory=MixOptions)
    weighted: bool = False
    _seen: dict[str, int] = field(default_factory=dict)

    def __call__(self, name: str, shape: tuple[int, ...], now: TensorType) -> TensorType | None:
        """The type that a tensor (rows first) gets; None if it stays as it is.

        Raises:
            ShapeError: rows can't be cut into blocks, and there is no fallback.
        """
        if not self._is_quantized(name, shape):
            return None
        given = {EMBEDDING: self.options.embedding, OUTPUT: self.options.output}.get(name)
        if given is None and self.file_type.type in ("f32", "f16", "bf16"):
            given = self.file_type.type
        if given is None:
            matched = next((kind for pattern, kind in self.options.tensors if re.search(pattern.lower(), name)), None)
            given = self._fitting(name, shape, matched or self._mixed(name, shape))
        chosen = self.era.type(given)
        return None if chosen.layout == now.layout else chosen

    def _is_quantized(self, name: str, shape: tuple[int, ...]) -> bool:
        n_dims = len(shape) - next((i for i, n in enumerate(shape) if n != 1), len(shape) - 1)
        if n_dims < 2 or not name.endswith("weight") or any(part in name for part in _KEPT):
            return False
        return not (self.options.leave_output and name == OUTPUT)

    def _mixed(self, name: str, shape: tuple[int, ...]) -> str:
        asked, default = self.file_type.name, self.file_type.type
        if self.options.pure:
            return default
        if name == OUTPUT or (name == EMBEDDING and self.model.tied and self.era >= MARCH_8_24):
            return self._output(shape)
        if asked == "MXFP4_MOE":
            return "mxfp4" if len(shape) == 3 else "q8_0"
        kind = next((kind for kind in MIXES if f"{kind}.weight" in name or f"{kind}_exps.weight" in name), "")
        place = self._place(kind, name)
        rows = (row for row in MIXES.get(kind, ()) if not row[0] or asked in row[0].split())
        chosen = next((type_name for _, applies, type_name in rows if applies(place)), "") or default
        if kind == "attn_v" and asked not in _SMALL.split():
            chosen = "q5_K" if of_70b(place) and chosen in ("q3_K", "q4_K") else chosen
            chosen = "q8_0" if place.eight else chosen
        return chosen

    def _output(self, shape: tuple[int, ...]) -> str:
        asked, default = self.file_type.name, self.file_type.type
        if self.options.output:
            return self.options.output
        if self.era < OCTOBER_28:
            return default if shape[-1] % QK_K or default == "q8_0" else "q6_K"
        if asked == "MXFP4_MOE" or shape[-1] % self.era.type(default).blck_size:
            return "q8_0"
        if asked in (*_SMALL.split(), "IQ3_XXS"):
            return "q5_K"
        return "q8_0" if default == "q8_0" else "q6_K"

    def _place(self, kind: str, name: str) -> Place:
        """Where a tensor is among its kind; with experts, feed-forward tensors are counted by the layer they name."""
        index = self._seen.get(kind, 0)
        self._seen[kind] = index + 1
        layer = re.match(r"blk\.(\d+)\.", name)
        if kind.startswith("ffn") and self.model.n_expert > 1 and layer:
            index = int(layer[1])
        count = self.model.n_attn_v if kind == "attn_v" else self.model.n_layer
        return Place(index, count, self.model, self.weighted and self.era >= JANUARY_16_24, self.era)

    def _fitting(self, name: str, shape: tuple[int, ...], chosen: str) -> str:
        """The type itself, or what takes its place where its blocks don't divide a row."""
        columns, record = shape[-1], self.era.type(chosen)
        if self.era < OCTOBER_28 and record.name.endswith("_K") and columns % QK_K:
            if name not in (OUTPUT, EMBEDDING):
                raise self._misfit(name, chosen, QK_K, columns)
            return "f16" if name == OUTPUT else "q4_0"
        if columns % record.blck_size == 0:
            return chosen
        fallback: Mapping[str, str] = {}
        for since, table in FALLBACKS.items():
            fallback = fallback | table if since <= self.era else fallback  # type: ignore[operator]
        if record.blck_size > 32 and chosen not in fallback:
            raise self._misfit(name, chosen, record.blck_size, columns)
        fitting = fallback.get(chosen, chosen)
        if columns % self.era.type(fitting).blck_size == 0:
            return fitting
        if self.era >= TODAY or (self.era >= JANUARY_7_25 and record.blck_size > 32):
            return "f16"
        raise self._misfit(name, fitting, self.era.type(fitting).blck_size, columns)

    def _misfit(self, name: str, chosen: str, multiple: int, columns: int) -> ShapeError:
        return ShapeError(
            f"rows of tensor {name!r} can't be divided into blocks of {chosen}, and era {self.era} has no other type "
            f"for them",
            field="dims",
            expected=f"a multiple of {multiple} columns",
            found=columns,
            cause=f"a small or unusual model (llama.cpp says: no tensor type fallback is defined for type {chosen})",
            next_step="choose Q4_0, Q5_0 or Q8_0, whose blocks are 32 values",
        )


def checked_types(names: Iterable[str | None], era: Era) -> None:
    """Refuse types that are asked for by name and that the era has not.

    Raises:
        UsageError: there is one.
    """
    for name in names:
        if name is not None and name not in era.types:
            known = {record.name for record in TENSOR_TYPES.values()}
            raise UsageError(
                f"{'era ' + era.date + ' has' if name in known else 'there is'} no tensor type {name!r}; "
                f"it is one of {', '.join(era.types)}"
            )
