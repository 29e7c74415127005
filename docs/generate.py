"""Writes docs/formats.md and its pictures from the declared tables, so that they can't drift: a test compares them.

python docs/generate.py
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ggmlpy.codes import unpack_codes
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


Box = tuple[str, str, str]  # label, type, colour


def strip(boxes: list[Box], path: Path, caption: str) -> None:
    """A row of boxes as an SVG picture."""
    rows([(caption, boxes, frozenset())], path, caption)


def rows(strips: list[tuple[str, list[Box], frozenset[int]]], path: Path, caption: str) -> None:
    """Rows of boxes below each other, each with a caption; the boxes with these numbers are new and framed in red."""
    parts, widest, y = [], 0, 0
    for words, boxes, new in strips:
        parts.append(f'<text x="4" y="{y + 17}" class="c">{html.escape(words)}</text>')
        drawn, x = _row(boxes, new, y, gap=2 if len(strips) == 1 else 4)
        parts += drawn
        widest, y = max(widest, x + 2, 4 + 7 * len(words)), y + 76
    style = "text{font:13px ui-monospace,Menlo,Consolas,monospace;fill:#222}.t{font-size:11px;fill:#555}"
    style += ".c{font:13px system-ui,sans-serif;fill:#555}"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {widest} {y}" width="{widest}" role="img" '
        f'aria-label="{html.escape(caption)}"><style>{style}</style><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(parts)}</svg>\n"
    )
    path.write_text(svg, "utf-8")


def _row(boxes: list[Box], new: frozenset[int], y: int, gap: int) -> tuple[list[str], float]:
    x, parts = 4, []
    for number, (label, words, colour) in enumerate(boxes):
        width = max(58, 8 * max(len(label), len(words)) + 16)
        edge = 'stroke="#c2262d" stroke-width="2.5"' if number in new else 'stroke="#777"'
        middle = x + width / 2
        parts.append(
            f'<rect x="{x}" y="{y + 26}" width="{width}" height="44" rx="3" fill="{COLOURS[colour]}" {edge}/>'
            f'<text x="{middle}" y="{y + 46}" text-anchor="middle">{html.escape(label)}</text>'
            f'<text x="{middle}" y="{y + 62}" text-anchor="middle" class="t">{html.escape(words)}</text>'
        )
        x += width + gap
    return parts, x


def boxes_of(container: Container) -> list[Box]:
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


def changed_containers(path: Path) -> None:
    """Each GGML container below the one before it; what is new is framed."""
    strips, before = [], None
    for container in CONTAINERS.values():
        boxes = boxes_of(container)
        new = frozenset() if before is None else frozenset(i for i, box in enumerate(boxes) if box not in before)
        titles = ", ".join(container.title(version) for version in container.versions)
        where = f"; data at multiples of {container.alignment}" if container.alignment > 1 else ""
        strips.append((titles + where, boxes, new))
        before = boxes
    rows(strips, path, "unversioned ggml, ggmf and ggjt: what each added")


def changed_blocks(name: str, path: Path) -> None:
    """The layouts that one type had: which values share which byte, and how wide the scale is."""
    strips, before = [], None
    for record in (record for record in TENSOR_TYPES.values() if record.name == name):
        boxes = [(part, str(record.block[part].base), "header") for part in record.field_names if part != "qs"]
        boxes = [(part, {"float32": "4 bytes", "float16": "2 bytes"}[words], colour) for part, words, colour in boxes]
        pairs = shared_bytes(record)
        for i in (0, 1, 2, len(pairs) - 1):
            if i == len(pairs) - 1:
                boxes.append(("…", "", "data"))
            boxes.append((f"{pairs[i][1]} | {pairs[i][0]}", f"codes, byte {i}", "data"))
        new = frozenset() if before is None else frozenset(i for i, box in enumerate(boxes) if box not in before)
        used = [title_of(*place) for place in places() if record in types_of(*place).values()]
        strips.append((f"{record.layout}: {record.type_size} bytes; {', '.join(used)}", boxes, new))
        before = boxes
    rows(
        strips,
        path,
        f"{name}: upper and lower four bits of each byte, by the numbers of the values whose codes they are",
    )


def shared_bytes(record: TensorType) -> list[tuple[int, int]]:
    """Which values' codes stand in the lower and the upper half of each byte of a block."""
    pairs = []
    for i in range(record.blck_size // 2):
        block = np.zeros(1, record.block)
        block["qs"][0, i] = 0x21
        codes = unpack_codes(block, record)[0]
        pairs.append((int(np.flatnonzero(codes == 1)[0]), int(np.flatnonzero(codes == 2)[0])))
    return pairs


def changes_section(images: Path) -> Iterator[str]:
    changed_containers(images / "changes-containers.svg")
    changed_blocks("q4_0", images / "changes-q4_0.svg")
    yield "## What changed\n\nFrom March to May 2023 the container; what is new is framed in red:\n"
    yield "![containers](img/changes-containers.svg)\n"
    yield (
        "And the bytes of a quantized block, under the same type id. For each byte: the numbers of the values whose "
        "codes are in its upper and lower four bits.\n"
    )
    yield "![q4_0](img/changes-q4_0.svg)\n"


def title_of(container: str, version: int) -> str:
    return CONTAINERS[container].title(version) if container in CONTAINERS else f"{container} v{version}"


def places() -> list[tuple[str, int]]:
    """All containers and versions."""
    return [(name, version) for name, c in CONTAINERS.items() for version in c.versions] + [("gguf", 3)]


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
    titles = [title_of(*place) for place in places()]
    yield "| type | " + " | ".join(titles) + " |"
    yield "|---|" + "---|" * len(places())
    for name in dict.fromkeys(record.name for record in TENSOR_TYPES.values()):
        cells = [next((t.layout for t in types_of(*place).values() if t.name == name), "–") for place in places()]
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
        *changes_section(target / "img"),
        *type_section(),
    ]
    (target / "formats.md").write_text("\n".join(parts).rstrip() + "\n", "utf-8")


if __name__ == "__main__":
    write_all(HERE)
