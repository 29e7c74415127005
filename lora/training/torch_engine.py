"""The recipe on torch, on one processor or on many machines: ``torchrun --nproc-per-node 8 … --engine torch``.

An update takes the next micro-batches of the prepared data's endless stream, and process r a contiguous part of them.
Which rows form a micro-batch, its dropout masks and what its loss is divided
by do not depend on the number of processes, and neither does the result, but for the order of additions.

``log.jsonl`` has a line per update, and ``tensorboard/`` the same where it is installed. ``checkpoint.safetensors`` has
whole tensors, so that a run goes on with another number of processes; it is written every so many updates, at the end,
and on SIGTERM.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from ggmlpy.files.atomic import writing
from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.formats.model_params import ModelParams
from llama_ref.checkpoint import LazyTensor
from llama_ref.checkpoint.safetensors_file import open_safetensors, write_safetensors

from .loop import Progress
from .model import Weights
from .prepared import IGNORED, Blocks, PreparedData
from .recipe import StageNumbers
from .torch_model import full, store, to_meta, trained_parameters

__all__ = ["Processes", "TorchAdamW", "TorchRun", "processes"]


@dataclass(frozen=True)
class Processes:
    """Who takes part in a run."""

    rank: int
    n: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this one speaks and writes."""
        return self.rank == 0


