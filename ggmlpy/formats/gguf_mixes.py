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
    APRIL_3_24,
    AUGUST_22,
    AUGUST_26,
    AUGUST_27,
    DECEMBER_13,
    FEBRUARY_5_24,
    FEBRUARY_18_24,
    FEBRUARY_21_24,
    FEBRUARY_24_24,
    FEBRUARY_26_24,
    FEBRUARY_27_24,
    FEBRUARY_28_24,
    JANUARY_7_25,
    JANUARY_11_24,
    JANUARY_14_24,
    JANUARY_15_24,
    JANUARY_16_24,
    JANUARY_17_24,
    JANUARY_25_24,
    JANUARY_30_24,
    MARCH_8_24,
    MARCH_22_24,
    MARCH_26_24,
    OCTOBER_28,
    SEPTEMBER_5_24,
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
        n_ffn: how many tensors have "ffn_down", "ffn_gate" or "ffn_up" in their names.
    """

    n_layer: int
    n_head: int
    n_head_kv: int
    n_expert: int
    tied: bool
    n_attn_v: int
    n_ffn: Mapping[str, int] = field(default_factory=dict)


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
    """A tensor, as the rows of ``MIXES`` ask about it: its number among those of its kind, and their number.

    Attributes:
        weighted: whether there is an importance matrix.
        single: whether it is not one of several experts.
    """

    index: int
    count: int
    model: ModelShape
    weighted: bool
    era: Era
    single: bool = True

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


def since(era: Era, condition: Condition = always) -> Condition:
    """A condition that holds from an era on."""
    return lambda place: place.era >= era and condition(place)


def until(era: Era, condition: Condition = always) -> Condition:
    """A condition that holds before an era."""
    return lambda place: place.era < era and condition(place)


def grouped(place: Place) -> bool:
    return place.grouped


def unweighted(place: Place) -> bool:
    return not place.weighted


def inner(place: Place) -> bool:
    """Neither in the first eighth of the layers nor in the last."""
    return place.count // 8 <= place.index < 7 * place.count // 8


# fmt: off
_SMALL = "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M"
_MOE_5 = "Q2_K Q3_K_XS IQ3_XS IQ3_XXS Q3_K_S Q3_K_M IQ4_NL Q4_K_S Q4_K_M IQ3_S IQ3_M IQ4_XS"

_GATE_AND_UP = (
    ("Q2_K",       until(JANUARY_11_24, lambda p: p.single),                     "q3_K"),
    ("Q3_K_XS",    until(FEBRUARY_24_24, lambda p: not p.more),                  "q2_K"),
    ("Q3_K_XS",    since(FEBRUARY_24_24, inner),                                 "iq3_xxs"),
    ("IQ3_XS",     inner,                                                        "iq3_xxs"),
)
MIXES: dict[str, tuple[tuple[str, Condition, str], ...]] = {
    # file types                condition                                        type
    "token_embd": (
        ("IQ2_XXS IQ2_XS IQ1_S IQ1_M",  always,                                  "q2_K"),
        ("IQ3_XXS",                     until(FEBRUARY_26_24),                   "q4_K"),
        ("IQ2_S IQ2_M IQ3_XXS",         always,                                  "iq3_s"),
        ("TQ1_0 TQ2_0 Q2_0",            always,                                  "q4_K"),
    ),
    "attn_v": (
        (_SMALL,            lambda p: p.grouped or p.model.n_expert >= 4,        "q4_K"),
        ("IQ2_S IQ2_M",             always,                                      "iq3_s"),
        (_SMALL,                    always,                                      "q2_K"),
        ("Q2_K Q2_K_S",             since(JANUARY_17_24, grouped),               "q4_K"),
        ("Q2_K",                    always,                                      "q3_K"),
        ("IQ3_XXS IQ3_S",           grouped,                                     "q4_K"),
        ("IQ3_XS",                  since(MARCH_22_24, grouped),                 "q4_K"),
        ("IQ3_XXS",                 since(FEBRUARY_26_24, unweighted),           "iq3_s"),
        ("IQ3_XXS",                 since(FEBRUARY_5_24, unweighted),            "q3_K"),
        ("IQ3_XXS",                 always,                                      "iq3_xxs"),
        ("IQ3_M",                   always,                                      "q4_K"),
        ("Q3_K_M",                  lambda p: p.index < 2,                       "q5_K"),
        ("Q3_K_M",                  always,                                      "q4_K"),
        ("Q3_K_L",                  always,                                      "q5_K"),
        ("IQ4_NL IQ4_XS",           grouped,                                     "q5_K"),
        ("Q4_K_M Q5_K_M",           lambda p: p.more,                            "q6_K"),
        ("Q4_K_S",                  lambda p: p.index < 4,                       "q5_K"),
    ),
    "attn_k": (
        (_SMALL,                    since(FEBRUARY_26_24, lambda p: p.eight),    "q4_K"),
        (_SMALL,                    always,                                      ""),
        ("",                        since(DECEMBER_13, lambda p: p.eight),       "q8_0"),
        ("Q3_K_XS",                 until(FEBRUARY_24_24),                       "q2_K"),
        ("Q3_K_XS IQ3_XS",          always,                                      "iq3_xxs"),
        ("IQ3_XXS",                 since(FEBRUARY_26_24),                       "iq2_s"),
    ),
    "attn_q": (
        ("Q3_K_XS IQ3_XS",          since(FEBRUARY_24_24),                       "iq3_xxs"),
        ("IQ3_XXS",                 since(FEBRUARY_26_24),                       "iq2_s"),
    ),
    "ffn_down": (
        ("IQ2_S IQ2_M",             lambda p: p.first(8),                        "iq3_s"),
        (_SMALL,                    lambda p: p.first(8),                        "q2_K"),
        ("Q2_K",                    always,                                      "q3_K"),
        ("Q2_K_S",                  lambda p: p.first(8),                        "q4_K"),
        ("Q3_K_XS",                 until(FEBRUARY_24_24, lambda p: p.first(8)), "q4_K"),
        ("IQ3_XXS",    since(FEBRUARY_5_24, lambda p: unweighted(p) and p.first(8)), "q4_K"),
        ("IQ3_XXS",                 since(FEBRUARY_5_24, unweighted),            "q3_K"),
        ("Q3_K_M",                  until(JANUARY_11_24, lambda p: p.index < 2), "q5_K"),
        ("Q3_K_M",                  since(JANUARY_11_24, lambda p: p.first(16)), "q5_K"),
        ("Q3_K_M",                  always,                                      "q4_K"),
        ("IQ3_M",                   lambda p: p.first(8) or (p.eight and p.more), "q4_K"),
        ("Q3_K_L",                  always,                                      "q5_K"),
        ("Q4_K_M Q5_K_M",           lambda p: p.more,                            "q6_K"),
        ("IQ4_NL IQ4_XS",           lambda p: unweighted(p) and p.first(8),      "q5_K"),
        ("Q4_K_S",                  until(JANUARY_11_24, lambda p: p.index < 4), "q5_K"),
        ("Q4_K_S",                  since(JANUARY_11_24, lambda p: p.first(8)),  "q5_K"),
        ("Q4_0",                    lambda p: p.weighted and p.first(8),         "q4_1"),
        ("Q5_0",                    lambda p: p.weighted and p.first(8),         "q5_1"),
    ),
    "attn_output": (
        (_SMALL,                    since(FEBRUARY_26_24, lambda p: p.eight),    "q5_K"),
        ("IQ1_S IQ1_M",             always,                                      "iq2_xxs"),
        ("IQ2_S IQ2_M",             always,                                      "iq3_s"),
        (_MOE_5,                    since(JANUARY_14_24, lambda p: p.eight),     "q5_K"),
        ("",                        since(JANUARY_14_24, lambda p: p.eight),     ""),
        ("Q2_K",                    always,                                      "q3_K"),
        ("IQ3_XXS",                 until(FEBRUARY_26_24),                       "q3_K"),
        ("IQ3_XXS",                 always,                                      "iq3_s"),
        ("Q3_K_M IQ3_M",            always,                                      "q4_K"),
        ("Q3_K_L",                  always,                                      "q5_K"),
    ),
    "attn_qkv": (
        ("Q3_K_M Q3_K_L IQ3_M",     always,                                      "q4_K"),
        ("Q4_K_M",                  always,                                      "q5_K"),
        ("Q5_K_M",                  always,                                      "q6_K"),
    ),
    "ffn_gate": _GATE_AND_UP,
    "ffn_up": _GATE_AND_UP,
}

#: what a type becomes whose blocks don't divide a row: from an era on
FALLBACKS: dict[Era, dict[str, str]] = {
    OCTOBER_28: {"q2_K": "q4_0", "q3_K": "q4_1", "q4_K": "q5_0", "q5_K": "q5_1", "q6_K": "q8_0"},
    JANUARY_15_24: dict.fromkeys(("iq2_xxs", "iq2_xs"), "q4_0"),
    JANUARY_30_24: {"iq3_xxs": "q4_0"},
    FEBRUARY_18_24: {"iq1_s": "q4_0"},
    FEBRUARY_21_24: dict.fromkeys(("iq2_xxs", "iq2_xs", "iq3_xxs", "iq1_s", "q2_K", "q3_K"), "iq4_nl"),
    FEBRUARY_24_24: {"iq3_s": "iq4_nl"},
    FEBRUARY_26_24: {"iq2_s": "iq4_nl"},
    FEBRUARY_27_24: {"iq4_xs": "iq4_nl"},
    MARCH_26_24: {"iq1_m": "iq4_nl"},
    SEPTEMBER_5_24: dict.fromkeys(("tq1_0", "tq2_0"), "q4_0"),
    TODAY: dict.fromkeys(("q2_0", "q2_K", "q3_K"), "q4_0"),
}
# fmt: on

#: parts of names of tensors that are never quantized, since an era
_KEPT = {"_norm.weight": AUGUST_22, "ffn_gate_inp.weight": FEBRUARY_28_24}


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
        fallbacks: of each tensor asked for so far whose rows its type's blocks do not fit, what it got, and that type.
    """

    file_type: FileType
    era: Era
    model: ModelShape
    options: MixOptions = field(default_factory=MixOptions)
    weighted: bool = False
    fallbacks: dict[str, tuple[str, str]] = field(default_factory=dict)
    _seen: dict[str, int] = field(default_factory=dict)

    def __call__(self, name: str, shape: tuple[int, ...], now: TensorType) -> TensorType | None:
        """The type that a tensor (rows first) gets; None if it stays as it is.

        Raises:
            ShapeError: rows can't be cut into blocks, and there is no fallback.
        """
        if not self._is_quantized(name, shape):
            return None
        given = {EMBEDDING: self.options.embedding, OUTPUT: self.options.output}.get(name)
        default = self.file_type.type_in(self.era)
        if given is None and default in ("f32", "f16", "bf16"):
            given = default
        if given is None:
            matched = next((kind for pattern, kind in self.options.tensors if re.search(pattern.lower(), name)), None)
            wanted = matched or self._mixed(name, shape)
            given = self._fitting(name, shape, wanted)
            if given != wanted:
                self.fallbacks[name] = given, wanted
        chosen = self.era.type(given)
        return None if chosen.layout == now.layout else chosen

    def _is_quantized(self, name: str, shape: tuple[int, ...]) -> bool:
        n_dims = len(shape) - next((i for i, n in enumerate(shape) if n != 1), len(shape) - 1)
        if (
            n_dims < 2
            or not name.endswith("weight")
            or any(part in name and self.era >= start for part, start in _KEPT.items())
        ):
            return False
        return not (self.options.leave_output and name == OUTPUT)

    def _mixed(self, name: str, shape: tuple[int, ...]) -> str:
        asked, default = self.file_type.name, self.file_type.type_in(self.era)
        if self.options.pure:
            return default
        if name == OUTPUT or (name == EMBEDDING and self.model.tied and self.era >= MARCH_8_24):
            return self._output(shape)
        if asked == "MXFP4_MOE":
            return "mxfp4" if len(shape) == 3 else "q8_0"
        kind = self._kind(name)
        place = self._place(kind, name)
        rows = (row for row in MIXES.get(kind, ()) if not row[0] or asked in row[0].split())
        chosen = next((type_name for _, applies, type_name in rows if applies(place)), "") or default
        if kind == "attn_v" and asked not in _SMALL.split():
            many = self.era >= AUGUST_26 and of_70b(place)
            chosen = "q5_K" if many and chosen in ("q3_K", "q4_K") else chosen
            chosen = "q8_0" if place.eight and self.era >= DECEMBER_13 else chosen
        return chosen

    def _kind(self, name: str) -> str:
        """Whose row of ``MIXES`` it is. Until April 2024 each expert had its own tensors."""
        experts = r"(_exps|_inp|\.\d+)?" if self.era >= JANUARY_11_24 else ""
        return next(
            (kind for kind in MIXES if re.search(rf"{kind}{experts if 'ffn' in kind else ''}\.weight", name)), ""
        )

    def _output(self, shape: tuple[int, ...]) -> str:
        asked, default = self.file_type.name, self.file_type.type_in(self.era)
        if self.options.output:
            return self.options.output
        if self.era < AUGUST_27:
            return "q6_K" if self._is_cut(shape) else default
        whole = self.era.type(default).blck_size if self.era >= TODAY else QK_K
        if asked == "MXFP4_MOE" or shape[-1] % whole:
            return "q8_0"
        if asked in (*_SMALL.split(), *(("IQ3_XXS",) if self.era >= FEBRUARY_26_24 else ())):
            return "q5_K"
        return "q8_0" if default == "q8_0" else "q6_K"

    def _place(self, kind: str, name: str) -> Place:
        """Where a tensor is among its kind; with experts, feed-forward tensors are counted by the layer they name."""
        index = self._seen.get(kind, 0)
        self._seen[kind] = index + 1
        layer = re.match(r"blk\.(\d+)\.", name)
        count = self.model.n_attn_v if kind == "attn_v" else self.model.n_layer
        if kind.startswith("ffn") and self.model.n_expert > 1 and layer:
            by_layer = self.era >= (JANUARY_14_24 if kind == "ffn_down" else JANUARY_25_24)
            index = int(layer[1]) if by_layer else index
            if self.era < APRIL_3_24:  # of ffn_gate this counts the gate of the experts, too
                count = self.model.n_ffn[kind] // (self.model.n_expert if by_layer else 1)
        weighted, single = self.weighted and self.era >= JANUARY_16_24, name.endswith(f"{kind}.weight")
        return Place(index, count, self.model, weighted, self.era, single)

    def _is_cut(self, shape: tuple[int, ...]) -> bool:
        """Whether super-blocks of 256 divide a tensor: in the first days its columns, too."""
        return shape[-1] % QK_K == 0 and (self.era >= AUGUST_26 or shape[0] % QK_K == 0)

    def _fitting(self, name: str, shape: tuple[int, ...], chosen: str) -> str:
        """The type itself, or what takes its place where its blocks don't divide a row."""
        columns, record = shape[-1], self.era.type(chosen)
        if self.era < OCTOBER_28 and record.is_k_quant and not self._is_cut(shape):
            if name not in (OUTPUT, EMBEDDING):
                misfit = (columns, "columns") if columns % QK_K else (shape[0], "rows")
                raise self._misfit(name, chosen, QK_K, *misfit)
            return "f16" if name == OUTPUT else "q4_0"
        of_any_type = self.file_type.name == "IQ1_S" and self.era < MARCH_26_24 and columns % QK_K
        if columns % record.blck_size == 0 and not of_any_type:
            return chosen
        fallback: Mapping[str, str] = {}
        for since, table in FALLBACKS.items():
            fallback = fallback | table if since <= self.era else fallback  # type: ignore[operator]
        if (record.blck_size > 32 or of_any_type) and chosen not in fallback:
            raise self._misfit(name, chosen, record.blck_size, columns)
        fitting = fallback.get(chosen, chosen)
        if columns % self.era.type(fitting).blck_size == 0:
            return fitting
        if self.era >= TODAY or (self.era >= JANUARY_7_25 and record.blck_size > 32):
            return "f16"
        raise self._misfit(name, fitting, self.era.type(fitting).blck_size, columns)

    def _misfit(self, name: str, chosen: str, multiple: int, found: int, what: str = "columns") -> ShapeError:
        return ShapeError(
            f"rows of tensor {name!r} can't be divided into blocks of {chosen}, and era {self.era} has no other type "
            f"for them",
            field="dims",
            expected=f"a multiple of {multiple} {what}",
            found=found,
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
