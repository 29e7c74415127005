"""Writes docs/formats.md and the pictures of formats from the declared tables, and from files that the writers write,
so that they can't drift: a test compares them.

python -m docs.generate
"""

from __future__ import annotations

import html
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.carrying import NEEDLESS, NUMBERS, REFUSED, SCALINGS, TARGETS, TOLD
from ggmlpy.formats.codes import signed_codes, unpack_codes
from ggmlpy.formats.containers import CONTAINERS, Container
from ggmlpy.formats.dequantize import dequantize, scales_of
from ggmlpy.formats.eras import ERAS, GGUF_ERAS
from ggmlpy.formats.fields import Align, Array, Field, Number, Record, Text
from ggmlpy.formats.file_types import FTYPES
from ggmlpy.formats.gguf import records_of
from ggmlpy.formats.gguf_values import VALUE_TYPES, Typed
from ggmlpy.formats.grids import GRIDS
from ggmlpy.formats.tensor_types import TENSOR_TYPES, TensorType, types_of
from ggmlpy.look.descriptions import DESCRIPTIONS
from llama_ref.checkpoint import open_pth, write_pth
from llama_ref.vocabulary.sentencepiece_model import read_sentencepiece

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
Part = tuple[str, list[Box]]  # how often these boxes stand in the file, in words, and the boxes
Strip = tuple[str, list[Part], set[Box]]  # caption, parts, and the boxes that are new
WIDTH = 352  # of every picture: a phone shows it in its own size
ROW = 50


def strip(title: str, parts: list[Part], path: Path, caption: str) -> None:
    """One file as an SVG picture: boxes in the order of its bytes, broken into rows as a text is into lines."""
    strips([(title, parts, set())], path, caption)


def strips(files: list[Strip], path: Path, caption: str) -> None:
    """Files below each other, each with a caption; boxes that are new are framed in red."""
    parts, y = [], 0
    for words, of_file, new in files:
        parts.append(f'<text x="4" y="{y + 17}" class="c">{html.escape(words)}</text>')
        y += 24
        for often, boxes in of_file:
            if often:
                parts.append(f'<text x="4" y="{y + 12}" class="o">{html.escape(often)}</text>')
                y += 17
            for row in in_rows(boxes):
                parts += _row(row, new, y)
                y += ROW
            y += 4
        y += 6
    style = "text{font:13px ui-monospace,Menlo,Consolas,monospace;fill:#222;text-anchor:middle}"
    style += ".t,.o{font-size:11px;fill:#555}.c,.o{font-family:system-ui,sans-serif;text-anchor:start}"
    style += ".c{font-weight:600}rect{stroke:#777}.new{stroke:#c2262d;stroke-width:2.5}"
    style += "".join(f".{name}{{fill:{colour}}}" for name, colour in COLOURS.items()) + ".paper{fill:#fff}"
    style += "@media (prefers-color-scheme:dark){.paper{fill:none}.c{fill:#d5dbe3}.o{fill:#a7b0bc}}"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" role="img" '
        f'aria-label="{html.escape(caption)}"><style>{style}</style><path d="M0 0h{WIDTH}v{y}H0" class="paper"/>'
        f"{''.join(parts)}</svg>\n"
    )
    path.write_text(svg, "utf-8")


def width_of(box: Box) -> int:
    label, words, _ = box
    return max(34, round(max(7.9 * len(label), 6.7 * len(words))) + 12)


def in_rows(boxes: list[Box]) -> list[list[Box]]:
    """As many boxes a row as fit."""
    rows, room = [], 0
    for box in boxes:
        if width_of(box) > room:
            rows.append([])
            room = WIDTH - 4
        rows[-1].append(box)
        room -= width_of(box) + 2
    return rows


def _row(boxes: list[Box], new: set[Box], y: int) -> list[str]:
    x, parts = 3, []
    for box in boxes:
        label, words, colour = box
        width = width_of(box)
        classes, middle = f"{colour} new" if box in new else colour, x + width / 2
        parts.append(f'<rect x="{x}" y="{y + 3}" width="{width}" height="44" rx="3" class="{classes}"/>')
        parts.append(f'<text x="{middle:g}" y="{y + 22}">{html.escape(label)}</text>')
        if words:
            parts.append(f'<text x="{middle:g}" y="{y + 38}" class="t">{html.escape(words)}</text>')
        x += width + 2
    return parts


