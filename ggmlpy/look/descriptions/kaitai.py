"""A Kaitai Struct specification (https://kaitai.io) of every container, little-endian.

A file of unversioned ggml, ggmf or ggjt is described to its last byte. Of GGUF the data of all tensors are one field:
where one begins depends on a metadata pair (general.alignment), which the language cannot look up.
"""

from __future__ import annotations

from collections.abc import Iterator

from ggmlpy.formats.containers import CONTAINERS, GGUF
from ggmlpy.formats.fields import Align, Array, Field, Number, Record, Text
from ggmlpy.formats.gguf import ALIGNMENT, records_of
from ggmlpy.formats.gguf_values import VALUE_TYPES, Typed

from .layouts import GENERATED, Layout, layouts

NUMBERS = {
    "<B": "u1", "<b": "s1", "<H": "u2", "<h": "s2", "<I": "u4", "<i": "s4", "<Q": "u8", "<q": "s8",
    "<f": "f4", "<d": "f8", "<?": "u1",
}  # fmt: skip


def text() -> str:
    """The specification."""
    of_magic = {container.magic: container.name for container in (*CONTAINERS.values(), GGUF)}
    return "\n".join(
        [
            f"# {GENERATED}",
            "meta:",
            "  id: ggml_files",
            "  title: Models of GGML and llama.cpp (ggml, ggmf, ggjt, GGUF)",
            "  file-extension: [bin, gguf]",
            "  license: CC0-1.0",
            "  endian: le",
            "seq:",
            "  - id: magic",
            "    type: u4",
            *_switch("content", "magic", {f"0x{magic:08x}": f"{name}_file" for magic, name in of_magic.items()}),
            "types:",
            *_indented(_types()),
            "",
        ]
    )


def _types() -> Iterator[str]:
    known = list(layouts())
    for container in CONTAINERS.values():
        versions = {str(each.version): each.name for each in known if each.container is container}
        yield f"{container.name}_file:"
        yield "  seq:"
        if container.versions == (0,):
            yield from _indented(["- id: content", f"  type: {versions['0']}"], 4)
        else:
            yield from _versioned(versions)
    for each in known:
        yield from _layout(each)
    yield "gguf_file:"
    yield "  seq:"
    yield from _versioned({str(version): f"gguf_v{min(version, 2)}" for version in GGUF.versions})
    for version in (1, 2):  # version 3 is version 2 in either byte order
        yield from _gguf(f"gguf_v{version}", version)


def _versioned(of: dict[str, str]) -> Iterator[str]:
    yield "    - id: version"
    yield "      type: u4"
    yield from _indented(_switch("content", "version", of), 2)


def _layout(layout: Layout) -> Iterator[str]:
    """The types of one version: the file after its version, a vocabulary entry, a tensor."""
    name = layout.name
    yield f"{name}:"
    yield f"  doc: {layout.container.title(layout.version)}, written {layout.written}"
    yield "  seq:"
    yield from _fields(layout.header)
    yield from _repeated("vocabulary", f"{name}_token", "expr", "n_vocab")
    yield from _repeated("tensors", f"{name}_tensor", "eos")
    yield f"{name}_token:"
    yield "  seq:"
    yield from _fields(layout.container.token)
    yield f"{name}_tensor:"
    yield "  seq:"
    yield from _fields(layout.container.tensor)
    yield "    - id: data"
    yield "      size: n_values / block_values * block_bytes"
    yield "  instances:"
    sizes = {"block_values": lambda t: t.blck_size, "block_bytes": lambda t: t.type_size}
    yield from _value("n_values", "dims[0] * (n_dims > 1 ? dims[1] : 1)")
    for instance, size in sizes.items():
        yield from _value(instance, _chosen({number: size(record) for number, record in layout.types.items()}))


def _chosen(sizes: dict[int, int]) -> str:
    """An expression: the size that goes with ``type``."""
    return "".join(f"type == {number} ? {size} : " for number, size in sizes.items()) + "1"


def _gguf(name: str, version: int) -> Iterator[str]:
    records = records_of(version)
    size = NUMBERS[records.size.code]
    header = tuple(field for field in records.header if field.name not in ("magic", "version"))
    yield f"{name}:"
    yield "  seq:"
    yield from _fields(header)
    yield from _repeated("metadata", f"{name}_pair", "expr", "n_kv")
    yield from _repeated("tensors", f"{name}_tensor", "expr", "n_tensors")
    yield from _fields((Align("padding", "zeros up to general.alignment, where there is none to 32", ALIGNMENT),))
    yield from ("    - id: data", "      size-eos: true", "      doc: each tensor's at its offset from here")
    for record, fields in (("pair", records.pair), ("tensor", records.tensor)):
        yield f"{name}_{record}:"
        yield "  seq:"
        yield from _fields(fields, name)
    yield from (f"{name}_string:", "  seq:", "    - id: length", f"      type: {size}")
    yield from ("    - id: text", "      size: length")
    yield from (
        f"{name}_array:",
        "  seq:",
        "    - id: type",
        "      type: u4",
        "    - id: n_items",
        f"      type: {size}",
    )
    yield from _indented([*_switch("items", "type", _values(name)), "    repeat: expr", "    repeat-expr: n_items"], 2)


def _values(name: str) -> dict[str, str]:
    """What a metadata value is, by its type."""
    own = {"string": f"{name}_string", "array": f"{name}_array"}
    return {str(number): own.get(words) or NUMBERS[code] for number, (words, code) in VALUE_TYPES.items()}


def _fields(record: Record, of: str = "") -> Iterator[str]:
    for field in record:
        yield from _indented(_field(field, of), 4)


def _field(field: Field, of: str) -> Iterator[str]:
    if isinstance(field, Typed):
        yield from (line[2:] for line in _switch(field.name, field.type, _values(of)))
    else:
        yield f"- id: {field.name}"
        match field:
            case Number():
                yield f"  type: {NUMBERS[field.code]}"
            case Array():
                yield from (f"  type: {NUMBERS[field.item]}", "  repeat: expr", f"  repeat-expr: {field.count}")
            case Text():
                yield f"  size: {field.length}"
            case Align():
                yield f"  size: ({field.multiple} - _io.pos % {field.multiple}) % {field.multiple}"
    if field.doc:
        yield f"  doc: {_quoted(field.doc)}"


def _switch(name: str, on: str, cases: dict[str, str]) -> Iterator[str]:
    yield f"  - id: {name}"
    yield "    type:"
    yield f"      switch-on: {on}"
    yield "      cases:"
    yield from (f"        {value}: {kind}" for value, kind in cases.items())


def _repeated(name: str, kind: str, how: str, count: str = "") -> Iterator[str]:
    yield from (f"    - id: {name}", f"      type: {kind}", f"      repeat: {how}")
    if count:
        yield f"      repeat-expr: {count}"


def _value(name: str, expression: str) -> Iterator[str]:
    yield from (f"    {name}:", f"      value: {_quoted(expression)}")


def _quoted(words: str) -> str:
    return "'" + words.replace("'", "''") + "'"


def _indented(lines: Iterator[str] | list[str], by: int = 2) -> Iterator[str]:
    return (" " * by + line for line in lines)
