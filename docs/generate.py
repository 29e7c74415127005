"""Writes docs/formats.md and its pictures from the declared tables, so that they can't drift: a test compares them.

python docs/generate.py
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

from ggmlpy.containers import CONTAINERS, FTYPES, Container
from ggmlpy.eras import ERAS
from ggmlpy.fields import Align, Array, Field, Number, Record, Text
from ggmlpy.gguf import VALUE_TYPES, Typed, records_of
from ggmlpy.tensor_types import TENSOR_TYPES, TensorType, types_of

HERE = Path(__file__).resolve().parent
CODES = {
    "<I": "u32", "<i": "i32", "<f": "f32", "<Q": "u64", "<B": "u8", "<b": "i8", "<H": "u16", "<h": "i16",
}  # fmt: skip
COLOURS = {"header": "#cfe3f7", "token": "#d8f0d2", "tensor": "#fbe3c0", "data": "#efd3ee", "padding": "#e6e6e6"}


def kind(field: Field) -> str:
    """The type of a field in words."""
    match field:
        case Number():
            return CODES[field.code]
        case Array():
            return f"{field.count} × {CODES[field.item]}"
        case Text():
            return f"{field.length} bytes"
        case Align():
            return f"0 to {field.multiple - 1} zeros"
        case Typed():
            return "by type"
    raise TypeError(field)


def table(record: Record) -> str:
    rows = "\n".join(f"| `{field.name}` | {kind(field)} | {field.doc} |" for field in record)
    return f"| field | type | |\n|---|---|---|\n{rows}\n"


def strip(boxes: list[tuple[str, str, str]], path: Path, caption: str) -> None:
    """A row of boxes (label, type, colour) as an SVG picture."""
    widths = [max(58, 8 * max(len(label), len(words)) + 16) for label, words, _ in boxes]
    x, parts = 4, []
    for (label, words, colour), width in zip(boxes, widths, strict=True):
        middle = x + width / 2
        parts.append(
            f'<rect x="{x}" y="26" width="{width}" height="44" rx="3" fill="{COLOURS[colour]}" stroke="#777"/>'
        )
        parts.append(f'<text x="{middle}" y="46" text-anchor="middle">{html.escape(label)}</text>')
        parts.append(f'<text x="{middle}" y="62" text-anchor="middle" class="t">{html.escape(words)}</text>')
        x += width + 2
    style = "text{font:13px ui-monospace,Menlo,Consolas,monospace;fill:#222}.t{font-size:11px;fill:#555}"
    style += ".c{font:13px system-ui,sans-serif;fill:#555}"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {x + 2} 76" width="{x + 2}" role="img" '
        f'aria-label="{html.escape(caption)}"><style>{style}</style><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="4" y="17" class="c">{html.escape(caption)}</text>{"".join(parts)}</svg>\n'
    )
    path.write_text(svg, "utf-8")


def boxes_of(container: Container) -> list[tuple[str, str, str]]:
    header = [(field.name, kind(field), "header") for field in container.header]
    token = [(field.name, kind(field), "token") for field in container.token]
    tensor = [(f.name, kind(f), "padding" if isinstance(f, Align) else "tensor") for f in container.tensor]
    return [*header, *token, ("…", "n_vocab", "token"), *tensor, ("data", "blocks", "data"), ("…", "", "tensor")]


def container_sections(images: Path) -> Iterator[str]:
    for container in CONTAINERS.values():
        versions = ", ".join(container.title(version) for version in container.versions)
        image = images / f"{container.name}.svg"
        strip(boxes_of(container), image, f"{versions}: one file from left to right")
        yield f"## {versions}\n\nMagic `0x{container.magic:08x}`. ![{container.name}](img/{image.name})\n"
        yield f"Header:\n\n{table(container.header)}"
        yield f"Then `n_vocab` entries of the vocabulary:\n\n{table(container.token)}"
        yield f"Then tensors until the file ends, each\n\n{table(container.tensor)}"
        where = f"at the next multiple of {container.alignment} of the file" if container.alignment > 1 else "at once"
        yield f"followed {where} by its data: rows of blocks, first row first.\n"


def gguf_section(images: Path) -> Iterator[str]:
    records = records_of(3)
    boxes = [(field.name, kind(field), "header") for field in records.header]
    boxes += [(field.name, kind(field), "token") for field in records.pair]
    boxes += [(field.name, kind(field), "tensor") for field in records.tensor]
    boxes += [("padding", "to 32", "padding"), ("data", "blocks", "data"), ("…", "", "data")]
    strip(boxes, images / "gguf.svg", "gguf v3: header, metadata pairs, tensor descriptions, data")
    yield "## gguf v1, v2, v3\n\nMagic `0x46554747`. ![gguf](img/gguf.svg)\n"
    yield f"Header (v1 has u32 where v2 and v3 have u64):\n\n{table(records.header)}"
    yield f"Then `n_kv` pairs:\n\n{table(records.pair)}"
    types = ", ".join(f"{number} {name}" for number, (name, _) in VALUE_TYPES.items())
    yield f"Value types: {types}. A string is a length and its bytes; an array is item type, count, items.\n"
    yield f"Then `n_tensors` descriptions, and after padding their data:\n\n{table(records.tensor)}"


def field_words(record: TensorType, name: str) -> str:
    """ "d f2", "qs u1 × 16"."""
    item = record.block[name]
    return f"{name} {item.base.str.lstrip('<|')}" + (f" × {item.shape[0]}" if item.shape else "")


def type_section() -> Iterator[str]:
    yield "## Tensor types\n\nA tensor's data is rows of blocks. One id meant other bytes in other versions.\n"
    yield "| id | type | layout | values a block | bytes | bits a weight | fields | a value is |"
    yield "|--:|---|---|--:|--:|--:|---|---|"
    for record in TENSOR_TYPES.values():
        fields = ", ".join(field_words(record, name) for name in record.field_names)
        yield (
            f"| {record.id} | {record.name} | `{record.layout}` | {record.blck_size} | {record.type_size} | "
            f"{record.bits_per_weight:g} | {fields or record.block.str.lstrip('<')} | {record.doc} |"
        )
    yield "\n## Which bytes an id means where\n"
    places = [(name, version) for name, c in CONTAINERS.items() for version in c.versions] + [("gguf", 3)]
    titles = [CONTAINERS[n].title(v) if n in CONTAINERS else f"{n} v{v}" for n, v in places]
    yield "| type | " + " | ".join(titles) + " |"
    yield "|---|" + "---|" * len(places)
    for name in dict.fromkeys(record.name for record in TENSOR_TYPES.values()):
        cells = [next((t.layout for t in types_of(*place).values() if t.name == name), "–") for place in places]
        yield f"| {name} | " + " | ".join(f"`{cell}`" if cell != "–" else cell for cell in cells) + " |"
    yield "\n## ftype in the header\n\n| ftype | name | most matrices are |\n|--:|---|---|"
    yield from (f"| {ftype.id} | {ftype.name} | {ftype.main} |" for ftype in FTYPES.values())
    yield "\n## Eras\n\n| era | pin | commit | writes | quantizes to |\n|---|---|---|---|---|"
    for era in ERAS.values():
        title = CONTAINERS[era.container].title(era.version)
        yield f"| {era.date} | {era.pin} | {era.commit} | {title} | {', '.join(era.type_names[2:])} |"


def write_all(target: Path) -> None:
    """Write the page and the pictures below ``target``."""
    (target / "img").mkdir(parents=True, exist_ok=True)
    parts = [
        "# File formats\n\n<!-- generated by docs/generate.py from the declared tables; do not edit -->\n",
        "Everything is little-endian (big-endian GGUF excepted). `python cli.py hexdump FILE` shows these fields in a "
        "file of yours.\n",
        *container_sections(target / "img"),
        *gguf_section(target / "img"),
        *type_section(),
    ]
    (target / "formats.md").write_text("\n".join(parts).rstrip() + "\n", "utf-8")


if __name__ == "__main__":
    write_all(HERE)
