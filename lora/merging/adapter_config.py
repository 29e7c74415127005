"""``adapter_config.json``: what it says about the arithmetic of a PEFT LoRA adapter.

The configuration decides what the pair of one module means::

    W' = W + scale * (B @ A)          B [rows, r], A [r, columns]
    scale = alpha / r                 alpha / sqrt(r) with use_rslora; rank_pattern and alpha_pattern per module

Whatever would be ignored by this arithmetic (DoRA, aLoRA, PiSSA, …) is refused, never dropped:
:mod:`lora.merging.adapter_features` has the table.

``fan_in_fan_out`` is for layers that store their weights transposed (GPT-2's Conv1D). LLaMA has none: PEFT warns and
takes it as false. The merge script of Chinese-LLaMA-Alpaca v1.1 added the change transposed.

Sources: peft 0.2.0 and 0.3.0 ``tuners/lora.py``; peft 0.14 ``tuners/lora/config.py``.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggmlpy.files.errors import FormatError, UnsupportedError
from ggmlpy.files.json_files import read_json
from ggmlpy.files.unpacked import shown

from .adapter_features import active_features
from .module_patterns import ModulePatterns

__all__ = ["CONFIG", "AdapterConfig", "read_adapter_config"]

CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class AdapterConfig:
    """What ``adapter_config.json`` says about the arithmetic."""

    path: Path
    r: int
    alpha: float
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    modules_to_save: tuple[str, ...] = ()
    base_model: str = ""
    notes: tuple[str, ...] = ()

    def rank_of(self, module: str) -> int:
        """The rank of a module: that of the first key of rank_pattern that is its name or its end, else ``r``."""
        return self._ranks.of(module, self.r)

    def scale_of(self, module: str) -> float:
        """What ``B @ A`` is multiplied with.

        >>> config = AdapterConfig(Path(), r=8, alpha=32, alpha_pattern={"q_proj": 4})
        >>> config.scale_of("model.layers.0.self_attn.q_proj"), config.scale_of("model.layers.0.self_attn.k_proj")
        (0.5, 4.0)
        """
        rank, alpha = self.rank_of(module), self._alphas.of(module, self.alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    @functools.cached_property
    def _ranks(self) -> _ByPattern:
        return _ByPattern(self.path, "rank_pattern", self.rank_pattern)

    @functools.cached_property
    def _alphas(self) -> _ByPattern:
        return _ByPattern(self.path, "alpha_pattern", self.alpha_pattern)


class _ByPattern:
    """Values of single modules; see :mod:`lora.merging.module_patterns`."""

    def __init__(self, path: Any, field: str, table: Mapping[str, Any]) -> None:
        self.path, self.field, self.values, self.known = path, field, list(table.values()), {}  # type: ignore[var-annotated]
        try:
            self.patterns = ModulePatterns(table)
        except ValueError as error:
            raise self._bad(error) from error

    def of(self, module: str, default: Any) -> Any:
        """The value of the first key that means the module."""
        if module not in self.known:
            try:
                self.known[module] = self.patterns.first(module)
            except ValueError as error:
                raise self._bad(error) from error
        number = self.known[module]
        return default if number is None else self.values[number]

    def _bad(self, error: ValueError) -> FormatError:
        return FormatError("not a pattern for modules", path=self.path, field=self.field, found=str(error))


def read_adapter_config(path: str | os.PathLike[str]) -> AdapterConfig:
    """Read and check ``adapter_config.json``.

    Raises:
        MissingFileError: there is none.
        FormatError: it is not JSON, or lacks r or lora_alpha.
        UnsupportedError: another method than LoRA, or a variant of it that cannot be merged by addition.
    """
    record = read_json(path)
    method = record.get("peft_type", "LORA")
    if method != "LORA":
        raise _refused(path, f"peft_type {method}", "only LoRA adapters are added to weights")
    active = active_features(record)
    for key, feature in active.items():
        if feature.effect == "refused":
            raise _refused(path, f"{key} = {record[key]!r}"[:120], feature.reason)
    config = AdapterConfig(
        path=Path(path),
        r=int(_number(path, record, "r", whole=True)),
        alpha=_number(path, record, "lora_alpha"),
        fan_in_fan_out=bool(record.get("fan_in_fan_out")),
        use_rslora=bool(record.get("use_rslora")),
        rank_pattern=_patterns(path, record, "rank_pattern", whole=True),
        alpha_pattern=_patterns(path, record, "alpha_pattern"),
        modules_to_save=_names(path, record, "modules_to_save"),
        base_model=str(record.get("base_model_name_or_path") or ""),
        notes=tuple(f"{shown(path)}: {key} = {record[key]!r}"[:160] + f": {row.reason}" for key, row in active.items()),
    )
    config.scale_of("")  # a bad pattern is found here
    return config


def _number(path: Any, record: Mapping[str, Any], key: str, *, whole: bool = False) -> Any:
    value = record.get(key)
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < abs(value) < 1 << 20 or (whole and value < 0):
        raise FormatError(
            "the adapter's configuration is incomplete",
            path=path,
            field=key,
            expected="a positive whole number" if whole else "a number other than 0",
            found=repr(value)[:80],
            next_step=f"copy {CONFIG} again from where the adapter was published",
        )
    return value


def _names(path: Any, record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = record.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FormatError("not a list of modules", path=path, field=key, found=repr(names)[:80])
    return tuple(names)


def _patterns(path: Any, record: Mapping[str, Any], key: str, *, whole: bool = False) -> dict[str, Any]:
    patterns = record.get(key) or {}
    if not isinstance(patterns, dict):
        raise FormatError("not a table of modules", path=path, field=key, found=repr(patterns)[:80])
    return {pattern: _number(path, patterns, pattern, whole=whole) for pattern in patterns}


def _refused(path: Any, found: str, reason: str) -> UnsupportedError:
    return UnsupportedError(
        "this adapter cannot be merged by adding B @ A",
        path=path,
        found=found,
        cause=reason,
        next_step="merge it with the PEFT version that made it, then start from the merged model",
    )
