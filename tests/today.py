"""GGUF files of today's llama.cpp, put together again from their headers and the checkpoints they were made from.

Of most files the vectors hold the header only, and the digest of the whole. The data are those of the checkpoint, with
the rows of q and k in Meta's order, so that the file can be made again; its digest says whether it is the real one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np

from ggmlpy.formats.gguf import open_gguf
from ggmlpy.formats.tensor_names import find, meta_name, rename
from llama_ref.checkpoint.safetensors_file import open_safetensors


def whole_gguf(vectors: Path, name: str, target: Path) -> Path:
    """The file called ``name`` (of type f32) in full."""
    folder = vectors / "today-models"
    record = json.loads((folder / "gguf" / "manifest.json").read_text())["files"][name]
    weights = open_safetensors(_weights_of(folder / "hf", record["case"]))
    head = (folder / "gguf" / f"{name}.head").read_bytes()
    target.write_bytes(head + bytes(record["size"] - len(head)))
    tensors = {key: (tensor.offset, tensor.shape) for key, tensor in open_gguf(target).tensors.items()}
    with target.open("r+b") as stream:
        for key, (offset, shape) in tensors.items():
            stream.seek(offset)
            stream.write(_values(weights, key, record["case"], folder).reshape(shape).astype("<f4").tobytes())
    assert hashlib.sha256(target.read_bytes()).hexdigest() == record["sha256"], name
    return target


def huggingface_directory(vectors: Path, case: str, target: Path) -> tuple[Path, str | None]:
    """A checkpoint put together again (what several have in common is stored once), and its rules for words."""
    folder = vectors / "today-models" / "hf"
    target.mkdir(parents=True)
    pre = None
    for name, record in json.loads((folder / "manifest.json").read_text())["cases"][case].items():
        source = folder / record.get("weights_from", case) / name
        source = folder.parent / record["same_as"] if "same_as" in record else source
        if name == "PRE":
            pre = source.read_text().strip()
        else:
            shutil.copyfile(source, target / name)
    return target, pre


def _weights_of(folder: Path, case: str) -> Path:
    cases = json.loads((folder / "manifest.json").read_text())["cases"]
    return folder / cases[case]["model.safetensors"].get("weights_from", case) / "model.safetensors"


def _values(weights, key: str, case: str, folder: Path) -> np.ndarray:
    config = json.loads((folder / "hf" / case / "config.json").read_text())
    if key == "rope_freqs.weight":
        return _llama3_divisors(config)
    row, _layer = find(meta_name(key))
    name = rename(meta_name(key), "huggingface")
    values = weights[name].numpy().astype(np.float32)
    if not row.rotary or config["model_type"].startswith("qwen"):
        return values
    heads = config["num_attention_heads"]
    heads = heads if "q_proj" in name else config.get("num_key_value_heads", heads)
    return values.reshape(heads, 2, len(values) // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)


def _llama3_divisors(config: dict) -> np.ndarray:
    """By what LLaMA 3.1 divides its frequencies, in float32 throughout."""
    scaling = config.get("rope_scaling") or config["rope_parameters"]
    base = config.get("rope_theta") or scaling["rope_theta"]
    f32, n = np.float32, config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    frequencies = (1.0 / f32(base) ** (np.arange(0, n, 2, dtype=np.float32) / f32(n))).astype(f32)
    names = ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    context, low, high = (scaling[name] for name in names)
    waves = f32(2 * np.pi) / frequencies
    smooth = (f32(context) / waves - f32(low)) / f32(high - low)
    middle = 1 / ((1 - smooth) / f32(scaling["factor"]) + smooth)
    divisors = np.where(waves > context / low, f32(scaling["factor"]), middle)
    return np.where(waves < context / high, f32(1), divisors).astype(f32)
