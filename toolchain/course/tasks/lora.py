"""Project 6: a LoRA adapter applied to its base."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import FormatError
from ggmlpy.formats.tensor_names import rename
from llama_ref.checkpoint import LazyTensor
from llama_ref.checkpoint.safetensors_file import SafetensorsFile, write_safetensors
from lora.merging.adapter import open_adapter

from ..project import Difference, Mistake, Project

KINDS = ("float32", "float16", "a grown vocabulary", "rslora")
MODULES = {"self_attn.q_proj": (8, 8), "self_attn.v_proj": (8, 8), "mlp.up_proj": (12, 8)}
PREFIX = "base_model.model."
Arrays = dict[str, NDArray[np.float32]]


def make(rng: np.random.RandomState, kind: str, folder: Path) -> Path:
    """A directory with a base, an adapter, and its configuration."""
    source = folder / "input"
    source.mkdir()
    dtype = "float16" if kind == "float16" else "float32"
    rank, alpha = int(rng.choice([2, 4])), int(rng.choice([3, 6, 16]))
    base: dict[str, NDArray[np.generic]] = {"model.norm.weight": rng.randn(8)}
    base |= {f"{module}.weight": rng.randn(5, 8) for module in ("model.embed_tokens", "lm_head")}
    adapter: dict[str, NDArray[np.generic]] = {}
    for module, (rows, columns) in MODULES.items():
        key = f"model.layers.0.{module}"
        base[f"{key}.weight"] = rng.randn(rows, columns)
        adapter[f"{PREFIX}{key}.lora_A.weight"] = rng.randn(rank, columns)
        adapter[f"{PREFIX}{key}.lora_B.weight"] = rng.randn(rows, rank)
    grown = kind == "a grown vocabulary"
    for module in ("model.embed_tokens", "lm_head") if grown else ():
        adapter[f"{PREFIX}{module}.weight"] = rng.randn(7, 8)
    _write(source / "model.safetensors", base, dtype)
    _write(source / "adapter_model.safetensors", adapter, "float32")
    config = {
        "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "bias": "none", "fan_in_fan_out": False,
        "target_modules": [module.split(".")[1] for module in MODULES], "use_rslora": kind == "rslora",
        "modules_to_save": ["embed_tokens", "lm_head"] if grown else None,
    }  # fmt: skip
    (source / "adapter_config.json").write_text(json.dumps(config, indent=1), "utf-8")
    return source


def _write(path: Path, arrays: Mapping[str, NDArray[np.generic]], dtype: str) -> None:
    write_safetensors(path, [LazyTensor.of_array(n, a.astype(dtype)) for n, a in arrays.items()], {"format": "pt"})


def _merged(path: Path, change: Callable[..., NDArray[np.float32]], replaces: bool = True) -> bytes:
    """The base, with each pair's change added, and the tensors that were saved whole in place of the base's."""
    with SafetensorsFile(path / "model.safetensors") as base, open_adapter(path) as adapter:
        out = {name: t.numpy() for name, t in base.items()}
        for name, pair in adapter.pairs.items():
            key = rename(name, "huggingface")
            kept = out[key]
            b, a = pair.factors()
            out[key] = (kept.astype(np.float32) + change(b, a, pair.scale, adapter.config)).astype(kept.dtype)
        for name, whole in adapter.replaced.items() if replaces else ():
            key = rename(name, "huggingface")
            out[key] = whole.f32().astype(out[key].dtype)
    with tempfile.TemporaryDirectory() as folder:
        write_safetensors(Path(folder) / "out", [LazyTensor.of_array(n, a) for n, a in out.items()], {"format": "pt"})
        return (Path(folder) / "out").read_bytes()


def answer(path: Path) -> bytes:
    return _merged(path, lambda b, a, scale, config: np.float32(scale) * (b @ a))


MISTAKES = (
    Mistake("the product counts lora_alpha / r times", lambda p: _merged(p, lambda b, a, s, c: b @ a)),
    Mistake("divide lora_alpha by r", lambda p: _merged(p, lambda b, a, s, c: np.float32(c.alpha) * (b @ a))),
    Mistake("with use_rslora the product counts lora_alpha / sqrt(r) times",
            lambda p: _merged(p, lambda b, a, s, c: np.float32(c.alpha / c.r) * (b @ a))),
    Mistake("the change is B times A, and not its transpose",
            lambda p: _merged(p, lambda b, a, s, c: np.float32(s) * ((b @ a).T if len(b) == a.shape[1] else b @ a))),
    Mistake("the change is added, and not taken away",
            lambda p: _merged(p, lambda b, a, s, c: np.float32(-s) * (b @ a))),
    Mistake("tensors that the adapter has whole (modules_to_save) replace those of the base",
            lambda p: _merged(p, lambda b, a, s, c: np.float32(s) * (b @ a), replaces=False)),
    Mistake("nothing was added to the base", lambda p: _merged(p, lambda b, a, s, c: np.float32(0) * (b @ a))),
)  # fmt: skip


def differ(path: Path, expected: bytes, found: bytes) -> Difference | None:
    with tempfile.TemporaryDirectory() as folder:
        for name, data in (("answer", expected), ("output", found)):
            (Path(folder) / name).write_bytes(data)
        try:
            with SafetensorsFile(Path(folder) / "output") as given, SafetensorsFile(Path(folder) / "answer") as wanted:
                return _differing(wanted, given)
        except FormatError as error:
            return Difference(f"the output is not a safetensors file: {error.problem}")


def _differing(wanted: Mapping[str, LazyTensor], given: Mapping[str, LazyTensor]) -> Difference | None:
    if strangers := sorted(set(given) - set(wanted)):
        return Difference(f"there is a tensor too many: {strangers[0]!r}", "keep the names of the base")
    for name, tensor in wanted.items():
        if name not in given:
            return Difference(f"tensor {name!r} is missing", "tensors that no pair changes are written as they are")
        other = given[name]
        if (other.dtype, other.shape) != (tensor.dtype, tensor.shape):
            return Difference(f"tensor {name!r} is {other.dtype} {list(other.shape)}, which is not right")
        a, b = tensor.numpy().astype(np.float64), other.numpy().astype(np.float64)
        off = np.abs(a - b) > (2e-3 if tensor.dtype == "float16" else 1e-5) * np.abs(a).max()
        if off.any():
            place = " ".join(f"{axis} {i}" for axis, i in zip(("row", "column"), np.argwhere(off)[0].tolist()))
            return Difference(f"{int(off.sum())} of {off.size} values of {name!r} are not right, the first at {place}")
    return None


PROJECT = Project(6, "lora", "Apply a LoRA", "应用 LoRA", KINDS, make, "merged.safetensors", answer, differ, MISTAKES)