def parts_of(container: Container) -> list[Part]:
    tensor = [(f.name, kind(f), "padding" if isinstance(f, Align) else "tensor") for f in container.tensor]
    return [
        ("once", [(field.name, kind(field), "header") for field in container.header]),
        ("n_vocab times", [(field.name, kind(field), "token") for field in container.token]),
        ("for each tensor", [*tensor, ("data", "blocks", "data")]),
    ]


def container_sections(images: Path) -> Iterator[str]:
    for container in CONTAINERS.values():
        versions = ", ".join(container.title(version) for version in container.versions)
        image = images / f"{container.name}.svg"
        strip(versions, parts_of(container), image, f"{versions}: a file from its first byte to its last")
        files = of_the_zoo(*(f"{container.name}{version or ''}" for version in container.versions))
        yield f"## {versions}\n\nMagic `0x{container.magic:08x}`. {files}\n\n![{container.name}](img/{image.name})\n"
        yield f"Header:\n\n{table(container.header)}"
        yield f"Then `n_vocab` entries of the vocabulary:\n\n{table(container.token)}"
        yield f"Then tensors until the file ends, each\n\n{table(container.tensor)}"
        where = f"at the next multiple of {container.alignment} of the file" if container.alignment > 1 else "at once"
        yield f"followed {where} by its data: rows of blocks, first row first.\n"


def of_the_zoo(*folders: str) -> str:
    """Where files of a container are in the zoo."""
    links = ", ".join(f"[{folder}](specimens.md#models{folder})" for folder in folders)
    return f"Files of every type and era, byte by byte: {links}."


def changed_containers(path: Path) -> None:
    """Each GGML container below the one before it; what is new is framed."""
    files, before = [], None
    for container in CONTAINERS.values():
        parts = parts_of(container)
        boxes = {box for _, of_part in parts for box in of_part}
        titles = ", ".join(container.title(version) for version in container.versions)
        where = f"; data at multiples of {container.alignment}" if container.alignment > 1 else ""
        files.append((titles + where, parts, set() if before is None else boxes - before))
        before = boxes
    strips(files, path, "unversioned ggml, ggmf and ggjt: what each added")


def changed_blocks(name: str, path: Path) -> None:
    """The layouts that one type had: which values share which byte, and how wide the scale is."""
    files, before = [], None
    for record in (record for record in TENSOR_TYPES.values() if record.name == name):
        boxes = [(part, str(record.block[part].base), "header") for part in record.field_names if part != "qs"]
        boxes = [(part, {"float32": "4 bytes", "float16": "2 bytes"}[words], colour) for part, words, colour in boxes]
        pairs = shared_bytes(record)
        for i in (0, 1, 2, len(pairs) - 1):
            if i == len(pairs) - 1:
                boxes.append(("…", "", "data"))
            boxes.append((f"{pairs[i][1]} | {pairs[i][0]}", f"byte {i}", "data"))
        used = [title_of(*place) for place in places() if record in types_of(*place).values()]
        new = set() if before is None else set(boxes) - before
        files.append((f"{record.layout}: {record.type_size} bytes", [(", ".join(used), boxes)], new))
        before = set(boxes)
    caption = f"{name}: upper and lower four bits of each byte, by the numbers of the values whose codes they are"
    strips(files, path, caption)


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


def torch_archives(path: Path) -> None:
    """The records of two tensors as three generations of torch save them, each below the one before it."""
    files, before = [], None
    tensors = [(name, "float16", (64,), [np.zeros(64, "<f2")]) for name in ("a", "b")]
    for torch_format, words in (
        ("1.13", "torch 1.13, 2.0"),
        ("2.5", "torch 2.1 to 2.6"),
        ("2.13", "torch 2.7 to 2.13"),
    ):
        with TemporaryDirectory() as folder:
            write_pth(f"{folder}/x.pth", tensors, torch_format)
            with zipfile.ZipFile(f"{folder}/x.pth") as archive:
                names = [info.filename.removeprefix("x/") for info in archive.infolist()]
        boxes = [(name, RECORDS.get(name, "contents"), record_colour(name)) for name in names]
        end = [("directory", "all again", "header"), ("zip64 end", "76 bytes", "header"), ("end", "22 bytes", "header")]
        parts = [("records: header, name, padding, data, CRC and size", boxes), ("", end)]
        files.append((words, parts, set() if before is None else {*boxes} - before))
        before = {*boxes}
    strips(files, path, "what torch.save writes of two tensors: the records of the zip archive, in order")


RECORDS = {
    "data.pkl": "names, shapes", "version": "3", "byteorder": "little", ".format_version": "1",
    ".storage_alignment": "64", ".data/serialization_id": "two hashes",
}  # fmt: skip


