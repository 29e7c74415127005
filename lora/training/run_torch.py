"""One stage on one's own data with the torch engine: what ``train stage1|stage2|instruct --engine torch`` runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from ggmlpy.files.errors import UsageError
from ggmlpy.files.paths import refuse_directory
from ggmlpy.formats.model_params import ModelParams
from llama_ref.checkpoint import LazyTensor, open_checkpoint
from llama_ref.checkpoint.layout import Checkpoint
from llama_ref.vocabulary.sentencepiece_model import read_sentencepiece
from lora.merging.resize import grow

from .loop import Progress
from .memory import GIB, fewest_cards, torch_bytes
from .model import Weights, fresh_pairs
from .recipe import WHOLE, StageNumbers
from .run_stage import StageInput, prepare_input, prepared_blocks, publish, whole_tensors
from .stages import EMBEDDINGS
from .torch_engine import Processes, TorchRun, processes
from .torch_model import build

__all__ = ["train_torch"]


def train_torch(
    name: str,
    given: StageInput,
    output: str | os.PathLike[str],
    stage: StageNumbers,
    *,
    recipe: str,
    resume: bool = False,
    report: Callable[[Progress], object] | None = None,
) -> TorchRun:
    """Train a stage on all processes and publish the adapter; arguments as those of ``train``.

    Raises:
        UsageError: no base, too small cards, batches that cannot be shared out evenly.
        FormatError: a file is bad or missing.
    """
    refuse_directory(output, [given.base, given.adapter])
    if given.base is None:
        raise UsageError(f"{name} starts from a model: name its directory with --base")
    who, work, tokenizer = processes(), Path(output) / "work", read_sentencepiece(given.tokenizer)
    work.mkdir(parents=True, exist_ok=True)
    if who.first:
        prepare_input(name, given, recipe, stage, work)
    dist.barrier()
    stream = prepared_blocks(name, given, recipe, stage, work)
    with open_checkpoint(given.base) as checkpoint:
        shape, n_before = checkpoint.params, checkpoint.n_vocab
        require_card(shape.changed(n_vocab=len(tokenizer)), stage, who)
        tensors = _grown(checkpoint, given, len(tokenizer), stage.settings.seed)
        model = _model(tensors, shape, len(tokenizer), stage, who)
        whole = {name: tensors[name].f32() for name in EMBEDDINGS} if who.first else {}
    run = TorchRun(model, stream, shape, stage, who, folder=work)
    if resume:
        run.resume()
    finished, weights = run.train(report=report), run.weights()
    if finished and who.first:
        publish(output, given, stage, shape, tokenizer, whole | weights, n_before)
    dist.barrier()
    return run


def _grown(checkpoint: Checkpoint, given: StageInput, n_vocab: int, seed: int) -> dict[str, LazyTensor]:
    """The base, with what stage one published and with rows for new tokens: the numpy engine's."""
    tensors = checkpoint.tensors | (whole_tensors(given.adapter) if given.adapter else {})
    return tensors | {name: grow(_in_float32(tensors[name]), n_vocab, "normal", seed=seed) for name in EMBEDDINGS}


def _in_float32(tensor: LazyTensor) -> LazyTensor:
    return tensor.with_(dtype="float32", read=lambda a, b: tensor.rows(a, b).astype(np.float32))


def _model(
    tensors: Mapping[str, LazyTensor], shape: ModelParams, n_vocab: int, stage: StageNumbers, who: Processes
) -> torch.nn.Module:
    start: Weights = {}
    if stage.lora:
        start |= fresh_pairs({name: tensor.shape for name, tensor in tensors.items()}, stage.lora, stage.settings.seed)
    start |= {WHOLE[name]: tensors[WHOLE[name]].f32() for name in stage.modules_to_save}
    cuda = who.device.type == "cuda"
    dtype = torch.bfloat16 if cuda else None
    return build(tensors, start, shape, n_vocab, stage.lora, device=who.device, dtype=dtype, checkpointing=cuda)


def require_card(shape: ModelParams, stage: StageNumbers, who: Processes) -> None:
    """Refuse, before anything is read, what the cards cannot hold.

    Raises:
        UsageError: with both numbers, and the fewest cards that do.
    """
    if who.device.type != "cuda":
        return
    there, needed = torch.cuda.get_device_properties(who.device).total_memory, torch_bytes(shape, stage, who.n)
    if needed > there:
        fewest = fewest_cards(partial(torch_bytes, shape, stage), there)
        more = f"{fewest} such cards do" if fewest else "no number of such cards does; choose fewer --rows"
        raise UsageError(
            f"each of {who.n} cards needs about {needed / GIB:.1f} GiB of memory, and this one has"
            f" {there / GIB:.1f} GiB; {more}"
        )
