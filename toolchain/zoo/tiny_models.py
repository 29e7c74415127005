"""Checkpoints, adapters and tokenizers of a few hundred kilobytes, made from a seed, for other programs to try on.

The same seed gives the same bytes on every machine: all numbers are integers of a generator whose stream numpy has
frozen, divided by a constant. Weights have the spread that keeps activations at about one, so that logits and texts
mean something.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np

from ggmlpy.files.atomic import atomic_write
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.tensor_names import TABLE, expected_shapes, rename
from llama_ref.checkpoint import LazyTensor, write_pth
from llama_ref.checkpoint.layout import shard_of
from llama_ref.checkpoint.params import params_json
from llama_ref.checkpoint.safetensors_file import write_safetensors
from llama_ref.vocabulary.sentencepiece_model import BYTE, CONTROL, NORMAL, UNKNOWN, Piece, SentencePieceModel
from lora.vocabulary import merge_vocabularies

__all__ = [
    "CHINESE",
    "SHAPES",
    "SPELLINGS",
    "WORDS",
    "random_array",
    "stored",
    "tensor_shapes",
    "tiny_shape",
    "tiny_tokenizers",
    "write_adapter",
    "write_checkpoint",
    "zip_directory",
]

WORDS = ["the", "of", "and", "to", "in", "is", "that", "for", "with", "model", "hello", "world", "language", "write"]
CHINESE = "你好世界介绍北京怎么做披萨如何保持健康讲一个故事"
TARGETS = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")


def tiny_shape(n_embd: int = 64, n_head: int = 2, n_layer: int = 2, n_mult: int = 32) -> ModelParams:
    """A LLaMA, smaller."""
    return ModelParams(n_embd=n_embd, n_head=n_head, n_layer=n_layer, n_mult=n_mult)


SHAPES = {"tiny": tiny_shape(), "wide": tiny_shape(n_embd=256, n_layer=1, n_mult=256)}


def tensor_shapes(shape: ModelParams, n_vocab: int) -> dict[str, tuple[int, ...]]:
    """Meta names and shapes, [rows, columns], in the order of the golden files: row by row of the table."""
    names = [row.meta.format(i) for row in TABLE for i in range(shape.n_layer if row.per_layer else 1)]
    return expected_shapes(replace(shape, n_vocab=n_vocab), names)


def random_array(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 of ``shape``: norms around 1, matrices with standard deviation 1 / sqrt(columns)."""
    rng = np.random.RandomState((seed * 2654435761 + crc32(name.encode())) % 2**32)
    x = rng.randint(-1000, 1001, shape) / 577.0  # standard deviation 1
    if len(shape) == 1:
        return (1 + 0.2 * x).astype(np.float32)
    gain = {"tok_embeddings.weight": np.sqrt(shape[1]), "output.weight": 3.0}.get(name, 1.0)
    return (x * (gain / np.sqrt(shape[1]))).astype(np.float32)


def stored(name: str, values: np.ndarray, dtype: str) -> LazyTensor:
    """A tensor in Meta's layout, of float32 values rounded to a type."""
    if dtype != "bfloat16":
        return LazyTensor.of_array(name, values.astype(dtype), layout="meta")
    bits = values.view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return LazyTensor(name, values.shape, "bfloat16", lambda a, b: rounded[a:b], "memory", "meta")


# ── tokenizers ────────────────────────────────────────────────────────────────────────────────────────────────────────


def tiny_tokenizers() -> tuple[SentencePieceModel, SentencePieceModel]:
    """A tokenizer.model like LLaMA's with an even number of pieces, and one with Chinese pieces and a pad token."""
    letters = [chr(i) for i in range(33, 127)]
    words = [*("▁" + word for word in WORDS), *WORDS, "▁", *("▁" + letter for letter in "abcdefghijklmnopqrstuvwxyz")]
    normal = list(dict.fromkeys([*words, *letters]))
    normal = normal[: len(normal) - (len(normal) + 259) % 2]
    pieces = [_piece("<unk>", 0.0, UNKNOWN), _piece("<s>", 0.0, CONTROL), _piece("</s>", 0.0, CONTROL)]
    pieces += [_piece(f"<0x{i:02X}>", 0.0, BYTE) for i in range(256)]
    pieces += [_piece(text, -float(i), NORMAL) for i, text in enumerate(normal)]
    base = SentencePieceModel(tuple(pieces), _TRAINER + _NORMALIZER)
    extra = SentencePieceModel(tuple(_piece(text, -1.0, NORMAL) for text in dict.fromkeys(CHINESE)), b"")
    _, growth = merge_vocabularies(base, extra)
    if growth.total % 2:  # an odd vocabulary with the pad token is what shards are cut wrong at
        extra = SentencePieceModel(extra.pieces[:-1], b"")
    return base, merge_vocabularies(base, extra, "[PAD]")[0]