def record_colour(name: str) -> str:
    return "tensor" if name == "data.pkl" else "data" if name.startswith("data/") else "token"


def adapter_files(path: Path) -> None:
    """The demo model's adapter: its files, and the tensors of one layer."""
    folder = HERE.parent / "toolchain" / "demo" / "model" / "chinese-llama-lora"
    with open_pth(folder / "adapter_model.bin") as f:
        shapes = {name: f[name].shape for name in f}
    prefix = "base_model.model.model.layers.0."
    first = [name.removeprefix(prefix).removesuffix(".weight") for name in shapes if name.startswith(prefix)]
    letters = {"A": "r × columns", "B": "rows × r"}
    matrices = [(name.split(".", 1)[1], letters[name[-1]], "tensor") for name in first]
    whole = [name.removesuffix(".weight").split(".")[-1] for name in shapes if ".layers." not in name]
    parts = [
        ("adapter_config.json", [("r", "rank", "header"), ("lora_alpha", "scale × r", "header"), ("…", "", "header")]),
        ("adapter_model.bin: for each layer", matrices),
        ("adapter_model.bin: once", [(name, "n_vocab × n_embd", "data") for name in whole]),
        ("tokenizer.model", [("pieces", "the grown vocabulary", "token")]),
    ]
    strip("a LoRA adapter", parts, path, "the files of a LoRA adapter, and the tensors of its checkpoint")


def piece_bytes(path: Path) -> None:
    """Each byte of one piece of the demo model's tokenizer, and what it says."""
    tokenizer = read_sentencepiece(HERE.parent / "toolchain" / "demo" / "model" / "base" / "tokenizer.model")
    piece = next(piece for piece in tokenizer.pieces if piece.text == "▁the".encode())
    size, text = len(piece.encoded), piece.text
    fields = [
        (piece.encoded[:1], "field 1, bytes", "header"),
        (piece.encoded[1:2], f"length {size - 2}", "header"),
        (piece.encoded[2:3], "field 1, bytes", "token"),
        (piece.encoded[3:4], f"length {len(text)}", "token"),
        (text, text.decode(), "token"),
        (piece.encoded[4 + len(text) :][:1], "field 2, four bytes", "tensor"),
        (piece.encoded[5 + len(text) :][:4], f"score {piece.score:g}", "tensor"),
        (piece.encoded[9 + len(text) :], "no type: normal", "padding"),
    ]
    boxes = [(data.hex(" "), words, colour) for data, words, colour in fields if data]
    strip("a tokenizer.model", [(f"one piece, {size} bytes", boxes)], path, "the bytes of one SentencePiece piece")


def title_of(container: str, version: int) -> str:
    return CONTAINERS[container].title(version) if container in CONTAINERS else f"{container} v{version}"


def places() -> list[tuple[str, int]]:
    """All containers and versions."""
    return [(name, version) for name, c in CONTAINERS.items() for version in c.versions] + [("gguf", 3)]


def gguf_section(images: Path) -> Iterator[str]:
    records = records_of(3)
    parts = [
        ("once", [(field.name, kind(field), "header") for field in records.header]),
        ("n_kv times", [(field.name, kind(field), "token") for field in records.pair]),
        ("n_tensors times", [(field.name, kind(field), "tensor") for field in records.tensor]),
        ("for each tensor", [("padding", "to 32", "padding"), ("data", "blocks", "data")]),
    ]
    strip("gguf v3", parts, images / "gguf.svg", "gguf v3: header, metadata pairs, tensor descriptions, data")
    yield f"## gguf v1, v2, v3\n\nMagic `0x46554747`. {of_the_zoo('gguf1', 'gguf2', 'gguf3')}\n"
    yield "![gguf](img/gguf.svg)\n"
    yield f"Header (v1 has u32 where v2 and v3 have u64):\n\n{table(records.header)}"
    yield f"Then `n_kv` pairs:\n\n{table(records.pair)}"
    types = ", ".join(f"{number} {name}" for number, (name, _) in VALUE_TYPES.items())
    yield f"Value types: {types}. A string is a length and its bytes; an array is item type, count, items.\n"
    yield f"Then `n_tensors` descriptions, and after padding their data:\n\n{table(records.tensor)}"


