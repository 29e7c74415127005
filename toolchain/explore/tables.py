"""What the page must know of the formats: the declared tables, as JSON, so that its JavaScript has no copy of them.

Containers with their records, tensor types with their blocks and grids, tensor names, the keys of GGUF that change no
result, pre-tokenizers, and the operations of the transformer with their lines. The page's code reads all of these, and
knows no offset and no bit of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ggmlpy.formats.containers import CONTAINERS, GGUF, Container
from ggmlpy.formats.fields import Align, Array, Field, Number, Record, Text
from ggmlpy.formats.file_types import FTYPES
from ggmlpy.formats.gguf import ALIGNMENT, records_of
from ggmlpy.formats.gguf_model import ARCHITECTURES
from ggmlpy.formats.gguf_values import VALUE_TYPES, Typed
from ggmlpy.formats.grids import GRIDS, grid_levels
from ggmlpy.formats.model_params import LLAMA_CONTEXT, LLAMA_EPS, LLAMA_ROPE_THETA
from ggmlpy.formats.tensor_names import OPTIONAL, TABLE
from ggmlpy.formats.tensor_types import REMOVED, TENSOR_TYPES, TensorType, types_of
from llama_ref.arithmetic.model_keys import HARMLESS, NAMESPACES
from llama_ref.arithmetic.rotation import FAST_TURNS, ROPE_FREQS, SLOW_TURNS
from llama_ref.text.sampling import SamplingOptions
from llama_ref.vocabulary.gguf_tokenizer import CONTROLS, ENDS
from llama_ref.vocabulary.pre_tokenizers import all_settings
from llama_ref.vocabulary.prompts import GENERATION_TEMPLATE

from .operations import operations, sources

__all__ = ["tables"]


def tables() -> dict[str, Any]:
    """All of them, JSON-ready."""
    return {
        "containers": [_container(container) for container in CONTAINERS.values()],
        "gguf": {
            "magic": GGUF.magic,
            "alignment": ALIGNMENT,
            "architectures": ARCHITECTURES,
            "value_types": {number: [name, code[1:]] for number, (name, code) in VALUE_TYPES.items()},
            "records": {version: _gguf_records(version) for version in GGUF.versions},
        },
        "types": {layout: _type(record) for layout, record in TENSOR_TYPES.items()},
        "types_of": dict(_types_of()),
        "removed": REMOVED,
        "grids": {name: _grid(name) for name in GRIDS},
        "tensors": [_tensor(row) for row in (*TABLE, *OPTIONAL)],
        "optional": [row.meta for row in OPTIONAL],
        "harmless": {key: None if allowed is None else list(allowed) for key, (allowed, _) in HARMLESS.items()},
        "namespaces": NAMESPACES,
        "rope": {"tensor": ROPE_FREQS, "fast": FAST_TURNS, "slow": SLOW_TURNS, "theta": LLAMA_ROPE_THETA},
        "eps": LLAMA_EPS,
        "context": LLAMA_CONTEXT,
        "controls": CONTROLS,
        "ends": ENDS,
        "pre_tokenizers": all_settings(),
        "template": GENERATION_TEMPLATE,
        "sampling": vars(SamplingOptions()),
        "operations": operations(),
        "sources": sources(),
    }


def _container(container: Container) -> dict[str, Any]:
    return {
        "name": container.name,
        "magic": container.magic,
        "versions": container.versions,
        "titles": {version: container.title(version) for version in container.versions},
        "scored": container.scored,
        "header": _record(container.header),
        "token": _record(container.token),
        "tensor": _record(container.tensor),
    }


def _gguf_records(version: int) -> dict[str, Any]:
    records = records_of(version)
    size = _field(records.size)
    return {
        "header": _record(records.header),
        "pair": _record(records.pair),
        "tensor": _record(records.tensor),
        "size": size["code"],
    }


def _record(record: Record) -> list[dict[str, Any]]:
    return [_field(field) for field in record]


def _field(field: Field) -> dict[str, Any]:
    """A field's name and words, and how it is read: ``code`` and ``count``, ``length``, ``multiple`` or ``typed``."""
    said: dict[str, Any] = {"name": field.name, "doc": field.doc}
    match field:
        case Number():
            return {**said, "code": field.code[1:]}
        case Array():
            return {**said, "code": field.item[1:], "count": field.count}
        case Text():
            return {**said, "length": field.length}
        case Align():
            return {**said, "multiple": field.multiple}
        case Typed():
            return {**said, "typed": field.type}
    raise TypeError(field)


def _type(record: TensorType) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "layout": record.layout,
        "size": record.blck_size,
        "bytes": record.type_size,
        "doc": record.doc,
        "plain": None if record.quantized else record.block.str.lstrip("<|"),
        "fields": {name: _block_field(record, name) for name in record.field_names},
        "codes": [[part.field, part.width, part.apart] for part in record.codes],
        "scales": record.scale_fields,
        "zero": record.zero,
        "run": record.run,
        "levels": record.levels,
        "grid": record.grid,
    }


def _block_field(record: TensorType, name: str) -> list[Any]:
    """Where a field begins, the code of its numbers, and how many there are."""
    item = record.block[name]
    return [record.offset(name), item.base.str.lstrip("<|"), int(np.prod(item.shape, dtype=int))]


def _types_of() -> Iterable[tuple[str, dict[int, str]]]:
    """Layouts by id: for each container and version, and where the header's file type changes that, for it too."""
    for container in (*CONTAINERS.values(), GGUF):
        for version in container.versions:
            usual = {number: record.layout for number, record in types_of(container.name, version).items()}
            yield f"{container.name} {version}", usual
            for ftype in FTYPES:
                here = types_of(container.name, version, ftype)
                if (named := {number: record.layout for number, record in here.items()}) != usual:
                    yield f"{container.name} {version} {ftype}", named


def _grid(name: str) -> dict[str, Any]:
    """The points as text, a level per character."""
    grid = GRIDS[name]
    levels = "".join(map(str, grid_levels(name).reshape(-1).tolist()))
    return {"width": grid.width, "numbers": grid.numbers, "levels": levels}


def _tensor(row: Any) -> dict[str, Any]:
    return {"meta": row.meta, "gguf": row.gguf, "shape": row.shape, "present": row.present}
