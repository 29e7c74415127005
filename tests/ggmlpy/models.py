"""Model files for the tests: tiny, valid, made from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ggmlpy import ModelParams, OutTensor, types_of, write_model
from ggmlpy.formats.file_types import FILE_TYPES
from ggmlpy.formats.tensor_names import expected_shapes

FTYPE_OF = {record.type: record.id for record in reversed(FILE_TYPES.values())}  # of a tensor type the first


def random_bytes(rng: np.random.Generator, size: int) -> bytes:
    return rng.integers(0, 256, size, np.uint8).tobytes()


def finite_blocks(rng: np.random.Generator, record, shape) -> np.ndarray:
    """Random blocks whose scales are ordinary numbers: uint8 [nbytes]."""
    n_blocks = int(np.prod(shape)) // record.blck_size
    if record.name == "bf16":
        return (rng.standard_normal(n_blocks).astype("<f4").view("<u4") >> 16).astype("<u2").view(np.uint8)
    if not record.quantized:
        return rng.standard_normal(n_blocks).astype(record.block).view(np.uint8)
    blocks = np.frombuffer(random_bytes(rng, n_blocks * record.type_size), record.block).copy()
    for name in record.scale_fields:
        if blocks[name].dtype.kind == "f":
            blocks[name] = rng.standard_normal(n_blocks)
    if record.name == "iq4_xs":  # its levels and the scales of runs are large
        blocks["d"] /= 1024
    if record.name == "mxfp4":
        blocks["e"] = rng.integers(120, 132, n_blocks)
    if record.name == "iq1_m":  # the upper four bits of the last word are those of the float16: 0x3… is 1/8 to 2
        blocks["scales"][:, 3] = blocks["scales"][:, 3] & 0x0FFF | 0x3000
    return blocks.view(np.uint8)


def write_tiny(
    path: Path,
    container: str = "ggjt",
    version: int = 1,
    type_name: str = "q4_0",
    *,
    hparams: ModelParams | None = None,
    seed: int = 0,
    change=None,
) -> Path:
    """A whole model of one or two layers; ``change`` may edit the list of tensors before it is written."""
    rng = np.random.default_rng(seed)
    hparams = hparams or ModelParams.from_header(20, 32, 32, 2, 1, 16, FTYPE_OF[type_name])
    known = {record.name: record for record in types_of(container, version).values()}
    vocab = [(random_bytes(rng, int(rng.integers(0, 6))), float(-i)) for i in range(hparams.n_vocab)]
    tensors = []
    for name, shape in expected_shapes(hparams).items():
        record = known[type_name if len(shape) == 2 else "f32"]
        data = finite_blocks(rng, record, shape)
        tensors.append(OutTensor(name, record, shape, lambda data=data: [data]))
    if change:
        tensors = change(tensors)
    write_model(path, container, version, hparams, vocab, tensors)
    return path
