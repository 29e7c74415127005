"""Project 11: a GGUF file that others load."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import FormatError
from ggmlpy.formats.gguf import GgufFile, open_gguf
from ggmlpy.formats.gguf_values import TYPE_IDS, VALUE_TYPES, Value
from ggmlpy.formats.gguf_writer import write_gguf
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.tensor_types import TENSOR_TYPES

from ..differences import shown
from ..project import Difference, Project

KINDS = ("a small model", "Chinese keys and texts", "every type of value", "another alignment")
F32 = TENSOR_TYPES["f32"]
WORDS = ("llama", "你好", "世界", "北京", "▁the", "é")
INTEGERS = ("u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64")


def make(rng: np.random.RandomState, kind: str, folder: Path) -> Path:
    """A JSON text: keys with their types and values, and tensors of float32."""
    n_vocab = int(rng.randint(3, 9))
    words = [WORDS[i] for i in rng.randint(0, len(WORDS), n_vocab)]
    metadata: list[list[Any]] = [
        ["general.architecture", "string", "llama"],
        ["general.name", "string", "北京" if kind.startswith("Chinese") else "course"],
        ["llama.block_count", "u32", int(rng.randint(1, 80))],
        ["llama.attention.layer_norm_rms_epsilon", "f32", 1e-6],
        ["tokenizer.ggml.tokens", "array of string", words],
        ["tokenizer.ggml.scores", "array of f32", [-float(i) for i in range(n_vocab)]],
        ["tokenizer.ggml.token_type", "array of i32", [1] * n_vocab],
    ]
    if kind.startswith("Chinese"):
        metadata.append(["course.词", "array of string", list(WORDS)])
    if kind.startswith("every"):
        metadata += [[f"course.{name}", name, int(rng.randint(0, 100))] for name in INTEGERS]
        metadata += [["course.bool", "bool", True], ["course.f64", "f64", 0.1], ["course.no", "bool", False]]
    if kind.endswith("alignment"):
        metadata.append(["general.alignment", "u32", int(rng.choice([64, 128]))])
    tensors = {f"blk.{i}.attn_q.weight": rng.randn(int(rng.randint(2, 6)), int(rng.randint(2, 7))) for i in range(3)}
    tensors["output_norm.weight"] = rng.randn(int(rng.randint(3, 9)))
    document = {
        "metadata": [dict(zip(("key", "type", "value"), row)) for row in metadata],
        "tensors": [{"name": n, "shape": list(a.shape), "values": _plain(a)} for n, a in tensors.items()],
    }
    path = folder / "model.json"
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1), "utf-8")
    return path


def _plain(values: NDArray[np.float64]) -> list[float]:
    return [round(value, 4) for value in values.reshape(-1).tolist()]


def answer(path: Path) -> bytes:
    document = json.loads(path.read_text("utf-8"))
    metadata = {row["key"]: _value(row["type"], row["value"]) for row in document["metadata"]}
    tensors = [_tensor(**row) for row in document["tensors"]]
    with tempfile.TemporaryDirectory() as folder:
        write_gguf(Path(folder) / "out.gguf", metadata, tensors)
        return (Path(folder) / "out.gguf").read_bytes()


def _value(kind: str, value: Any) -> Value:
    if not kind.startswith("array of "):
        return Value(kind, value.encode() if kind == "string" else value)
    item = kind.removeprefix("array of ")
    if item == "string":
        return Value("array", [text.encode() for text in value], item)
    return Value("array", np.array(value, VALUE_TYPES[TYPE_IDS[item]][1]), item)


def _tensor(name: str, shape: list[int], values: list[float]) -> OutTensor:
    array = np.array(values, "<f4").reshape(shape)
    return OutTensor(name, F32, tuple(shape), lambda: [array])


def differ(path: Path, expected: bytes, found: bytes) -> Difference | None:
    with tempfile.TemporaryDirectory() as folder:
        for name, data in (("answer", expected), ("output", found)):
            (Path(folder) / name).write_bytes(data)
        try:
            given = open_gguf(Path(folder) / "output")
        except FormatError as error:
            return _unreadable(error)
        wanted = open_gguf(Path(folder) / "answer")
        return _header(wanted, given) or _metadata(wanted, given) or _tensors(wanted, given)


HINTS = {
    "string": "the length of a text is the number of its bytes in UTF-8, as 64 bits",
    "key_length": "the length of a text is the number of its bytes in UTF-8, as 64 bits",
    "n_kv": "magic, version as 32 bits, number of tensors and number of keys as 64 bits",
    "n_tensors": "magic, version as 32 bits, number of tensors and number of keys as 64 bits",
    "type": "an array has the type of its items (32 bits) and their number (64 bits) before the items",
    "offset": "the offset of a tensor is counted from the beginning of the data, and a multiple of the alignment",
    "data": "offsets count from the beginning of the data, not of the file; the last tensor is padded, too",
}


def _unreadable(error: FormatError) -> Difference:
    """What a reader says of the output, with what is usually behind it."""
    at = "" if error.offset is None else f", at offset {error.offset}"
    what = "" if error.field is None else f" ({error.field}{at})"
    return Difference(f"a reader refuses the file: {shown(error.problem)}{what}", HINTS.get(str(error.field), ""))


def _header(wanted: GgufFile, given: GgufFile) -> Difference | None:
    if given.version != 3:
        return Difference(f"this is version {given.version}, not 3")
    for what, a, b in (("keys", wanted.metadata, given.metadata), ("tensors", wanted.tensors, given.tensors)):
        if list(a) != list(b):
            strange = next((name for name in b if name not in a), None)
            named = f": {shown(strange)} is none of the input's" if strange else ", or not in the input's order"
            return Difference(f"not all {what} are there{named}")
    return None


def _metadata(wanted: GgufFile, given: GgufFile) -> Difference | None:
    for key, value in wanted.metadata.items():
        other = given.metadata[key]
        if (other.type, other.item) != (value.type, value.item):
            kind = other.type + (f" of {other.item}" if other.item else "")
            return Difference(f"key {shown(key)} has another type than it should have: {kind}")
        if other != value:
            return Difference(f"key {shown(key)} has another value than it should have")
    return None


def _tensors(wanted: GgufFile, given: GgufFile) -> Difference | None:
    for name, tensor in wanted.tensors.items():
        other = given.tensors[name]
        if other.type.name != "f32":
            return Difference(f"tensor {name!r} has type {other.type.name}, and not f32 (0)")
        if other.shape != tensor.shape:
            turned = "columns come first in a GGUF file" if other.shape == tensor.shape[::-1] else ""
            return Difference(f"tensor {name!r} has another shape than it should have: {list(other.shape)}", turned)
        if bytes(other.data) != bytes(tensor.data):
            off = np.flatnonzero(other.data.view("<f4") != tensor.data.view("<f4"))
            hint = HINTS["data"] if len(off) > 1 else ""
            return Difference(f"{len(off)} values of {name!r} are not right, the first is value {off[0]}", hint)
    return None


PROJECT = Project(
    11, "gguf", "Write a GGUF that others load", "写出别人能读的 GGUF", KINDS, make, "out.gguf", answer, differ
)
