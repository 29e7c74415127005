"""The model that the golden digests of the k-quants were made from: 6 layers of a few matrices, nasty rows included.

``RandomState`` is frozen by numpy's policy, so the file is the same bytes for ever; its own digest is checked first.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ggmlpy import TENSOR_TYPES, ModelParams, OutTensor, write_model

N_LAYER = 6


def matrix(state, rows: int, columns: int) -> np.ndarray:
    """f16, with rows of small integers, mostly zeros, constants, one sign, tiny values, zeros and repetitions."""
    a = state.standard_normal((rows, columns)) * 2.0 ** state.randint(-9, 3, (rows, 1))
    fifth = rows // 5
    a[:fifth] = state.randint(-3, 4, (fifth, columns))
    a[fifth : 2 * fifth] *= state.randint(0, 8, (fifth, columns)) == 0
    a[2 * fifth] = 1.5
    a[2 * fifth + 1 : 2 * fifth + 9] = -np.abs(a[2 * fifth + 1 : 2 * fifth + 9])
    a[3 * fifth : 3 * fifth + 9] = np.abs(a[3 * fifth : 3 * fifth + 9])
    a[3 * fifth + 9 : 4 * fifth] *= 2.0**-20
    a[-1] = 0
    a[-3] = a[-2]
    return a.astype(np.float16)


def write_k_model(path: Path, n_vocab: int) -> Path:
    """``n_vocab`` that isn't a multiple of 256 makes embedding and output fall back to other types."""
    state = np.random.RandomState(n_vocab)
    shapes = {"tok_embeddings.weight": (n_vocab, 256), "output.weight": (n_vocab, 256)}
    for layer in range(N_LAYER):
        for part in ("attention.wq", "attention.wv", "attention.wo", "feed_forward.w2"):
            shapes[f"layers.{layer}.{part}.weight"] = (256, 256)
    tensors = [OutTensor("norm.weight", TENSOR_TYPES["f32"], (256,), lambda: [np.ones(256, np.float32)])]
    for name, shape in shapes.items():
        data = matrix(state, *shape)
        tensors.append(OutTensor(name, TENSOR_TYPES["f16"], shape, lambda data=data: [data]))
    hparams = ModelParams.from_header(n_vocab, 256, 256, 4, N_LAYER, 64, 1)
    write_model(path, "ggjt", 3, hparams, [(b"%d" % i, 0.0) for i in range(n_vocab)], tensors)
    return path
