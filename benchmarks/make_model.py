"""Write a model of random weights, to measure with: the shapes of LLaMA-7B unless others are given.

    python benchmarks/make_model.py model.bin                             # 4.2 GB, q4_0 of 2023-03-31
    python benchmarks/make_model.py small.bin --n-embd 512 --n-layer 4 --type q8_0 --version 3

The same arguments give the same bytes. Codes are uniform; scales are such that each layer keeps the size of what flows
through it, so the numbers stay ordinary.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ggmlpy.formats.bfloat16 import rounded_to_bfloat16
from ggmlpy.formats.file_types import FILE_TYPES
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.tensor_types import TensorType, type_named
from ggmlpy.formats.writer import write_model

SPREADS = {  # of a type's random integers: the root of their mean square
    "q8_0": 74.0, "q5_0": 9.2, "q5_1": 9.2, "q2_K": 8.0, "q3_K": 42.0, "q4_K": 300.0, "q5_K": 600.0, "q6_K": 1100.0,
    "iq4_nl": 66.0, "iq4_xs": 1200.0,
}  # fmt: skip
CHUNK = 1 << 24  # bytes made at a time
FTYPES = {record.type: record.id for record in reversed(FILE_TYPES.values())}  # of a tensor type the first


def random_rows(type: TensorType, rows: int, cols: int, seed: list[int]) -> Iterator[NDArray[np.uint8]]:
    """The bytes of a matrix [rows, cols], some rows at a time; its values have a mean square of about 1 / cols."""
    rng = np.random.default_rng(seed)
    row_bytes = type.row_bytes(cols)
    for start in range(0, rows, step := max(1, CHUNK // row_bytes)):
        n = min(step, rows - start)
        if not type.quantized:
            values = (rng.standard_normal((n, cols), np.float32) / np.sqrt(cols)).astype(np.float32)
            yield (rounded_to_bfloat16(values) if type.name == "bf16" else values.astype(type.block)).view(np.uint8)
            continue
        blocks = rng.integers(0, 256, n * row_bytes, np.uint8).view(type.block)
        spread = SPREADS.get(type.name, 4.6)
        for name, size in (("d", 1.0), ("m", -0.5 * spread * 3.5), ("dmin", 1.0)):
            if name in blocks.dtype.names:
                scale = size * (0.5 + rng.random(len(blocks), np.float32))
                blocks[name] = scale / (spread * np.sqrt(cols))
        yield blocks.view(np.uint8)


def matrices(h: ModelParams) -> Iterator[tuple[str, int, int]]:
    """Names and shapes of all matrices, in the order of the file."""
    yield "tok_embeddings.weight", h.n_vocab, h.n_embd
    yield "output.weight", h.n_vocab, h.n_embd
    for i in range(h.n_layer):
        for name in ("wq", "wk", "wv", "wo"):
            yield f"layers.{i}.attention.{name}.weight", h.n_embd, h.n_embd
        yield f"layers.{i}.feed_forward.w1.weight", h.n_ff, h.n_embd
        yield f"layers.{i}.feed_forward.w2.weight", h.n_embd, h.n_ff
        yield f"layers.{i}.feed_forward.w3.weight", h.n_ff, h.n_embd


def random_model(
    path: Path,
    h: ModelParams,
    version: int = 1,
    type_name: str = "q4_0",
    output_type: str | None = None,
    seed: int = 0,
    container: str = "ggjt",
) -> int:
    """Write the model and return its size. `output_type`: of the output and embedding matrices, if another."""
    f32 = type_named("f32", container, version)
    types = {
        name: type_named(output_type if output_type and "layers" not in name else type_name, container, version)
        for name, _, _ in matrices(h)
    }
    rng = np.random.default_rng(seed)
    norms = ["norm.weight"]
    for i in range(h.n_layer):
        norms += [f"layers.{i}.attention_norm.weight", f"layers.{i}.ffn_norm.weight"]
    tensors = []
    for name in norms:
        values = (1 + 0.1 * rng.standard_normal(h.n_embd)).astype("<f4")
        tensors.append(OutTensor(name, f32, (h.n_embd,), lambda values=values: [values]))
    for i, (name, rows, cols) in enumerate(matrices(h)):
        make = lambda type=types[name], rows=rows, cols=cols, i=i: random_rows(type, rows, cols, [seed, i])  # noqa: E731
        tensors.append(OutTensor(name, types[name], (rows, cols), make))
    return write_model(path, container, version, h, pieces(h.n_vocab), tensors)


def pieces(n_vocab: int) -> Iterator[tuple[bytes, float]]:
    """The special tokens, every byte, and " 0", " 1" …: any text can be cut into these, by others' programs too."""
    first = [b" \xe2\x81\x87 ", b"", b"", *(bytes([value]) for value in range(256))]
    for i in range(n_vocab):
        yield (first[i], 0.0) if i < len(first) else (f" {i - len(first)}".encode(), -float(i))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--n-vocab", type=int, default=32000)
    parser.add_argument("--n-embd", type=int, default=4096)
    parser.add_argument("--n-mult", type=int, default=256)
    parser.add_argument("--n-head", type=int, default=32)
    parser.add_argument("--n-layer", type=int, default=32)
    parser.add_argument("--type", default="q4_0", help="q4_0, q4_1, q5_0, q5_1, q8_0, f16, f32 …")
    parser.add_argument("--container", default="ggjt", help="ggjt (the default) or gguf")
    parser.add_argument("--version", type=int, default=1, help="of the container: 1, 2 or 3")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    h = ModelParams.from_header(
        a.n_vocab, a.n_embd, a.n_mult, a.n_head, a.n_layer, a.n_embd // a.n_head, FTYPES[a.type]
    )
    size = random_model(a.path, h, a.version, a.type, seed=a.seed, container=a.container)
    print(f"{a.path}: {size:,} bytes")


if __name__ == "__main__":
    main()
