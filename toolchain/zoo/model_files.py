"""GGML and GGUF files: every container, with every tensor type, as every era's quantizer writes it.

Types whose blocks have at most 32 values come in a whole model of one layer, which even generates (nonsense); the
others, whose rows must be multiples of 64 to 256, in a file that has no layers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.bfloat16 import bfloat16_of_converter
from ggmlpy.formats.containers import CONTAINERS, GGUF
from ggmlpy.formats.eras import ERAS, GGUF_ERAS, MARCH_30, TODAY, Era
from ggmlpy.formats.file_types import FILE_TYPES
from ggmlpy.formats.gguf import GgufFile, open_gguf
from ggmlpy.formats.gguf_model import gguf_metadata
from ggmlpy.formats.gguf_values import TYPE_IDS, VALUE_TYPES, Value
from ggmlpy.formats.gguf_writer import write_gguf
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.opening import open_model
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.tensor_names import gguf_name
from ggmlpy.formats.tensor_types import TensorType, types_of
from ggmlpy.formats.writer import write_model
from ggmlpy.quantizers.arrays import quantize
from ggmlpy.quantizers.migration import migrate
from ggmlpy.quantizers.rows import NEED_IMPORTANCE

from .specimen import IDENTIFY, Specimen, save
from .tiny_models import random_array, tensor_shapes

__all__ = ["PIECES", "model_files", "write_file", "write_vocabulary"]

NARROW = ModelParams(n_embd=32, n_layer=1, n_head=1, n_mult=32)
WIDE = ModelParams(n_embd=256, n_layer=0, n_head=1, n_mult=32)
WORDS = [" ", "a", "b", "ab", " a", "北", "京", "北京", "hello"]
PIECES: list[tuple[bytes, float]] = [
    (piece, 0.0 if index < 259 else 258.0 - index)
    for index, piece in enumerate(
        [b"<unk>", b"", b"", *(bytes([byte]) for byte in range(256)), *(word.encode() for word in WORDS)]
    )
]
SEED = 2023


def model_files() -> Iterator[Specimen]:
    """Every container × type × era, and what else a model file can be."""
    for era in (*ERAS.values(), *GGUF_ERAS.values()):
        for name in _shown(era):
            record, title = era.types[name], _title(era)
            folder = title.replace(" (unversioned)", "").replace(" v", "")
            suffix = "gguf" if era.is_of_gguf else "bin"
            yield Specimen(
                f"models/{folder}/{era.date}-{name}.{suffix}",
                f"{title} as llama.cpp of {era.date} wrote it; {name}: {_blocks(record)}",
                partial(write_file, era=era, name=name),
                title,
                look=IDENTIFY if _is_narrow(record) else "inspect {} --tensors",
            )
    yield from _other_files()


def _shown(era: Era) -> list[str]:
    """All types of an era before GGUF, of the first two containers of GGUF, and of today; else those that were new."""
    known = types_of(era.container, era.version).values()
    names = [name for name, record in era.types.items() if record in known]  # no file says that it has the others
    moments = list(GGUF_ERAS.values())
    first_of_version = {moment.version: moment for moment in reversed(moments)}
    if not era.is_of_gguf or era in (*first_of_version.values(), TODAY):
        return names
    before = moments[moments.index(era) - 1].types
    return [name for name in names if before.get(name) != era.types[name]]


def _title(era: Era) -> str:
    return CONTAINERS.get(era.container, GGUF).title(era.version)


def _blocks(record: TensorType) -> str:
    if record.blck_size == 1:
        return f"{record.type_size} bytes a value"
    return f"{record.blck_size} values in {record.type_size} bytes, each {record.doc}"


def _is_narrow(record: TensorType) -> bool:
    return NARROW.n_embd % record.blck_size == 0


# ── writing one ──────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def _arrays(wide: bool) -> Mapping[str, NDArray[np.float32]]:
    return {n: random_array(SEED, n, s) for n, s in tensor_shapes(WIDE if wide else NARROW, len(PIECES)).items()}


def write_file(path: Path, era: Era, name: str) -> None:
    """A model whose matrices are of one type, as an era's quantizer makes them."""
    record = era.types[name]
    wide = not _is_narrow(record)
    tensors = [
        OutTensor(n, record if a.ndim == 2 else era.types["f32"], a.shape, lambda a=a: [_stored(a, record, era)])  # type: ignore[misc]
        for n, a in _arrays(wide).items()
    ]
    ftype = next((known.id for known in FILE_TYPES.values() if known.type == name), 0)
    params = ModelParams(
        **{field: getattr(WIDE if wide else NARROW, field) for field in ("n_embd", "n_layer", "n_head", "n_mult")},
        n_vocab=len(PIECES),
        ftype=ftype,
    )
    if era.is_of_gguf:
        renamed = [OutTensor(gguf_name(t.name), t.type, t.shape, t.chunks) for t in tensors]
        write_gguf(path, gguf_metadata(params, PIECES), renamed, version=era.version)
    else:
        write_model(path, era.container, era.version, params, PIECES, tensors)