# TrainerSpec: model_type BPE, byte_fallback; NormalizerSpec: "identity", a dummy prefix, spaces kept
_TRAINER = b"\x12\x05\x18\x02\x98\x02\x01"
_NORMALIZER = b"\x1a\x0e\x0a\x08identity\x18\x01\x20\x00"


def _piece(text: str, score: float, kind: int) -> Piece:
    """One SentencePiece message: text (field 1), score (2), type (3; left out where it is NORMAL)."""
    data = text.encode()
    body = b"\x0a" + bytes([len(data)]) + data + b"\x15" + np.float32(score).tobytes()
    body += b"" if kind == NORMAL else b"\x18" + bytes([kind])
    return Piece(data, score, kind, b"\x0a" + bytes([len(body)]) + body)


# ── checkpoints ───────────────────────────────────────────────────────────────────────────────────────────────────────


def write_checkpoint(folder: Path, shape: ModelParams, seed: int, dtype: str = "float16", shards: int = 1) -> None:
    """A checkpoint as Meta published them, tokenizer.model beside it: consolidated.00.pth … and params.json."""
    folder.mkdir(parents=True)
    tokenizer = tiny_tokenizers()[0]
    tensors = [
        stored(n, random_array(seed, n, size), dtype) for n, size in tensor_shapes(shape, len(tokenizer)).items()
    ]
    for index in range(shards):
        write_pth(folder / f"consolidated.{index:02}.pth", [shard_of(tensor, index, shards) for tensor in tensors])
    _write(folder / "params.json", params_json(shape).encode())
    _write(folder / "tokenizer.model", tokenizer.to_bytes())


def _write(path: Path, data: bytes) -> None:
    with atomic_write(path) as stream:
        stream.write(data)


# ── adapters ──────────────────────────────────────────────────────────────────────────────────────────────────────────

SPELLINGS: dict[str, Callable[[str, str], str]] = {
    "peft": lambda module, side: f"base_model.model.{module}.lora_{side}.weight",
    "by-hand": lambda module, side: f"base_model.model.{module}.lora_{side}.default.weight",
    "bare": lambda module, side: f"{module}.lora_{side}.weight",
}


def write_adapter(
    folder: Path,
    shape: ModelParams,
    seed: int,
    *,
    spelling: str = "peft",
    dtype: str = "float16",
    weights: str = "bin",
    grown: bool = False,
    rank: int = 4,
    alpha: int = 8,
    n_vocab: int | None = None,
) -> None:
    """A PEFT adapter on all seven matrices of every layer.

    Args:
        spelling: of its keys, see :data:`SPELLINGS`.
        weights: "bin" or "safetensors".
        grown: with embedding and output of the larger vocabulary, saved whole; its tokenizer is the larger one.
        n_vocab: of a base with another tokenizer, which the adapter does not bring; None: it brings a tiny one.
    """
    folder.mkdir(parents=True)
    tokenizer = tiny_tokenizers()[int(grown)]
    key, tensors = SPELLINGS[spelling], []
    for name, size in tensor_shapes(shape, n_vocab or len(tokenizer)).items():
        module = rename(name, "huggingface").removesuffix(".weight")
        if name.rsplit(".", 2)[-2] in TARGETS:
            a = random_array(seed, f"{name} A", (rank, size[1]))
            b = random_array(seed, f"{name} B", (size[0], rank)) / np.float32(8)
            tensors += [stored(key(module, "A"), a, dtype), stored(key(module, "B"), b, dtype)]
        elif grown and len(size) == 2:
            prefix = "" if spelling == "bare" else "base_model.model."
            tensors.append(stored(f"{prefix}{module}.weight", random_array(seed, name, size), dtype))
    if weights == "bin":
        write_pth(folder / "adapter_model.bin", tensors)
    else:
        write_safetensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "up_proj"]
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha, "target_modules": modules}
    config |= {"bias": "none", "fan_in_fan_out": False, "lora_dropout": 0.05, "inference_mode": True}
    config |= {"modules_to_save": ["embed_tokens", "lm_head"] if grown else None}
    _write(folder / "adapter_config.json", (json.dumps(config, indent=2) + "\n").encode())
    if n_vocab is None:
        _write(folder / "tokenizer.model", tokenizer.to_bytes())


def zip_directory(folder: Path, path: Path) -> None:
    """The directory's files as a ZIP whose bytes do not depend on when it is made."""
    with atomic_write(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        for file in sorted(folder.iterdir()):
            entry = zipfile.ZipInfo(f"{folder.name}/{file.name}", (2023, 3, 31, 0, 0, 0))
            archive.writestr(entry, file.read_bytes())
