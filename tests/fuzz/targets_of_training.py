"""Readers of what measuring and training leave: importance matrices, adapters of llama.cpp, prepared data."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ggmlpy import open_model
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.gguf_writer import write_gguf
from ggmlpy.formats.importance import is_importance, open_importance, rows_of, write_importance
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.tensor_types import type_named
from llama_ref.checkpoint import LazyTensor
from llama_ref.checkpoint.safetensors_file import write_safetensors
from lora.exchange.applying import apply_adapters
from lora.exchange.ggla import write_ggla
from lora.exchange.reading import is_lora_file, open_lora_file
from lora.exchange.to_peft import write_peft
from lora.merging.adapter import open_adapter
from lora.merging.adapter_writer import write_adapter
from lora.training.prepared import KIND, TENSORS, Blocks, open_prepared
from tests.fuzz import scenes
from tests.fuzz.damage_bytes import Spans, damaged
from tests.fuzz.damage_gguf import damaged_gguf
from tests.fuzz.rules import Broken
from tests.ggmlpy.models import write_tiny
from toolchain.look.identify import identify_any

__all__ = [
    "FILE_ADAPTERS",
    "IMPORTANCE",
    "PREPARED",
    "file_damage",
    "read_file_adapter",
    "read_importance",
    "read_prepared",
]

Fill = Callable[[Path], list[str]]
RANK, WIDTH = 2, scenes.SMALL.n_embd
MATRICES = ("blk.0.attn_q.weight", "blk.0.ffn_down.weight", "output.weight")


# ── importance matrices ──────────────────────────────────────────────────────────────────────────────────────────────


def measured(format: str) -> Fill:
    def fill(at: Path) -> list[str]:
        sums = {name: np.arange(WIDTH, dtype=np.float32) + i for i, name in enumerate(MATRICES)}
        name = "i.gguf" if format == "gguf" else "i.dat"
        write_importance(at / name, sums, 64, format=format, dataset="文.txt", n_chunks=4, chunk_size=16)
        return [name]

    return fill


IMPORTANCE = {"gguf": measured("gguf"), "dat": measured("dat")}


def read_importance(folder: Path, name: str) -> None:
    """What quantize asks of it, and what identify and inspect show."""
    path = folder / name
    is_importance(path)
    matrix = open_importance(path)
    list(rows_of(matrix))
    for tensor in (*MATRICES, *matrix.entries):
        for shape in ((4, WIDTH), (2, 4, WIDTH)):
            weights = matrix.of(tensor, shape, optional=True)
            if weights is not None and not np.isfinite(weights).all():
                raise Broken("weights that are not finite")
    identify_any(path)


# ── adapters in llama.cpp's own files ────────────────────────────────────────────────────────────────────────────────


def model_beside(at: Path) -> None:
    write_tiny(at / "model.gguf.bin", "ggjt", 1, "f16", hparams=scenes.SMALL)


def gguf_adapter(at: Path) -> list[str]:
    """As convert_lora_to_gguf.py writes it: halves of several types, a change of the embedding, a norm."""
    model_beside(at)
    keys = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    metadata = {key: Value("string", text.encode()) for key, text in keys.items()}
    metadata["adapter.lora.alpha"] = Value("f32", 4.0)
    shapes = {
        "blk.0.attn_q.weight.lora_a": (RANK, WIDTH), "blk.0.attn_q.weight.lora_b": (WIDTH, RANK),
        "token_embd.weight.lora_a": (RANK, scenes.SMALL.n_vocab), "token_embd.weight.lora_b": (WIDTH, RANK),
    }  # fmt: skip
    tensors = [_ones(name, shape, "f16" if "token" in name else "f32") for name, shape in shapes.items()]
    write_gguf(at / "a.gguf", metadata, [*tensors, _ones("blk.0.attn_norm.weight", (WIDTH,), "f32")])
    return ["a.gguf"]


def _ones(name: str, shape: tuple[int, ...], kind: str) -> OutTensor:
    record = type_named(kind, "gguf", 3)
    return OutTensor(name, record, shape, lambda: [np.ones(shape, record.block)])


def ggla_adapter(at: Path) -> list[str]:
    """As convert-lora-to-ggml.py writes it."""
    model_beside(at)
    halves = np.ones((RANK, WIDTH), np.float32), np.ones((WIDTH, RANK), np.float32)
    pairs = {f"layers.0.attention.{name}.weight": halves for name in ("wq", "wv")}
    write_adapter(at / "peft", pairs, r=RANK, alpha=4)
    with open_adapter(at / "peft") as adapter:
        write_ggla(adapter, at / "a.bin")
    return ["a.bin"]


FILE_ADAPTERS = {"gguf": gguf_adapter, "ggla": ggla_adapter}


def read_file_adapter(folder: Path, name: str) -> None:
    """Looked at, added to a model, and written for PEFT."""
    path = folder / name
    is_lora_file(path)
    identify_any(path)
    adapter = open_lora_file(path)
    with open_model(folder / "model.gguf.bin") as model:
        list(apply_adapters(model, [(path, 0.5)]))
        if not all(np.isfinite(model.tensors[name].numpy()).all() for name in adapter.pairs):
            raise Broken("an adapter made a model that is not finite")
    write_peft(adapter, scenes.SMALL, folder / "back")


# ── prepared data ────────────────────────────────────────────────────────────────────────────────────────────────────


def prepared(at: Path) -> list[str]:
    """Three rows to train on and one that is held out."""
    arrays = {
        "ids": np.arange(12, dtype="<u2"), "starts": np.array([0, 4, 7, 9, 12]), "first_targets": np.zeros(4, "<i4"),
        "train": np.array([2, 0, 1]), "validation": np.array([3]),
    }  # fmt: skip
    said = {"kind": KIND, "what": "records", "recipe": "original", "length": "4", "workers": "1", "validation": "0.25"}
    said |= {"seed": "0", "n_vocab": "12", "tokenizer": "0" * 64, "files": json.dumps([["a.json", 9]])}
    tensors = [LazyTensor.of_array(name, arrays[name]) for name in TENSORS]
    write_safetensors(at / "x.safetensors", tensors, said)
    return ["x.safetensors"]


PREPARED = {"records": prepared}


def read_prepared(folder: Path, name: str) -> None:
    """Every row, as the numpy engine and the one on torch take it."""
    with open_prepared(folder / name, n_vocab=12) as data:
        for number in (*data.train, *data.validation):
            ids, labels = data.row(int(number)), data.labels(int(number))
            if ids.shape != labels.shape or not all(0 <= i < 12 for i in ids):
                raise Broken("a token that the tokenizer does not have")
            data.n_targets(int(number))
        blocks = Blocks(data, rows=2, seed=1)
        blocks.batch(0)
        blocks.batch(5)
        str(blocks.identity())


# ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────────────

NUMBERS = tuple(struct.pack("<i", n) for n in (0, 1, 2, -1, 255, 1 << 30, -(1 << 31)))
PIECES = (*NUMBERS, b"algg", b"GGUF", b".loraA", b".loraB", b".lora_a", b".in_sum2", b".counts", b"\0\0\xc0\x7f")
PIECES += (b"\xff\xff\x7f\x7f", b"\0\x7e", b"\0\xfc", b"blk.0.attn_q.weight", b"\xc3\x28", b"\x1b[2J")


def file_damage(rng: random.Random, name: str, data: bytes, donors: Sequence[bytes], spans: Spans) -> bytes:
    if data[:4] == b"GGUF" and rng.random() < 0.5:
        return damaged_gguf(rng, data)
    return damaged(rng, data, donors, spans=spans, fragments=PIECES)
