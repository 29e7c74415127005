"""A checkpoint as transformers' LLaMA on torch, with LoRA pairs, shared out over all processes.

The model is transformers' own (``LlamaForCausalLM``); what is added is a path through two small matrices beside those
that the recipe names. Each layer and the root are a group of ``fully_shard`` (FSDP2): weights are float32 and shared
out, a layer is gathered in bfloat16 when it is needed. One process alone runs the same code.

Tensors are read one at a time, so that no process ever holds the whole model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.tensor_names import rename
from llama_ref.checkpoint import LazyTensor
from llama_ref.checkpoint.layout import in_layout
from llama_ref.checkpoint.params import config_json

from .model import Lora

__all__ = ["LoraLinear", "build", "full", "trained_parameters"]

SIDES = {".lora_A": "lora_A", ".lora_B": "lora_B"}


class LoraLinear(nn.Module):
    """``x W^T + (alpha / r) * dropout(x) A^T B^T``; W is frozen."""

    def __init__(self, base: nn.Linear, lora: Lora) -> None:
        super().__init__()
        self.weight, self.scale, self.dropout = base.weight, lora.scale, nn.Dropout(lora.dropout)
        empty = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.lora_A = nn.Parameter(torch.empty(lora.r, base.in_features, **empty))
        self.lora_B = nn.Parameter(torch.empty(base.out_features, lora.r, **empty))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = nn.functional.linear(self.dropout(x), self.lora_A)
        return nn.functional.linear(x, self.weight) + nn.functional.linear(low, self.lora_B) * self.scale


def build(
    tensors: Mapping[str, LazyTensor],
    start: Mapping[str, np.ndarray],
    shape: ModelParams,
    n_vocab: int,
    lora: Lora | None,
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
    checkpointing: bool = False,
) -> nn.Module:
    """The model on all processes; what ``start`` names is trained.

    Args:
        tensors: of the checkpoint, by Meta name, in Meta's order of rows.
        start: Meta name -> what a trained tensor begins with; pairs as ``X.lora_A`` and ``X.lora_B``.
        dtype: in which layers are computed; None: as the weights are, in float32.
        checkpointing: compute each layer's inner values anew in the backward pass.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**json.loads(json.dumps(config_json(shape, n_vocab, dtype="float32"))))
    config.pad_token_id, config.use_cache = None, False  # a padding row would get no gradient
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(config).float()
        _add_pairs(model, lora)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_meta_name(name) in start)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32 if dtype else None)
    for layer in model.model.layers:
        fully_shard(layer, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    model.to_empty(device=device)
    _reset_buffers(model, config, device)
    for name, parameter in model.named_parameters():
        meta = _meta_name(name)
        array = start[meta] if meta in start else tensors[meta].f32()
        store(parameter, to_huggingface(meta, array, shape))
    return model.train()


def _add_pairs(model: Any, lora: Lora | None) -> None:
    if lora is None:
        return
    for layer in model.model.layers:
        for name, module in list(layer.named_modules()):
            if isinstance(module, nn.Linear) and _module_target(name) in lora.targets:
                parent, _, own = name.rpartition(".")
                setattr(layer.get_submodule(parent), own, LoraLinear(module, lora))


def _module_target(name: str) -> str:
    """Meta's short name of a matrix of a layer: "self_attn.q_proj" is "wq"."""
    return rename(f"model.layers.0.{name}.weight", "meta").split(".")[-2]


def _reset_buffers(model: Any, config: Any, device: torch.device) -> None:
    """Rotary frequencies are no weights; they are computed again after the model has left the meta device."""
    with device:
        model.model.rotary_emb = type(model.model.rotary_emb)(config=config)


# ── names and values ──────────────────────────────────────────────────────────────────────────────────────────────────


def _meta_name(name: str) -> str:
    """Our name of a parameter of transformers' model."""
    for side in SIDES:
        if name.endswith(side):
            return rename(name.removesuffix(side) + ".weight", "meta").removesuffix(".weight") + side
    return rename(name, "meta")


def to_huggingface(name: str, array: np.ndarray, shape: ModelParams) -> np.ndarray:
    """A tensor by Meta name with its rows in transformers' order."""
    return _reordered(name, array, shape, "meta", "huggingface")


def to_meta(name: str, array: np.ndarray, shape: ModelParams) -> np.ndarray:
    """The other way round."""
    return _reordered(name, array, shape, "huggingface", "meta")


def _reordered(name: str, array: np.ndarray, shape: ModelParams, now: str, then: Any) -> np.ndarray:
    if name.endswith(".lora_A"):
        return array
    tensor = LazyTensor.of_array(name.replace(".lora_B", ".weight"), array, layout=now)
    return in_layout(tensor, then, shape).numpy()


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained, by Meta name."""
    return {_meta_name(name): p for name, p in model.named_parameters() if p.requires_grad}


def store(target: torch.Tensor, array: np.ndarray) -> None:
    """Put a whole tensor, the same on every process, into the part that this process holds."""
    value = torch.from_numpy(np.array(array, np.float32)).to(target.device)
    with torch.no_grad():
        if isinstance(target, DTensor):
            value = distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
        target.copy_(value)


def full(tensor: torch.Tensor) -> np.ndarray:
    """A whole tensor on every process; all must ask for it."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().cpu().numpy()
