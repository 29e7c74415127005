"""One training run: batches in, updated weights out, a log of both, and checkpoints that resume bit for bit.

Everything random is a function of the seed and the step (the order of data, the dropout masks), so a checkpoint holds
the trained tensors, AdamW's two means and the step, and an interrupted run ends with the same bits as an uninterrupted
one. That takes the same number of BLAS threads on the same kind of processor; with one thread
(``OPENBLAS_NUM_THREADS=1``) nothing depends on how busy the machine is.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import FormatError, MissingFileError, UsageError
from ggmlpy.files.npy import read_npz
from ggmlpy.formats.model_params import ModelParams

from .data import Batch, Packing
from .model import Dropout, Lora, Weights, loss_and_gradients
from .optim import AdamW, clip, warmup_cosine
from .prepared import Blocks

__all__ = ["Progress", "Run", "Settings", "evaluate", "read_log"]


@dataclass(frozen=True)
class Settings:
    """How a run trains.

    Attributes:
        learning_rate: at its highest.
        n_steps: updates.
        warmup: the part of the steps in which the rate rises.
        accumulation: batches whose gradients are summed for one update.
        clip: longest gradient.
        seed: of the dropout masks.
        optimizer: "adamw_torch" or "adamw_hf".
        loss: "targets of the update" divides by their number; "mean of means" gives each batch the same weight.
        first_step: what the schedule is asked for at the first update.
        warmup_rounding: "ceil" or "round".
        epoch_end: whether batches are "carried over" into the next epoch's, or make a "smaller update".
    """

    learning_rate: float
    n_steps: int
    warmup: float = 0.03
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    accumulation: int = 1
    clip: float = 1.0
    seed: int = 0
    eps: float = 1e-8
    optimizer: str = "adamw_torch"
    loss: str = "targets of the update"
    first_step: int = 1
    warmup_rounding: str = "round"
    epoch_end: str = "carried over"

    def __post_init__(self) -> None:
        wrong = {
            "the learning rate must be above 0": self.learning_rate <= 0,
            "the warm-up must be a part of the steps, from 0 to 1": not 0 <= self.warmup <= 1,
            "the weight decay must be at least 0": self.weight_decay < 0,
        }
        if found := [words for words, is_so in wrong.items() if is_so]:
            raise UsageError(found[0])

    def rate(self, step: int) -> float:
        """The learning rate of update ``step`` (from 0).

        >>> original = Settings(1e-3, 20, warmup=0.05, first_step=0, warmup_rounding="ceil")
        >>> [original.rate(step) for step in (0, 1)], round(original.rate(19), 8)
        ([0.0, 0.001], 6.82e-06)
        """
        steps = step + self.first_step, self.n_steps + self.first_step
        return self.learning_rate * warmup_cosine(*steps, self.n_warmup)

    @property
    def n_warmup(self) -> int:
        """Steps in which the rate rises."""
        exact = self.n_steps * self.warmup
        return math.ceil(exact) if self.warmup_rounding == "ceil" else round(exact)


@dataclass(frozen=True)
class Progress:
    """One line of the log."""

    step: int  # updates done
    loss: float  # nats a target, of this step's batches
    learning_rate: float
    gradient: float  # its length before clipping
    n_tokens: int  # of this step
    seconds: float  # of this step


class Run:
    """A training run over ``packing``; changes ``weights`` in place.

    Args:
        weights: all tensors of the model, LoRA pairs included.
        trained: names of those that change.
        folder: where ``log.jsonl`` and ``checkpoint.npz`` go; None: nowhere.
        checkpoint_every: steps between checkpoints; there is always one at the end.

    Raises:
        UsageError: the checkpoint in ``folder`` belongs to another run.
    """

    def __init__(
        self,
        weights: Weights,
        trained: list[str],
        shape: ModelParams,
        packing: Packing | Blocks,
        settings: Settings,
        *,
        lora: Lora | None = None,
        folder: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 100,
    ) -> None:
        self.weights, self.shape, self.packing, self.settings = weights, shape, packing, settings
        self.lora, self.folder, self.checkpoint_every = lora, Path(folder) if folder else None, checkpoint_every
        self.optimizer = AdamW(
            weights,
            tuple(trained),
            settings.betas,
            settings.eps,
            weight_decay=settings.weight_decay,
            variant=settings.optimizer,
        )
        self.log: list[Progress] = []

    @property
    def step(self) -> int:
        """Updates done."""
        return self.optimizer.step

    def train(self, until: int | None = None, report: Callable[[Progress], object] | None = None) -> None:
        """Train to step ``until`` (default: the end); ``report`` is called after each step."""
        last = self.settings.n_steps if until is None else min(until, self.settings.n_steps)
        while self.step < last:
            done = self._one_step()
            self.log.append(done)
            if report:
                report(done)
            if done.step % self.checkpoint_every == 0 or done.step == last:
                self.save()

    def _one_step(self) -> Progress:
        began, settings, step = time.perf_counter(), self.settings, self.step
        numbers = self.packing.of_update(step, settings.accumulation)
        batches = [self.packing.batch(number) for number in numbers]
        loss, gradients = 0.0, {}  # type: tuple[float, Weights]
        trained = frozenset(self.optimizer.trained)
        for number, batch, divisor in zip(numbers, batches, _divisors(batches, settings.loss)):
            dropout = Dropout(self.lora.dropout, settings.seed, number) if self.lora else None
            part, found = loss_and_gradients(
                self.weights, self.shape, batch, trained, lora=self.lora, dropout=dropout, n_targets=divisor
            )
            loss += part
            gradients = {name: gradients[name] + g for name, g in found.items()} if gradients else found
        length, rate = clip(gradients, settings.clip), settings.rate(step)
        self.optimizer.update(gradients, rate)
        n_tokens = sum(int((batch.documents >= 0).sum()) for batch in batches)
        return Progress(step + 1, loss, rate, length, n_tokens, time.perf_counter() - began)

    # ── checkpoints ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to mean anything."""
        return json.loads(
            json.dumps(
                {
                    "settings": asdict(self.settings),
                    "lora": asdict(self.lora) if self.lora else None,
                    "shapes": {name: self.weights[name].shape for name in self.optimizer.trained},
                    **self.packing.identity(),
                }
            )
        )

    def save(self) -> None:
        """Write the checkpoint, atomically, and the log."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        header = json.dumps({"identity": self._identity(), "step": self.step, "log": [asdict(p) for p in self.log]})
        arrays = {"header": np.frombuffer(header.encode(), np.uint8)}
        for kind, tensors in self._state().items():
            arrays |= {f"{kind}/{name}": tensors[name] for name in self.optimizer.trained}
        with atomic_write(self.folder / "checkpoint.npz") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        with atomic_write(self.folder / "log.jsonl") as file:
            file.write("".join(json.dumps(asdict(progress)) + "\n" for progress in self.log).encode())

    def resume(self) -> bool:
        """Go back to the checkpoint in the folder; False if there is none."""
        path = None if self.folder is None else self.folder / "checkpoint.npz"
        if path is None or not path.is_file():
            return False
        header, arrays = _read_checkpoint(path)
        mine = self._identity()
        different = [key for key in mine if mine[key] != header["identity"].get(key)]
        if different:
            raise UsageError(f"{path} belongs to another run ({', '.join(different)} differ); remove it to begin anew")
        state = [(kind, tensors, name) for kind, tensors in self._state().items() for name in self.optimizer.trained]
        try:
            found = [arrays[f"{kind}/{name}"] for kind, _, name in state]
            odd = [name for (_, tensors, name), new in zip(state, found) if new.shape != tensors[name].shape]
            if odd or type(header["step"]) is not int or header["step"] < 0:
                raise ValueError(f"step {header['step']!r:.40}, other shapes of {odd[:3]}")
            log = [_progress(line) for line in header["log"]]
        except (KeyError, TypeError, ValueError) as error:
            raise _no_checkpoint(path, error) from error
        for (_, tensors, name), new in zip(state, found):
            tensors[name][...] = new
        self.optimizer.step, self.log = header["step"], log
        return True

    def _state(self) -> dict[str, Weights]:
        return {"weight": self.weights, "first": self.optimizer.first, "second": self.optimizer.second}


def _divisors(batches: Sequence[Batch], loss: str) -> list[float]:
    """What each batch's sum of losses is divided by; 1 where there is no target, and the sum is 0."""
    if loss == "mean of means":
        return [(batch.n_targets or math.nan) * len(batches) for batch in batches]
    return [sum(batch.n_targets for batch in batches) or math.nan] * len(batches)


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        arrays = read_npz(path)
        header = json.loads(arrays.pop("header").tobytes())
        if not isinstance(header, dict) or not isinstance(header.get("identity"), dict):
            raise ValueError("the header names no run")
        return header, arrays
    except (FormatError, ValueError, KeyError, RecursionError) as error:
        raise _no_checkpoint(path, error) from error


