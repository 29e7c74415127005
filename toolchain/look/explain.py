"""The byte at an offset, in words: what it is in the file, and what the model does with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ggmlpy.files.errors import FormatError, ShapeError
from ggmlpy.formats.opening import open_model
from ggmlpy.formats.tensor_names import find
from ggmlpy.look.explain import Explanation, Place, explain, explained
from llama_ref.checkpoint.dump import Element

from .dump import dump_any, elements_at, has_own_reader

__all__ = ["explain_in_words"]

Answer = tuple[dict[str, Any], list[tuple[str, str]]]
FEW = 8  # values that are listed one by one

# What a row (or the value in a column) of a tensor is for, by the last two parts of its Meta name. {row} and {column}
# are counted from 0; see llama_ref/arithmetic/transformer.py, where each tensor is used under these letters.
# fmt: off
ROLES = {
    "tok_embeddings": "row {row} is what the model reads for token {row}{token}: component {column} of its vector",
    "output": "row {row} is compared with the last vector, which gives the logit of token {row}{token}",
    "norm": "component {row} of the last vector is multiplied by it, after the last layer and before the output",
    "attention.wq": "row {row} makes component {in_head} of head {head}'s query, from component {column}",
    "attention.wk": "row {row} makes component {in_head} of head {kv_head}'s key, from component {column}",
    "attention.wv": "row {row} makes component {in_head} of head {kv_head}'s value, from component {column}",
    "attention.wo": "it carries component {column} of the heads' results into component {row} of the vector",
    "attention_norm": "component {row} of the vector is multiplied by it before attention",
    "ffn_norm": "component {row} of the vector is multiplied by it before the feed-forward part",
    "feed_forward.w1": "row {row} makes gate {row}, from component {column}",
    "feed_forward.w3": "row {row} makes what gate {row} lets through, from component {column}",
    "feed_forward.w2": "it carries what gate {column} let through into component {row} of the vector",
}
WITHOUT_HEADS = {  # where nothing in the file says how wide a head is
    "attention.wq": "row {row} makes number {row} of the queries, from component {column}",
    "attention.wk": "row {row} makes number {row} of the keys, from component {column}",
    "attention.wv": "row {row} makes number {row} of the values, from component {column}",
}
# fmt: on


def explain_in_words(path: str | os.PathLike[str], offset: int) -> Answer:
    """A byte as a record for programs, and as names and sentences for people.

    Raises:
        UsageError: the file is not as long.
        FormatError: the file can't be read.
    """
    if has_own_reader(Path(path)):
        found = explained(path, offset, dump_any(path, fold=False))
        return _with_elements(*_begun(found), elements_at(path, offset))
    found = explain(path, offset)
    place = found.place
    record, lines = _begun(found)
    if place is None:
        return record, lines
    role = _role(path, place)
    record |= {
        "tensor": place.tensor,
        "type": place.type.layout,
        "row": place.row,
        "block": place.block,
        "byte_of_block": place.byte,
        "block_field": place.field,
        "columns": list(place.columns),
        "codes": list(place.codes),
        "values": list(place.values),
        "role": role,
    }
    lines += [("place", _place_words(place)), ("means", _meaning(place)), *_value_lines(place)]
    return record, [*lines, ("model", role)] if role else lines


def _begun(found: Explanation) -> Answer:
    """What can be said of every byte."""
    record: dict[str, Any] = {"file": found.path, "offset": found.offset, "byte": found.byte, **found.field.as_dict()}
    record["field_offset"] = found.field.offset
    record["offset"] = found.offset
    byte = f"0x{found.byte:02x} = {found.byte} at offset {found.offset:,}"
    return record, [("byte", byte), ("field", _field_words(found))]


def _with_elements(record: dict[str, Any], lines: list[tuple[str, str]], elements: list[Element]) -> Answer:
    """The same with the numbers of a checkpoint's tensors that the byte is a part of, and what the model does."""
    for element in elements[:FEW]:
        at = ", ".join(map(str, element.index))
        lines.append(("place", f"{element.tensor}[{at}] of {list(element.shape)}, {element.dtype} = {element.value!r}"))
        if role := _role_of_element(element):
            lines.append(("model", role))
    if len(elements) > FEW:
        lines.append(("…", f"and {len(elements) - FEW} more tensors that share it"))
    if elements:
        record["elements"] = [{**vars(element), "role": _role_of_element(element)} for element in elements]
    return record, lines