def type_section() -> Iterator[str]:
    yield "## Tensor types\n\nA tensor's data is rows of blocks. One id meant other bytes in other versions.\n"
    yield "| id | type | layout | values a block | bytes | bits a weight | fields | a value is |"
    yield "|--:|---|---|--:|--:|--:|---|---|"
    for record in TENSOR_TYPES.values():
        fields = ", ".join(map(record.field_words, record.field_names))
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
    yield from (f"| {ftype.id} | {ftype.title} | {ftype.type} |" for ftype in FTYPES.values())
    yield "\n## Eras\n\n| era | pin | commit | writes | quantizes to |\n|---|---|---|---|---|"
    for era in (*ERAS.values(), *GGUF_ERAS.values()):
        title = title_of(era.container, era.version)
        yield f"| {era.date} | {era.pin} | {era.commit} | {title} | {', '.join(era.type_names[2:])} |"


# What is left of normally distributed weights: the root of the mean square of the error, as a part of their standard
# deviation (measured over 256,000 values with the quantizers of 2026; those that need importance were given equal one).
# fmt: off
ERRORS: dict[str, str] = {
    "q4_0": "0.086", "q4_1": "0.078", "q5_0": "0.043", "q5_1": "0.038", "q8_0": "0.005", "q2_K": "0.297",
    "q3_K": "0.151", "q4_K": "0.072", "q5_K": "0.036", "q6_K": "0.018", "iq2_xxs": "0.344", "iq2_xs": "0.300",
    "iq3_xxs": "0.214", "iq1_s": "0.486", "iq4_nl": "0.076", "iq3_s": "0.166", "iq2_s": "0.265", "iq4_xs": "0.077",
    "iq1_m": "0.583", "tq1_0": "0.809", "tq2_0": "0.809", "mxfp4": "0.115", "nvfp4": "0.095", "q1_0": "0.601",
    "q2_0": "0.720",
}
# fmt: on


def type_page(images: Path) -> Iterator[str]:
    """A section for each type of blocks that GGUF has today: its bytes, one decoded block, what is lost."""
    yield "# Tensor types, one by one\n\n<!-- generated by docs/generate.py from the declared tables; do not edit -->\n"
    yield (
        "The types of blocks that a GGUF file of today can have. How a quantizer finds scales and codes is told in "
        "[quantizers](quantizers.md), all layouts of earlier files are in [formats](formats.md). In the examples byte "
        "i of a block is (37 i + 11) mod 256, but its scale (and minimum) is 0.5, in mxfp4 1.\n"
    )
    records = [record for record in types_of("gguf", 3).values() if record.quantized]
    yield "| type | bits a weight | values a block | share a scale | error |\n|---|--:|--:|--:|--:|"
    for record in sorted(records, key=lambda record: record.bits_per_weight):
        size = f"{record.bits_per_weight:g} | {record.blck_size} | {record.run}"
        yield f"| [{record.name}](#{record.name.lower()}) | {size} | {ERRORS[record.name]} |"
    yield (
        "\nThe error is that of normally distributed weights, as a part of their standard deviation, without an "
        "importance matrix (iq1_s, iq2_xxs and iq2_xs need one: there all columns counted the same; most others count "
        "large values more by themselves). Two types of one size differ by how they spend their bits.\n"
    )
    for record in records:
        yield from type_part(record, images)


def type_part(record: TensorType, images: Path) -> Iterator[str]:
    """The section of one type."""
    boxes = [(name, field_size(record, name), field_colour(record, name)) for name in record.field_names]
    image = images / f"type-{record.name}.svg"
    strip(
        f"{record.name}: {record.type_size} bytes",
        [("one block", boxes)],
        image,
        f"the fields of a {record.name} block",
    )
    yield f"## {record.name}\n\n![{record.name}](img/{image.name})\n"
    shared = "all share a scale" if record.run == record.blck_size else f"each {record.run} share a scale"
    yield f"{record.blck_size} values in {record.type_size} bytes; {shared}. A value is `{record.doc}`."
    if record.levels:
        yield f"Levels: {', '.join(map(str, record.levels))}."
    if record.grid:
        grid = GRIDS[record.grid]
        numbers = ", ".join(
            f"{number / 8:g}" if record.grid.startswith("iq1s") else str(number) for number in grid.numbers
        )
        yield f"The grid has {grid.size} points of {grid.width} coordinates, each one of {numbers}."
    block = example_block(record)
    codes, scale = signed_codes(block, record)[0, :8], float(scales_of(block, record)[0][0, 0])
    yield "\nThe first eight values of the example, in units of their scale, and as numbers:\n\n```text"
    yield " ".join(f"{int(code):>9}" for code in codes)
    yield " ".join(f"{float(value):>9.5g}" for value in dequantize(block, record)[:8])
    yield f"```\n\nTheir scale is {scale:.6g}. Files: `python cli.py zoo animals --match 'models/*-{record.name}.*'`.\n"