def _no_checkpoint(path: Path, error: Exception) -> FormatError:
    return FormatError(
        "not a training checkpoint", path=path, cause=str(error)[:200], next_step="remove it to begin the run anew"
    )


def _progress(record: Any) -> Progress:
    """A line of the log, numbers only."""
    if not isinstance(record, dict) or not all(type(value) in (int, float) for value in record.values()):
        raise ValueError(f"not a line of the log: {record!r:.60}")
    return Progress(**record)


def read_log(path: str | os.PathLike[str]) -> list[Progress]:
    """The lines of a ``log.jsonl``.

    Raises:
        MissingFileError: there is none.
        FormatError: it is not such a log.
    """
    try:
        return [_progress(json.loads(line)) for line in Path(path).read_text("utf-8").splitlines()]
    except OSError as error:
        raise MissingFileError(f"cannot read the log: {error.strerror}", path=path) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError("not the log of a training run", path=path, cause=str(error)[:200]) from error


def evaluate(weights: Weights, shape: ModelParams, packing: Packing, *, lora: Lora | None = None) -> float:
    """The mean loss in nats a target over every document, without dropout."""
    total = n_targets = 0.0
    for batch in packing.epoch():
        loss, _ = loss_and_gradients(weights, shape, batch, lora=lora, n_targets=1.0)
        total, n_targets = total + loss, n_targets + batch.n_targets
    return total / n_targets
