"""A stage for those who train with other programs: token ids, and the recipe's numbers in their words.

==========================  ===========================================================================================
``train.jsonl``             a line per row: input_ids, attention_mask, labels; as every loader of Hugging Face reads it
``validation.jsonl``        the rows held out, if there are any
``arguments.json``          transformers' TrainingArguments (``HfArgumentParser.parse_json_file``)
``adapter.json``            PEFT's LoraConfig
``ds_zero2.json``           DeepSpeed ZeRO-2, the original's ``ds_zero2_no_offload.json``
``axolotl.yml``             the same for axolotl
``DIFFERENCES.txt``         what will differ from the recipe, and why
==========================  ===========================================================================================

Source: scripts/training/run_pt.sh, run_sft.sh and ds_zero2_no_offload.json of Chinese-LLaMA-Alpaca v5.0; Trainer of
transformers 5.24.0, whose order of rows is that of :mod:`lora.training.order`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import UsageError

from .model import Lora
from .prepared import PreparedData, open_prepared, rows_without_target
from .recipe import MODULES, StageNumbers, split_modules

__all__ = ["differences", "export_stage"]

ROWS, HELD_OUT, ZERO_2 = "train.jsonl", "validation.jsonl", "ds_zero2.json"

DEEPSPEED = {
    "fp16": {
        "enabled": "auto",
        "loss_scale": 0,
        "loss_scale_window": 100,
        "initial_scale_power": 16,
        "hysteresis": 2,
        "min_loss_scale": 1e-10,
    },
    "bf16": {"enabled": "auto"},
    "zero_optimization": {
        "stage": 2,
        "allgather_partitions": True,
        "allgather_bucket_size": 1e8,
        "overlap_comm": True,
        "reduce_scatter": True,
        "reduce_bucket_size": 1e8,
        "contiguous_gradients": True,
    },
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
}


def export_stage(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    stage: StageNumbers,
    n_cards: int,
    base: str = "BASE_DIR",
    progress: Callable[[int], object] = lambda n: None,
) -> list[str]:
    """Write the folder that the head of this module lists.

    Args:
        data: a file of prepared data.
        n_cards: decides the accumulation.
        base: where the model to start from will be.
        progress: called with a number of rows after each part.

    Returns:
        What will differ, in sentences.

    Raises:
        UsageError: the batch cannot be shared out over the cards, or no row has a token to learn.
        FormatError: not prepared data, or damaged.
    """
    accumulation, rest = divmod(stage.batch, stage.rows * n_cards)
    if rest or not accumulation:
        raise UsageError(f"an update of {stage.batch} rows cannot be shared out over {n_cards} cards of {stage.rows}")
    folder, told = Path(output), differences(stage)
    with open_prepared(data) as prepared:
        rows_without_target(prepared)
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in ((ROWS, prepared.train), (HELD_OUT, prepared.validation)):
            if len(rows):
                _write_rows(folder / name, prepared, rows.tolist(), progress)
    arguments = _arguments(stage, accumulation)
    files = {
        "arguments.json": _json(arguments),
        "adapter.json": _json(_adapter(stage, base)),
        ZERO_2: _json(DEEPSPEED),
        "axolotl.yml": _yaml(_axolotl(stage, accumulation, base)),
        "DIFFERENCES.txt": "".join(f"{line}\n" for line in told),
    }
    for name, text in files.items():
        with atomic_write(folder / name) as stream:
            stream.write(text.encode())
    return told


def _write_rows(path: Path, data: PreparedData, rows: list[int], progress: Callable[[int], object]) -> None:
    with atomic_write(path) as stream:
        for number in rows:
            ids, labels = data.row(number).tolist(), data.labels(number).tolist()
            line = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}
            stream.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
            progress(1)


def _arguments(stage: StageNumbers, accumulation: int) -> dict[str, Any]:
    settings = stage.settings
    return {
        "output_dir": "out",
        "max_steps": settings.n_steps,
        "per_device_train_batch_size": stage.rows,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": settings.n_warmup,
        "weight_decay": settings.weight_decay,
        "adam_beta1": settings.betas[0],
        "adam_beta2": settings.betas[1],
        "adam_epsilon": settings.eps,
        "max_grad_norm": settings.clip,
        "optim": "adamw_torch",
        "bf16": True,
        "gradient_checkpointing": True,
        "seed": settings.seed,
        "logging_steps": 10,
        "save_steps": 200,
        "deepspeed": ZERO_2,
        "ddp_find_unused_parameters": False,
    }


def _modules(lora: Lora) -> list[str]:
    return [name for name in MODULES if split_modules((name,))[0] in lora.targets]


def _adapter(stage: StageNumbers, base: str) -> dict[str, Any]:
    lora = stage.lora or Lora(targets=())
    return {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": _modules(lora),
        "modules_to_save": list(stage.modules_to_save) or None,
    }


def _axolotl(stage: StageNumbers, accumulation: int, base: str) -> dict[str, Any]:
    adapter, settings = _adapter(stage, base), stage.settings
    return {
        "base_model": base,
        "datasets": [{"path": ROWS, "ds_type": "json"}],
        "sequence_len": stage.length,
        "sample_packing": False,
        "adapter": "lora" if stage.lora else None,
        "lora_r": adapter["r"],
        "lora_alpha": adapter["lora_alpha"],
        "lora_dropout": adapter["lora_dropout"],
        "lora_target_modules": adapter["target_modules"],
        "lora_modules_to_save": adapter["modules_to_save"],
        "micro_batch_size": stage.rows,
        "gradient_accumulation_steps": accumulation,
        "max_steps": settings.n_steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler": "cosine",
        "warmup_steps": settings.n_warmup,
        "weight_decay": settings.weight_decay,
        "optimizer": "adamw_torch",
        "max_grad_norm": settings.clip,
        "seed": settings.seed,
        "bf16": True,
        "gradient_checkpointing": True,
        "deepspeed": ZERO_2,
        "output_dir": "out",
    }


def differences(stage: StageNumbers) -> list[str]:
    """What those programs compute otherwise than the recipe."""
    return list(_differences(stage))


def _differences(stage: StageNumbers) -> Iterator[str]:
    if stage.settings.optimizer == "adamw_hf":
        yield "optimizer: transformers 5 has no adamw_hf; torch's AdamW adds eps elsewhere and decays first"
    if stage.settings.loss == "mean of means":
        yield "loss: Trainer divides by the targets of the whole update, the recipe takes a mean of means"
    if stage.settings.epoch_end == "carried over":
        yield "an epoch's end: Trainer makes a smaller update of the batches left, the recipe completes it"
    if stage.lora is None:
        yield "LoRA: there are no pairs in this stage; freeze everything but modules_to_save yourself"
    if stage.modules_to_save:
        yield (
            "embeddings: with a base in bf16 or fp16 PEFT leaves them in half precision, too coarse for the rate;"
            " load the base in float32, or use DeepSpeed, which keeps float32 masters"
        )
        yield "new rows: the base must have been grown to the tokenizer's size before, or its rows are drawn by torch"
    if stage.lora:
        yield "pairs: lora_A begins with other random numbers; losses part from the third update on"
    yield "precision: bf16 differs from float32 by about 1.5e-3 in the losses of 20 updates"
    yield "dropout: other masks, and in stages with dropout other losses"


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def _yaml(values: dict[str, Any]) -> str:
    """Each value as JSON, which YAML takes; floats with a point, or YAML 1.1 reads 1e-08 as text.

    >>> print(_yaml({"rate": 2e-4, "names": ["a"], "none": None}), end="")
    rate: 0.0002
    names: ["a"]
    none: null
    """
    return "".join(f"{key}: {_number(value)}\n" for key, value in values.items())


def _number(value: Any) -> str:
    if not isinstance(value, float):
        return json.dumps(value)
    digits = f"{value:.10f}".rstrip("0")
    return digits + "0" if digits.endswith(".") else digits