def field_size(record: TensorType, name: str) -> str:
    size = record.block[name].itemsize
    return f"{size} byte{'s' * (size > 1)}"


def field_colour(record: TensorType, name: str) -> str:
    """Scales, codes, and what belongs to codes."""
    if name in ("d", "dmin", "m", "e"):
        return "header"
    return "token" if name.startswith("scales") else "tensor" if name in ("qh", "hmask", "signs") else "data"


def example_block(record: TensorType) -> NDArray[Any]:
    """One block of bytes that look random."""
    data = (37 * np.arange(record.type_size) + 11).astype(np.uint8)
    block = data.view(record.block).copy()
    for name in record.scale_fields:
        block[name] = 128 if name == "e" else 0.5
    if record.name == "nvfp4":
        block["d"] = 0x38  # 1, which the doubled levels make a half
    if record.name == "iq1_m":  # the upper bits of four words are 0x3800, the float16 0.5
        block["scales"] = block["scales"] & 0x0FFF | np.array([0, 0, 0x8000, 0x3000], np.uint16)
    return block


def carrying_section() -> Iterator[str]:
    """What becomes of each number of a model on its way into each container."""
    yield "\n## What becomes of each number of a model\n"
    yield (
        "No container says all that another does. A cell is the key that carries the number. **refused**: a reader "
        "would compute something else, so nothing is written. **told**: a note says what the reader has to be given. "
        "A value that every reader assumes anyway (as in the first LLaMA) is nothing to tell. From GGUF to GGUF every "
        "key is kept, byte for byte and in its order; quantizing sets `general.quantization_version` and "
        "`general.file_type` anew, at the end.\n"
    )
    yield f"| number | {' | '.join(TARGETS.values())} |"
    yield "|---|" + "---|" * len(TARGETS)
    for number in NUMBERS:
        if number.field != "rope_scaling":
            cells = [getattr(number, target) for target in TARGETS]
            yield f"| {number.what} | {' | '.join(map(_cell, cells))} |"
            continue
        for name, cells_of in SCALINGS.items():
            words = "longrope and others" if name == "longrope" else name
            yield f"| {number.what}: {words} | {' | '.join(_cell(cells_of[target]) for target in TARGETS)} |"


def _cell(text: str) -> str:
    """A key as code, an outcome in bold."""
    return f"**{text}**" if text in (REFUSED, TOLD) else text if text == NEEDLESS else f"`{text}`"


def others_section() -> Iterator[str]:
    yield "## For other programs\n"
    yield "`python cli.py formats --as KIND` writes the same tables in the languages of other programs:\n"
    yield "| `--as` | what reads it |"
    yield "|---|---|"
    yield from (f"| `{kind}` | {words} |" for kind, words in DESCRIPTIONS.items())
    yield (
        "\nA Kaitai Struct parser, compiled for one of a dozen languages, reads a file of ggml, ggmf or ggjt to its "
        "last byte; of GGUF it reads all but where each tensor's data begin. `file -m ggml.magic FILE` says which "
        "container, which version, and how large.\n"
    )


def write_all(target: Path) -> None:
    """Write the page and the pictures below ``target``."""
    (target / "img").mkdir(parents=True, exist_ok=True)
    parts = [
        "# File formats\n\n<!-- generated by docs/generate.py from the declared tables; do not edit -->\n",
        "Everything is little-endian (big-endian GGUF excepted). `python cli.py hexdump FILE` shows these fields in a "
        "file of yours, and `python cli.py explain FILE OFFSET` says what a byte of it is, and what for. A tiny file "
        "of each kind, and a broken one for every complaint, is in [the zoo](zoo.md); what its files hold is shown "
        "[one by one](specimens.md).\n",
        *container_sections(target / "img"),
        *gguf_section(target / "img"),
        *changes_section(target / "img"),
        *type_section(),
        *carrying_section(),
        *others_section(),
    ]
    (target / "tensor-types.md").write_text("\n".join(type_page(target / "img")).rstrip() + "\n", "utf-8")
    torch_archives(target / "img" / "pth.svg")
    adapter_files(target / "img" / "adapter.svg")
    piece_bytes(target / "img" / "piece.svg")
    (target / "formats.md").write_text("\n".join(parts).rstrip() + "\n", "utf-8")


if __name__ == "__main__":
    write_all(HERE)