def _role_of_element(element: Element) -> str:
    """What the model does with an element of a checkpoint, where its tensor is one of LLaMA's."""
    try:
        row, layer = find(element.tensor)
    except ShapeError:
        return ""
    stem = row.meta.removeprefix("layers.{}.").removesuffix(".weight")
    words = WITHOUT_HEADS.get(stem, ROLES.get(stem, ""))
    if not words or not element.index:
        return ""
    said = words.format(row=element.index[0], column=element.index[-1], token="")
    return f"layer {layer}: {said}" if layer is not None else said


def _field_words(found: Explanation) -> str:
    field = found.field
    at = f", byte {found.offset - field.offset:,} of {field.size:,}" if field.size > 1 else ""
    doc = f" ({field.doc})" if field.doc and found.place is None else ""
    return f"{field.path} = {field.value}{doc}{at}"


def _place_words(place: Place) -> str:
    rows = f"row {place.row:,} of {_product(place.shape[:-1]):,}"
    if not place.type.quantized:
        return f"{rows}, column {place.columns[0]:,} of {place.shape[-1]:,}"
    size, first = place.type.blck_size, place.block * place.type.blck_size
    blocks = f"block {place.block:,} of {place.shape[-1] // size:,}, values {first:,} to {first + size - 1:,}"
    return f"{rows}, {blocks}; byte {place.byte} of the block's {place.type.type_size}"


def _meaning(place: Place) -> str:
    if place.field is None:
        return f"a part of a plain number, {place.type.name}"
    field = f"{place.type.field_words(place.field)}, at byte {place.type.offset(place.field)} of the block"
    n = len(place.columns)
    what = "all values" if n == place.type.blck_size else f"{n} values" if n != 1 else "one value"
    if not n:
        return f"{field}; no value depends on it"
    return f"{field}; {what} of the block {'depend' if n > 1 else 'depends'} on it. A value is {place.type.doc}"


def _value_lines(place: Place) -> list[tuple[str, str]]:
    lines = []
    for index, column in enumerate(place.columns[:FEW]):
        code = f"{place.codes[index]} times the scale: " if place.codes else ""
        lines.append((f"[{column:,}]", f"{code}{place.values[index]:.9g}"))
    if len(place.columns) > FEW:
        lines.append(("…", f"and {len(place.columns) - FEW} more"))
    return lines


def _role(path: str | os.PathLike[str], place: Place) -> str:
    """What the model does with the number; nothing for tensors that no LLaMA has."""
    try:
        row, layer = find(place.tensor)
    except ShapeError:
        return ""
    stem = row.meta.removeprefix("layers.{}.").removesuffix(".weight")
    if stem not in ROLES or not place.columns:
        return ""
    try:
        model = open_model(path, strict=False, any_architecture=True)
    except FormatError:
        return ""  # a part of a model, whose rows or columns are not those of the whole
    with model:
        if model.as_stored or len(model.parts) > 1:
            return ""
        width = model.hparams.head_dim
        shared = max(1, model.hparams.n_head // max(1, model.hparams.n_head_kv))
        pieces = model.vocab
        word = pieces[place.row].decode("utf-8", "replace") if place.row < len(pieces) else ""
    # a vector is one row of many columns, and what its values scale are components
    component = place.row if len(place.shape) > 1 else place.columns[0]
    words = ROLES[stem].format(
        row=component,
        column=_numbers(place.columns),
        token=f" {word!r}" if word else "",
        head=component // width,
        kv_head=f"{component // width}, which {shared} queries share" if shared > 1 else component // width,
        in_head=component % width,
    )
    return f"layer {layer}: {words}" if layer is not None else words


def _numbers(columns: tuple[int, ...]) -> str:
    """A few numbers one by one, many as from the first to the last.

    >>> _numbers((3,)), _numbers((3, 19)), _numbers(tuple(range(32)))
    ('3', '3 and 19', '0 … 31')
    """
    return " and ".join(map(str, columns)) if len(columns) < 3 else f"{columns[0]} … {columns[-1]}"


def _product(numbers: tuple[int, ...]) -> int:
    product = 1
    for number in numbers:
        product *= number
    return product
