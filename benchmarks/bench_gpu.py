"""The torch engine on one card: whether its losses are right, its tokens a second, its memory, its share of the card.

    python benchmarks/bench_gpu.py                              # all runs below, about five minutes on an H100
    python benchmarks/bench_gpu.py --runs 1b,7b --json gpu.json
    python benchmarks/bench_gpu.py --tiny                       # the same runs at a size for a processor

========  ==============================================================================================================
golden    the golden runs of stage two in float32: losses within 1e-4 (needs --golden, the folder of the golden recipe)
110m      12 layers of 768, all weights trained, 32 rows of 512
1b        16 layers of 2048, vocabulary 49,954, LoRA and embeddings, 32 rows of 512
7b        LLaMA 7B's shape, LoRA and embeddings, 12 rows of 512
========  ==============================================================================================================

Weights and texts are random and are made on the spot; layers compute in bfloat16 with activation checkpointing, as in
``train --engine torch``. A line is printed after each ten updates and the summary of a run as soon as it ends; a run
that fails is told, and the next begins. MFU
counts what training asks for, 4P + 2T operations a token and attention's (P parameters, T of them trained); HFU adds
the second forward pass of checkpointing. Memory stands beside the number with which ``train`` refuses small cards.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ggmlpy.formats.model_params import ModelParams, model_named  # noqa: E402
from ggmlpy.formats.tensor_names import expected_shapes  # noqa: E402
from llama_ref.checkpoint import LazyTensor, open_checkpoint  # noqa: E402
from lora.training.loop import Progress  # noqa: E402
from lora.training.memory import GIB, count_parameters, torch_bytes  # noqa: E402
from lora.training.model import fresh_pairs  # noqa: E402
from lora.training.plan import CARDS  # noqa: E402
from lora.training.recipe import WHOLE, StageNumbers, load_recipe  # noqa: E402
from lora.training.torch_engine import Processes, TorchRun, processes  # noqa: E402
from lora.training.torch_model import build  # noqa: E402
from tests.lora.golden_recipe import ReplayedRows, golden_numbers, golden_start  # noqa: E402

WARM_UP = 10  # updates that are not counted: kernels are chosen, memory is claimed
PANEL = np.random.default_rng(0).standard_normal(1 << 20, np.float32) * np.float32(0.02)


@dataclass(frozen=True)
class Size:
    """One run: the model, and how much of it is trained with what batch."""

    shape: ModelParams
    everything: bool
    rows: int
    length: int
    n_steps: int


SIZES = {
    "110m": Size(ModelParams(n_vocab=32000, n_embd=768, n_layer=12, n_head=12, n_mult=256), True, 32, 512, 100),
    "1b": Size(ModelParams(n_vocab=49954, n_embd=2048, n_layer=16, n_head=16, n_ff=5632), False, 32, 512, 60),
    "7b": Size(model_named("7B").changed(n_vocab=49954), False, 12, 512, 30),
}


def tiny(size: Size) -> Size:
    """The same run for a processor."""
    shape = size.shape.changed(n_vocab=320, n_embd=64, n_head=4, n_layer=2, n_mult=32, n_ff=None)
    return replace(size, shape=shape, rows=2, length=32, n_steps=WARM_UP + 5)


class RandomRows:
    """Endless rows of random tokens, all of them targets, as the engine asks for them."""

    def __init__(self, n_vocab: int, rows: int, length: int) -> None:
        self.n_vocab, self.rows, self.length, self.data = n_vocab, rows, length, self

    def of_update(self, step: int, accumulation: int) -> range:
        return range(step * accumulation, (step + 1) * accumulation)

    def rows_of(self, number: int) -> list[int]:
        return list(range(number * self.rows, (number + 1) * self.rows))

    def row(self, number: int) -> np.ndarray:
        return np.random.default_rng(number).integers(3, self.n_vocab, self.length)

    labels = row

    def n_targets(self, number: int) -> int:
        return self.length - 1

    def identity(self) -> dict[str, Any]:
        return {}


def numbers_of(size: Size) -> StageNumbers:
    """Today's instruction tuning, one micro-batch an update; or all weights, without pairs."""
    usual = load_recipe("today").stage("instruct")
    settings = replace(usual.settings, n_steps=size.n_steps)
    sizes = {"settings": settings, "rows": size.rows, "batch": size.rows, "length": size.length}
    return replace(usual, **sizes, **({"lora": None, "modules_to_save": ()} if size.everything else {}))


def random_tensors(shape: ModelParams) -> dict[str, LazyTensor]:
    """A random model, which is made as it is read; norms are one."""

    def tensor(name: str, sides: tuple[int, ...]) -> LazyTensor:
        def read(start: int, stop: int) -> np.ndarray:
            return np.resize(PANEL, (stop - start, *sides[1:])) if len(sides) > 1 else np.ones(stop - start, "f4")

        return LazyTensor(name, sides, "float32", read, layout="meta")

    return {name: tensor(name, sides) for name, sides in expected_shapes(shape).items()}


