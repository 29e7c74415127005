"""Which rows an update takes: the orders of the original's libraries, without them.

======================  ===============================================================================================
:func:`split_order`     which rows are for evaluation: ``datasets`` seeds numpy's PCG64 with a word of its old generator
:func:`torch_order`     an epoch's order: ``torch.randperm`` of a seed on a CPU, for less than 2^32 / 20 rows
======================  ===============================================================================================

Sources: datasets 2.11.0 ``train_test_split``; torch ``randperm_cpu``, which shuffles from the front with Mersenne
Twister's words.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["split_order", "torch_order"]


def split_order(n: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows for training and those for evaluation, both in the split's order; the latter are ``ceil(n * share)``.

    >>> split_order(5, 0.2, 42)
    (array([2, 3, 1, 0]), array([4]))
    """
    state = np.random.RandomState(seed).get_state(legacy=False)["state"]
    order = np.random.default_rng(int(state["key"][state["pos"] % 624])).permutation(n)
    n_held = math.ceil(n * share)
    return order[n_held:], order[:n_held]


def torch_order(n: int, seed: int) -> np.ndarray:
    """``torch.randperm(n, generator=torch.Generator().manual_seed(seed))``, which takes a seed's lower 32 bits.

    >>> torch_order(7, 0)
    array([4, 0, 5, 3, 2, 6, 1])
    """
    words = np.random.RandomState(seed % (1 << 32)).randint(0, 1 << 32, max(0, n - 1), dtype=np.uint32)
    steps = (words.astype(np.int64) % np.arange(n, 1, -1)).tolist()
    order = list(range(n))
    for i, step in enumerate(steps):
        order[i], order[i + step] = order[i + step], order[i]
    return np.array(order, np.int64)