def _stored(array: NDArray[np.float32], record: TensorType, era: Era) -> NDArray[Any]:
    """An array's bytes in the file: norms as they are, matrices as blocks."""
    if array.ndim == 1 or record.name == "f32":
        return array
    if record.name == "bf16":
        return bfloat16_of_converter(array)
    if not record.quantized:
        return array.astype(record.block)
    importance = np.ones(array.shape[-1], np.float32) if record.name in NEED_IMPORTANCE else None
    return quantize(array, record.name, era, importance=importance)


# ── what else a model file can be ────────────────────────────────────────────────────────────────────────────────────


def write_vocabulary(path: Path) -> None:
    """ggjt v1 with a vocabulary and no tensor."""
    write_model(path, "ggjt", 1, ModelParams(n_embd=32, n_layer=1, n_head=1, n_vocab=len(PIECES)), PIECES, [])


def write_parts(path: Path, n_parts: int = 2) -> None:
    """A directory with a ggmf model over several files."""
    path.mkdir()
    write_file(path / "whole.bin", MARCH_30, "f16")
    with open_model(path / "whole.bin") as model:
        migrate(model, path / "model.bin", "ggmf", 1, n_parts=n_parts)
    (path / "whole.bin").unlink()


def write_split(path: Path) -> None:
    """A directory with a GGUF model over two files, as gguf-split names them."""
    path.mkdir()
    write_file(path / "whole.gguf", TODAY, "f16")
    file = open_gguf(path / "whole.gguf")
    tensors = [OutTensor(n, t.type, t.shape, lambda d=t.data: [d]) for n, t in file.tensors.items()]  # type: ignore[misc]
    for number, share in enumerate((tensors[::2], tensors[1::2])):
        keys = file.metadata if number == 0 else {"general.architecture": Value("string", b"llama")}
        split = {"split.no": Value("u16", number), "split.count": Value("u16", 2)}
        write_gguf(path / f"model-0000{number + 1}-of-00002.gguf", {**keys, **split}, share)
    (path / "whole.gguf").unlink()


def write_rewritten(path: Path, version: int, order: str) -> None:
    """GGUF in a version or byte order that no writer of ours has: f16 and f32 tensors only."""
    whole = path.with_name(f"{path.name}.whole")
    write_file(whole, TODAY, "f16")
    file = open_gguf(whole)
    save(path, _Rewriter(version, order).file(file))
    whole.unlink()


class _Rewriter:
    """GGUF's fields in another width of lengths (v1 has 32 bits) or another byte order."""

    def __init__(self, version: int, order: str) -> None:
        self.version, self.order = version, order
        self.wide = order + ("I" if version == 1 else "Q")

    def file(self, file: GgufFile) -> Iterator[bytes]:
        head = b"GGUF" + struct.pack(self.order + "I", self.version)
        head += struct.pack(f"{self.wide}{self.wide[1:]}", len(file.tensors), len(file.metadata))
        for key, value in file.metadata.items():
            head += self.text(key.encode()) + struct.pack(self.order + "I", TYPE_IDS[value.type]) + self.value(value)
        offset = 0
        for name, tensor in file.tensors.items():
            head += self.text(name.encode()) + struct.pack(self.order + "I", len(tensor.shape))
            head += struct.pack(f"{self.order}{len(tensor.shape)}{self.wide[1:]}", *reversed(tensor.shape))
            head += struct.pack(f"{self.order}IQ", tensor.type.id, offset)
            offset += len(tensor.data) + -len(tensor.data) % 32
        yield head + bytes(-len(head) % 32)
        for tensor in file.tensors.values():
            data = tensor.data.view(tensor.type.block)
            yield (data.byteswap() if self.order == ">" else data).tobytes() + bytes(-len(tensor.data) % 32)

    def text(self, data: bytes) -> bytes:
        return struct.pack(self.wide, len(data)) + data

    def value(self, value: Value) -> bytes:
        if value.type == "string":
            return self.text(bytes(value.value))
        code = VALUE_TYPES[TYPE_IDS[value.item or value.type]][1][1:]
        if value.type != "array":
            return struct.pack(self.order + code, value.value)
        head = struct.pack(self.order + "I", TYPE_IDS[value.item]) + struct.pack(self.wide, len(value.value))
        if value.item == "string":
            return head + b"".join(self.text(bytes(item)) for item in value.value)
        return head + np.asarray(value.value).astype(self.order + code).tobytes()


def _other_files() -> Iterator[Specimen]:
    yield Specimen(
        "models/gguf1/2023-08-f16.gguf",
        "GGUF of its first days: lengths and counts have 32 bits; llama.cpp of today refuses it",
        partial(write_rewritten, version=1, order="<"),
        "gguf v1",
    )
    yield Specimen(
        "models/gguf3/big-endian-f16.gguf",
        "GGUF v3 for a big-endian machine: every number the other way round, magic and texts as ever",
        partial(write_rewritten, version=3, order=">"),
        "gguf v3",
    )
    yield Specimen(
        "models/ggmf1/two-parts",
        "a model in two files, as 13B had them until 2023-03-30: each has the header and the vocabulary",
        write_parts,
        "2 parts",
        look="identify {}/model.bin",
    )
    yield Specimen(
        "models/gguf3/split",
        "a model over two GGUF files, as gguf-split cuts and names them",
        write_split,
        "gguf v3",
        look="identify {}/model-00001-of-00002.gguf",
    )