def random_run(size: Size, who: Processes) -> TorchRun:
    """The engine on a random model of that size."""
    stage, tensors, cuda = numbers_of(size), random_tensors(size.shape), who.device.type == "cuda"
    names = list(tensors) if stage.everything else [WHOLE[name] for name in stage.modules_to_save]
    start = {name: tensors[name].f32() for name in names}
    if stage.lora:
        start |= fresh_pairs({name: each.shape for name, each in tensors.items()}, stage.lora, seed=0)
    model = build(
        tensors, start, size.shape, size.shape.n_vocab, stage.lora,
        device=who.device, dtype=torch.bfloat16, checkpointing=cuda,
    )  # fmt: skip
    return TorchRun(model, RandomRows(size.shape.n_vocab, size.rows, size.length), size.shape, stage, who)


def peak_tflops(name: str) -> float | None:
    """The card's speed by the table of plans; None: no card of that table."""
    found = [card.tflops for card in CARDS if card.name.split("-")[0].lower() in name.lower()]
    return found[0] if found else None


def summary(size: Size, log: list[Progress], who: Processes) -> dict[str, Any]:
    """Speed, share of the card, and memory, from the updates behind the warm-up."""
    shape, stage = size.shape, numbers_of(size)
    counts = count_parameters(shape, stage)
    seconds = statistics.median(each.seconds for each in log[WARM_UP:])
    speed = size.rows * size.length / seconds
    attention = 12 * shape.n_layer * shape.n_embd * size.length
    operations = 4 * counts.everything + 2 * counts.trained + attention
    again = 2 * counts.everything + attention / 3
    found: dict[str, Any] = {
        "parameters": counts.everything, "trained": counts.trained, "updates": len(log), "tokens/s": round(speed, 1),
        "first loss": log[0].loss, "last loss": log[-1].loss,
    }  # fmt: skip
    if who.device.type == "cuda":
        peak = peak_tflops(torch.cuda.get_device_name(who.device))
        found["GiB at the peak"] = torch.cuda.max_memory_allocated(who.device) / GIB
        found["GiB planned"] = torch_bytes(shape, stage, who.n) / GIB
        if peak:
            found["MFU"] = speed * operations / (peak * 1e12)
            found["HFU"] = speed * (operations + again) / (peak * 1e12)
    return found


def golden_run(folder: Path, base: Path, who: Processes) -> dict[str, Any]:
    """Stage two in float32, with the vocabulary's own weights, against the losses of today's Trainer."""
    stage = golden_numbers(folder, "stage2", "today")
    with open_checkpoint(base) as checkpoint:
        shape = checkpoint.params
        start, frozen = golden_start(folder / "stage2" / "start.safetensors", shape, "stage2")
        n_vocab, tensors = len(start["tok_embeddings.weight"]), {**checkpoint.tensors, **frozen}
        model = build(tensors, start, shape, n_vocab, stage.lora, device=who.device)
    run = TorchRun(model, ReplayedRows(folder / "stage2" / "batches.json"), shape, stage, who)  # type: ignore[arg-type]
    run.train()
    steps = json.loads((folder / "stage2" / "today.json").read_bytes())["runs"]["one process"]
    off = max(abs(done.loss / step["loss"] - 1) for done, step in zip(run.log, steps))
    done_all = len(run.log) == len(steps)
    return {"updates": len(run.log), "largest relative deviation of a loss": off, "right": done_all and off < 1e-4}


def tell(done: Progress) -> None:
    """A line after each ten updates."""
    if done.step % 10 == 0:
        print(f"  update {done.step}: loss {done.loss:.4f}, {done.n_tokens / done.seconds:.0f} tokens/s", flush=True)


def measured(name: str, args: argparse.Namespace, who: Processes) -> dict[str, Any]:
    """What one run found."""
    if name == "golden":
        return golden_run(args.golden, args.base or args.golden / "base", who)
    began, size = time.perf_counter(), tiny(SIZES[name]) if args.tiny else SIZES[name]
    run = random_run(size, who)
    print(f"{name}: made in {time.perf_counter() - began:.1f} s", flush=True)
    run.train(report=tell)
    return summary(size, run.log, who)


def all_measured(names: list[str], args: argparse.Namespace, who: Processes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each run that was asked for, as it ends; each begins on an empty card."""
    for name in names:
        if who.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(who.device)
        began = time.perf_counter()
        try:
            found = measured(name, args, who)
        except Exception as error:  # the runs behind it are worth having
            found = {"failed": f"{type(error).__name__}: {error}"}
        yield name, {**found, "seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default=f"golden,{','.join(SIZES)}", help="which, in this order")
    parser.add_argument("--golden", type=Path, help="folder of the golden runs of the recipe")
    parser.add_argument("--base", type=Path, help="model of the golden runs (default: base in their folder)")
    parser.add_argument("--tiny", action="store_true", help="at a size for a processor")
    parser.add_argument("--json", type=Path, help="write all results there, too, after each run")
    args = parser.parse_args()
    names, results = args.runs.split(","), {}
    if args.golden is None and "golden" in names:
        names.remove("golden")
        print("golden: left out, for --golden names no folder", flush=True)
    who = processes()
    device = torch.cuda.get_device_name(who.device) if who.device.type == "cuda" else "processor"
    print(f"torch {torch.__version__}, {device}", flush=True)
    for name, found in all_measured(names, args, who):
        results[name] = found
        words = (f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in found.items())
        print(f"{name}: {', '.join(words)}", flush=True)
        if args.json:
            args.json.write_text(json.dumps({"device": device, "runs": results}, indent=1))
    torch.distributed.destroy_process_group()
    sys.exit(any("failed" in found for found in results.values()))


if __name__ == "__main__":
    main()
