"""AdamW, the learning rate over time, and clipping.

Sources: Loshchilov & Hutter 2019, arXiv:1711.05101 (decoupled weight decay); transformers 4.28.1 ``optimization.py``,
``get_cosine_schedule_with_warmup``; torch ``clip_grad_norm_``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .model import Weights

__all__ = ["AdamW", "clip", "warmup_cosine"]


def warmup_cosine(step: int, n_steps: int, n_warmup: int) -> float:
    """What the learning rate is multiplied with at ``step`` (from 0): a line up to 1, then half a cosine down to 0.

    >>> [round(warmup_cosine(step, 10, 2), 3) for step in (0, 1, 2, 6, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if step < n_warmup:
        return step / max(1, n_warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - n_warmup) / max(1, n_steps - n_warmup))))


def clip(gradients: Mapping[str, np.ndarray], limit: float) -> float:
    """Scale all gradients, in place, so that their common length is at most ``limit``; returns the length before."""
    squares = sum(float(np.dot(g.ravel(), g.ravel())) for g in gradients.values())
    length = math.sqrt(squares)
    if length > limit:
        for gradient in gradients.values():
            gradient *= gradient.dtype.type(limit / (length + 1e-6))
    return length


@dataclass
class AdamW:
    """One optimizer over some of a model's weights, which it changes in place.

    Attributes:
        weight_decay: of matrices; norms (one axis) do not decay.
        variant: "adamw_torch" decays before the step and adds ``eps`` to the corrected root; "adamw_hf", transformers'
            own until 4.28.1, decays after it and adds ``eps`` to the root as it is: 32 times as strong at first.
        step: updates done.
        first, second: running means of gradients and of their squares, by name.
    """

    weights: Weights
    trained: tuple[str, ...]
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    variant: str = "adamw_torch"
    step: int = 0

    def __post_init__(self) -> None:
        self.first = {name: np.zeros_like(self.weights[name]) for name in self.trained}
        self.second = {name: np.zeros_like(self.weights[name]) for name in self.trained}

    def update(self, gradients: Mapping[str, np.ndarray], learning_rate: float) -> None:
        """One step down ``gradients``."""
        self.step += 1
        for name in self.trained:
            self._update_one(name, gradients[name], learning_rate)

    def _update_one(self, name: str, gradient: np.ndarray, learning_rate: float) -> None:
        weight, first, second = self.weights[name], self.first[name], self.second[name]
        number = weight.dtype.type
        b1, b2 = self.betas
        first *= number(b1)
        first += number(1 - b1) * gradient
        second *= number(b2)
        second += number(1 - b2) * gradient * gradient
        decay = learning_rate * self.weight_decay if weight.ndim > 1 else 0.0
        c1, c2 = 1 - b1**self.step, math.sqrt(1 - b2**self.step)
        if self.variant == "adamw_hf":
            weight -= number(learning_rate * c2 / c1) * first / (np.sqrt(second) + number(self.eps))
            weight -= number(decay) * weight
        else:
            weight *= number(1 - decay)
            weight -= number(learning_rate / c1) * first / (np.sqrt(second) * number(1 / c2) + number(self.eps))
