"""A pattern for the hex editor ImHex (https://imhex.werwolv.net): every field of a file in color, with its value."""

from __future__ import annotations

from collections.abc import Iterator

from ggmlpy.formats.containers import CONTAINERS, GGUF
from ggmlpy.formats.fields import Align, Array, Field, Number, Record, Text
from ggmlpy.formats.gguf import ALIGNMENT, records_of
from ggmlpy.formats.gguf_values import VALUE_TYPES, Typed

from .layouts import GENERATED, Layout, layouts

NUMBERS = {
    "<B": "u8", "<b": "s8", "<H": "u16", "<h": "s16", "<I": "u32", "<i": "s32", "<Q": "u64", "<q": "s64",
    "<f": "float", "<d": "double", "<?": "bool",
}  # fmt: skip
ALL = (*CONTAINERS.values(), GGUF)


def text() -> str:
    """The pattern."""
    return "\n".join(
        [
            "#pragma description Models of GGML and llama.cpp (ggml, ggmf, ggjt, GGUF)",
            *(f"#pragma magic [ {each.magic.to_bytes(4, 'little').hex(' ').upper()} ] @ 0x00" for each in ALL),
            "#pragma endian little",
            f"// {GENERATED}",
            "import std.mem;",
            "",
            *_lines(),
            "",
        ]
    )


def _lines() -> Iterator[str]:
    known = list(layouts())
    for each in known:
        yield from _layout(each)
    for version in (1, 2):  # version 3 is version 2 in either byte order
        yield from _gguf(f"gguf_v{version}", version)
    for container in CONTAINERS.values():
        versions = {each.version: each.name for each in known if each.container is container}
        yield from _file(f"{container.name}_file", versions)
    yield from _file("gguf_file", {version: f"gguf_v{min(version, 2)}" for version in GGUF.versions})
    yield "struct model_file {"
    yield "    u32 magic;"
    names = {container.magic: container.name for container in ALL}
    yield from _match("magic", {f"0x{magic:08x}": f"{name}_file content;" for magic, name in names.items()})
    yield "};"
    yield "model_file file @ 0x00;"


def _file(name: str, versions: dict[int, str]) -> Iterator[str]:
    yield f"struct {name} {{"
    if 0 in versions:
        yield f"    {versions[0]} content;"
    else:
        yield "    u32 version;"
        yield from _match("version", {str(version): f"{kind} content;" for version, kind in versions.items()})
    yield "};"


def _layout(layout: Layout) -> Iterator[str]:
    name = layout.name
    yield f"// {layout.container.title(layout.version)}, written {layout.written}"
    yield from _function(f"{name}_block_values", {number: t.blck_size for number, t in layout.types.items()})
    yield from _function(f"{name}_block_bytes", {number: t.type_size for number, t in layout.types.items()})
    yield from _struct(f"{name}_token", _fields(layout.container.token))
    values = "dims[0] * (n_dims > 1 ? dims[1] : 1)"
    data = f"    u8 data[{values} / {name}_block_values(type) * {name}_block_bytes(type)];"
    yield from _struct(f"{name}_tensor", [*_fields(layout.container.tensor), data])
    rest = [f"    {name}_token vocabulary[n_vocab];", f"    {name}_tensor tensors[while(!std::mem::eof())];"]
    yield from _struct(name, [*_fields(layout.header), *rest])


def _function(name: str, sizes: dict[int, int]) -> Iterator[str]:
    yield f"fn {name}(s32 type) {{"
    yield from _match("type", {str(number): f"return {size};" for number, size in sizes.items()})
    yield "    return 1;"
    yield "};"


def _gguf(name: str, version: int) -> Iterator[str]:
    records = records_of(version)
    size = NUMBERS[records.size.code]
    yield f"using {name}_array;"
    yield from _struct(f"{name}_string", [f"    {size} length;", "    char text[length];"])
    kinds = {"string": f"{name}_string", "array": f"{name}_array"}
    of = {str(number): kinds.get(words) or NUMBERS[code] for number, (words, code) in VALUE_TYPES.items()}
    items = {number: f"{kind} items[n_items];" for number, kind in of.items()}
    yield from _struct(f"{name}_array", ["    u32 type;", f"    {size} n_items;", *_match("type", items)])
    yield from _struct(f"{name}_pair", _fields(records.pair, of))
    yield from _struct(f"{name}_tensor", _fields(records.tensor))
    header = tuple(field for field in records.header if field.name not in ("magic", "version"))
    rest = [f"    {name}_pair metadata[n_kv];", f"    {name}_tensor tensors[n_tensors];"]
    rest += [*_fields((Align("padding", "zeros up to general.alignment, where there is none to 32", ALIGNMENT),))]
    yield from _struct(name, [*_fields(header), *rest, "    u8 data[while(!std::mem::eof())];"])


def _struct(name: str, lines: Iterator[str] | list[str]) -> Iterator[str]:
    yield f"struct {name} {{"
    yield from lines
    yield "};"


def _match(on: str, cases: dict[str, str]) -> Iterator[str]:
    yield f"    match ({on}) {{"
    yield from (f"        ({value}): {statement}" for value, statement in cases.items())
    yield "    }"


def _fields(record: Record, values: dict[str, str] | None = None) -> Iterator[str]:
    for field in record:
        if isinstance(field, Typed):
            kinds = {number: f"{kind} {field.name};" for number, kind in (values or {}).items()}
            yield from _match(field.type, kinds)
        else:
            yield f"    {_declared(field)};" + (f" // {field.doc}" if field.doc else "")


def _declared(field: Field) -> str:
    match field:
        case Number():
            return f"{NUMBERS[field.code]} {field.name}"
        case Array():
            return f"{NUMBERS[field.item]} {field.name}[{field.count}]"
        case Text():
            return f"char {field.name}[{field.length}]"
        case Align():
            return f"padding[({field.multiple} - $ % {field.multiple}) % {field.multiple}]"
    raise TypeError(field)