def processes() -> Processes:
    """Join the processes that torchrun started; without it, this one is alone."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not dist.is_initialized():
        backend = "nccl" if cuda else "gloo"
        if "RANK" in os.environ:
            dist.init_process_group(backend)
        else:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    return Processes(dist.get_rank(), dist.get_world_size(), device)


class TorchAdamW:
    """Both variants of :class:`~lora.training.optim.AdamW` on (parts of) torch's tensors."""

    def __init__(self, trained: Mapping[str, nn.Parameter], stage: StageNumbers) -> None:
        self.trained, self.settings, self.step = trained, stage.settings, 0
        self.first = {name: torch.zeros_like(p) for name, p in trained.items()}
        self.second = {name: torch.zeros_like(p) for name, p in trained.items()}

    @torch.no_grad()
    def update(self, learning_rate: float) -> None:
        """One step down the gradients."""
        self.step += 1
        settings, (b1, b2) = self.settings, self.settings.betas
        c1, c2 = 1 - b1**self.step, math.sqrt(1 - b2**self.step)
        for name, weight in self.trained.items():
            gradient, first, second = weight.grad, self.first[name], self.second[name]
            assert gradient is not None  # for type checkers: all that is trained takes part in the loss
            first.mul_(b1).add_(gradient, alpha=1 - b1)
            second.mul_(b2).add_(gradient * gradient, alpha=1 - b2)
            decay = learning_rate * settings.weight_decay if weight.ndim > 1 else 0.0
            if settings.optimizer == "adamw_hf":
                weight.sub_(learning_rate * c2 / c1 * (first / (second.sqrt() + settings.eps)))
                weight.sub_(decay * weight)
            else:
                weight.mul_(1 - decay)
                weight.sub_(learning_rate / c1 * (first / (second.sqrt() / c2 + settings.eps)))

    def clip(self, limit: float) -> float:
        """Scale the gradients so that their common length is at most ``limit``; returns the length before."""
        gradients = [p.grad for p in self.trained.values() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        length = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if length > limit:
            for gradient in gradients:
                gradient.mul_(limit / (length + 1e-6))
        return length


class TorchRun:
    """A training run on all processes.

    Args:
        model: what :func:`~lora.training.torch_model.build` gave.
        stream: rows in the order in which they are trained on.
        stage: the numbers; ``batch`` rows an update, ``rows`` a micro-batch.
        folder: where the log and checkpoints go; None: nowhere.

    Raises:
        UsageError: the micro-batches of an update cannot be shared out evenly.
    """

    def __init__(
        self,
        model: nn.Module,
        stream: Blocks,
        shape: ModelParams,
        stage: StageNumbers,
        who: Processes,
        *,
        folder: Path | None = None,
        checkpoint_every: int = 200,
    ) -> None:
        self.model, self.stream, self.shape, self.stage, self.who = model, stream, shape, stage, who
        self.folder, self.checkpoint_every = folder, checkpoint_every
        self.n_micro, rest = divmod(stage.batch, stage.rows)
        if rest or self.n_micro % who.n:
            raise UsageError(
                f"an update of {stage.batch} rows, {stage.rows} at a time, cannot be shared out evenly over {who.n}"
                f" processes; choose --batch as a multiple of {stage.rows * who.n}"
            )
        self.optimizer = TorchAdamW(trained_parameters(model), stage)
        self.log: list[Progress] = []
        self._board = _tensorboard(folder / "tensorboard") if folder and who.first else None
        self._stopped = False

    @property
    def step(self) -> int:
        """Updates done."""
        return self.optimizer.step

    def train(self, until: int | None = None, report: Callable[[Progress], object] | None = None) -> bool:
        """Train to step ``until`` (default: the end); False if a signal came first, after a checkpoint."""
        last = min(until or self.stage.settings.n_steps, self.stage.settings.n_steps)
        before = signal.signal(signal.SIGTERM, self._stop)
        try:
            while self.step < last and not self._stopped_anywhere():
                done = self._one_step()
                self.log.append(done)
                self._write_log(done)
                if report and self.who.first:
                    report(done)
                if done.step % self.checkpoint_every == 0 and done.step < last:
                    self.save()
            self.save()
        finally:
            signal.signal(signal.SIGTERM, before)
        return self.step >= last

    def _stop(self, *signal: object) -> None:
        self._stopped = True

    def _stopped_anywhere(self) -> bool:
        flag = torch.tensor(float(self._stopped), device=self.who.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    # ── one update ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _one_step(self) -> Progress:
        began, step, settings = time.perf_counter(), self.step, self.stage.settings
        numbers = self.stream.of_update(step, self.n_micro)
        micros = [self.stream.rows_of(number) for number in numbers]
        targets = [sum(self.stream.data.n_targets(row) for row in micro) for micro in micros]
        losses = torch.zeros(len(micros), dtype=torch.float64, device=self.who.device)
        each = -(-len(micros) // self.who.n)  # as many for every process, or the gathering of weights would hang
        for at in range(each * self.who.rank, each * (self.who.rank + 1)):
            self.model.set_requires_gradient_sync(at == each * (self.who.rank + 1) - 1)
            if at >= len(micros):
                self._backward(micros[0], math.inf)  # an epoch's last update has too few; this adds nothing
                continue
            torch.manual_seed(settings.seed * 1_000_003 + numbers[at])  # the masks of dropout
            losses[at] = self._backward(micros[at], _divisor(targets, at, settings.loss))
        dist.all_reduce(losses)
        missing = [bool(n) for n in targets] if settings.loss == "mean of means" else [any(targets)]
        length, rate = self.optimizer.clip(settings.clip), settings.rate(step)
        self.optimizer.update(rate)
        self.model.zero_grad(set_to_none=True)
        loss = float(losses.sum()) if all(missing) else math.nan
        n_tokens = sum(len(self.stream.data.row(row)) for micro in micros for row in micro)
        return Progress(step + 1, loss, rate, length, n_tokens, time.perf_counter() - began)

    def _backward(self, rows: Sequence[int], divisor: float) -> float:
        ids, labels = (torch.from_numpy(array).to(self.who.device) for array in _padded(self.stream.data, rows))
        logits = self.model(input_ids=ids).logits[:, :-1].float()
        sums = nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
        )
        loss = sums / divisor
        (loss * self.who.n).backward()  # FSDP takes the mean over the processes
        return float(loss.detach())

    # ── checkpoints ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _state(self) -> Iterator[tuple[str, str, torch.Tensor]]:
        for name, weight in self.optimizer.trained.items():
            yield "weight", name, weight
            yield "first", name, self.optimizer.first[name]
            yield "second", name, self.optimizer.second[name]

    def _identity(self) -> str:
        """What must be the same for a checkpoint to mean anything; the number of processes need not."""
        numbers = {"stage": asdict(self.stage), "data": self.stream.identity()}
        return json.dumps(numbers, sort_keys=True, default=list)

    def save(self) -> None:
        """Write the checkpoint, gathered on the first process."""
        if self.folder is None:
            return
        tensors = []
        for kind, name, tensor in self._state():
            array = full(tensor)  # by all processes
            if self.who.first:
                tensors.append(LazyTensor.of_array(f"{kind}/{name}", array))
        if self.who.first:
            path, metadata = self.folder / "checkpoint.safetensors", {"run": self._identity(), "step": str(self.step)}
            write_safetensors(path, tensors, metadata)
        dist.barrier()

    def resume(self) -> bool:
        """Go back to the checkpoint in the folder, whatever number of processes wrote it; False if there is none."""
        path = None if self.folder is None else self.folder / "checkpoint.safetensors"
        if path is None or not path.is_file():
            return False
        with open_safetensors(path) as file:
            if file.metadata.get("run") != self._identity():
                raise UsageError(f"{path} belongs to another run (numbers or data differ); remove it to begin anew")
            try:
                for kind, name, tensor in self._state():
                    store(tensor, file[f"{kind}/{name}"].f32())
                self.optimizer.step = int(file.metadata["step"])
            except (KeyError, ValueError, RuntimeError) as error:
                step = "remove it to begin the run anew"
                raise FormatError(
                    "not a training checkpoint", path=path, cause=str(error)[:200], next_step=step
                ) from error
        return True

    def _write_log(self, done: Progress) -> None:
        if self.folder is not None and self.who.first:
            path = self.folder / "log.jsonl"
            with writing(path), open(path, "w" if done.step == 1 else "a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(done)) + "\n")
        if self._board:
            for name in ("loss", "learning_rate", "gradient"):
                self._board.add_scalar(name, getattr(done, name), done.step)
            self._board.add_scalar("tokens per second", done.n_tokens / done.seconds, done.step)
            self._board.flush()

    def weights(self) -> Weights:
        """What was trained, whole, by Meta name and in Meta's order of rows; all processes must ask for it.

        Raises:
            UsageError: no pair has moved: the run trained nothing.
        """
        found = {name: to_meta(name, full(p), self.shape) for name, p in self.optimizer.trained.items()}
        pairs = [array for name, array in found.items() if name.endswith(".lora_B")]
        if pairs and self.step > 1 and not any(array.any() for array in pairs):
            raise UsageError("no LoRA pair has moved: nothing was trained; look at the rates in log.jsonl")
        return found


def _tensorboard(folder: Path) -> Any:
    """A writer of TensorBoard's files; None where it is not installed."""
    try:
        import tensorboard  # noqa: F401  what torch's writer needs
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))


def _divisor(targets: Sequence[int], number: int, loss: str) -> float:
    """What a micro-batch's sum of losses is divided by."""
    if loss == "mean of means":
        return max(1, targets[number]) * len(targets)
    return max(1, sum(targets))


def _padded(data: PreparedData, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Ids and labels [rows, longest]; what is behind a row's end no other position sees, and it is no target."""
    longest = max(2, *(len(data.row(row)) for row in rows), 2)
    ids, labels = np.zeros((len(rows), longest), np.int64), np.full((len(rows), longest), IGNORED, np.int64)
    for at, row in enumerate(rows):
        own = data.row(row)
        ids[at, : len(own)], labels[at, : len(own)] = own, data.labels(row)
    return ids, labels
