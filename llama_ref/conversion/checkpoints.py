"""Between Meta's layout and Hugging Face's, a few megabytes at a time.

``to-hf`` writes what convert_llama_weights_to_hf.py of transformers 4.28.1 wrote: the names, the rotary permutation,
config.json, generation_config.json and the tokenizer's files; as ``.bin`` byte for byte, by default as safetensors.
``from-hf`` goes back to ``consolidated.NN.pth`` and params.json, with as many shards as Meta had for that width.
Tensors survive both ways bit for bit.

The peer reads a whole model into memory; here memory is that of a few rows, whatever the model.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy.files.errors import UsageError
from ggmlpy.files.kinds import is_ggml_file
from ggmlpy.files.paths import refuse_directory
from ggmlpy.formats.carrying import carry, is_usual, kept_keys
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.tensor_names import names_of, original_names, rename
from llama_ref.checkpoint import Checkpoint, LazyTensor, in_layout, open_checkpoint
from llama_ref.checkpoint.folder import Folder, is_weight_file, weight_file_names
from llama_ref.checkpoint.ggml import open_ggml
from llama_ref.checkpoint.layout import shard_of
from llama_ref.checkpoint.params import config_json, params_json
from llama_ref.checkpoint.tensor import DTYPES
from llama_ref.checkpoint.weights import weights_size

from .export_plan import ExportPlan, Progress, json_text
from .exported_tokenizer import byte_ranks_of, tokenizer_source
from .gguf_to_huggingface import as_written, is_of_today, without_files_beside
from .tokenizer_of import fitting_vocabulary, made_tokenizer

__all__ = [
    "ExportPlan",
    "convert_from_huggingface",
    "convert_to_huggingface",
    "huggingface_files",
    "kept_from",
    "open_source",
    "parse_size",
    "plan_from_hf",
    "plan_to_hf",
]

SHARD_SIZE = "10GB"
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def convert_to_huggingface(
    source: str | os.PathLike[str], directory: str | os.PathLike[str], *, progress: Progress | None = None
) -> list[Path]:
    """Write the model in ``source`` into ``directory`` in Hugging Face's layout; returns the paths, weights first.

    :func:`plan_to_hf` offers the choices: ``.bin`` files, the size of parts, another element type.

    >>> convert_to_huggingface("models/7B", "7B-hf")                     # doctest: +SKIP
    """
    with plan_to_hf(source, directory) as plan:
        return plan.write(progress)


def convert_from_huggingface(
    source: str | os.PathLike[str], directory: str | os.PathLike[str], *, progress: Progress | None = None
) -> list[Path]:
    """Write the model in ``source`` into ``directory`` in Meta's layout; returns the paths, weights first.

    :func:`plan_from_hf` offers the choices: the number of shards, another element type, the version of torch.

    >>> convert_from_huggingface("7B-hf", "models/7B")                   # doctest: +SKIP
    """
    with plan_from_hf(source, directory) as plan:
        return plan.write(progress)


def plan_to_hf(
    source: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    weights: str = "safetensors",
    shard_size: str | int = SHARD_SIZE,
    inv_freq: bool | None = None,
    dtype: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    weights_only: bool = False,
    torch_format: str = "1.13",
) -> ExportPlan:
    """Check the way from Meta's layout to Hugging Face's, without writing anything.

    Arguments:
        source: the model (Meta's layout; Hugging Face's is accepted too, to change format, type or parts), or a GGML or
            GGUF file.
        directory: where to write.
        weights: "safetensors" or "bin".
        shard_size: start a new file before one would grow over this: "10GB", "500MB", bytes.
        inv_freq: write the rotary frequencies of each layer; by default in .bin files of models like the first LLaMA
            only, as transformers did.
        dtype: "float16", "float32" or None to keep each tensor's.
        tokenizer: the tokenizer.model, if it is neither in the directory nor in its parent.
        weights_only: leave the tokenizer's files out, and unchecked.
        torch_format: which torch.save wrote the .bin.

    Raises:
        UsageError: an unknown kind of weights, type or size.
        FormatError: something is wrong with the source; VocabularyError if the tokenizer does not fit.
    """
    with contextlib.ExitStack() as stack:
        checkpoint = stack.enter_context(open_source(source))
        notes = list(checkpoint.notes)
        source_of_tokenizer = None if weights_only else tokenizer_source(checkpoint, tokenizer, notes)
        whole = source_of_tokenizer and is_of_today(checkpoint.metadata)
        params = without_files_beside(checkpoint.params) if whole else checkpoint.params
        notes += carry(params, "huggingface", checkpoint.layout, checkpoint.params_path)
        files, texts = huggingface_files(
            checkpoint, weights=weights, shard_size=shard_size, inv_freq=inv_freq, dtype=dtype
        )
        plan = ExportPlan(checkpoint, Path(directory), files, {}, texts, [], torch_format, notes)
        plan.sizes = {name: weights_size(plan.directory / name, part, torch_format) for name, part in files.items()}
        if source_of_tokenizer:
            source_of_tokenizer(plan)
        _refuse_same_directory(plan)
        stack.pop_all()
        return plan


def huggingface_files(
    checkpoint: Checkpoint,
    *,
    weights: str = "safetensors",
    shard_size: str | int = SHARD_SIZE,
    inv_freq: bool | None = None,
    dtype: str | None = None,
) -> tuple[dict[str, list[LazyTensor]], dict[str, str]]:
    """The weight files of a checkpoint in Hugging Face's layout with their tensors, and the texts of the JSON files.

    Arguments as for :func:`plan_to_hf`.

    Raises:
        UsageError: an unknown kind of weights, type or size.
    """
    if weights not in ("safetensors", "bin"):
        raise UsageError(f"unknown kind of weights {weights!r}: choose safetensors or bin")
    limit = parse_size(shard_size)
    wanted = weights == "bin" and _has_frequencies_of_2023(checkpoint) if inv_freq is None else inv_freq
    tensors = list(_huggingface_tensors(checkpoint, dtype, wanted))
    parts = _parts_of_gguf(checkpoint, tensors, limit, weights == "safetensors")
    files = _named(parts, weights) if parts else _split(tensors, limit, weights)
    texts = _config_files(checkpoint, tensors)
    if len(files) > 1:
        texts[weight_file_names(weights, len(files))[1]] = _index(files)
    return files, texts


def plan_from_hf(
    source: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    shards: int | None = None,
    dtype: str | None = None,
    params: ModelParams | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    weights_only: bool = False,
    torch_format: str = "1.13",
) -> ExportPlan:
    """Check the way from Hugging Face's layout to Meta's, without writing anything.

    Arguments:
        source: the model (Hugging Face's layout; Meta's is accepted too, to change the number of shards), or a GGML or
            GGUF file.
        directory: where to write.
        shards: how many files; by default as many as Meta had for this width (13B 2, 33B 4, 65B 8, else 1).
        dtype: "float16", "float32" or None to keep each tensor's.
        params: for params.json, where config.json leaves a choice (``multiple_of``); must give the same shape.
        tokenizer, weights_only, torch_format: as for :func:`plan_to_hf`.

    Raises:
        UsageError: as many shards cannot be cut, or other parameters than the model's.
        FormatError: something is wrong with the source.
    """
    with contextlib.ExitStack() as stack:
        checkpoint = stack.enter_context(open_source(source))
        notes = list(checkpoint.notes)
        ranks = None if weights_only else byte_ranks_of(checkpoint, tokenizer)
        vocab = None if weights_only or ranks else fitting_vocabulary(checkpoint, tokenizer, notes)
        notes += carry(checkpoint.params, "meta", checkpoint.layout, checkpoint.params_path)
        params = _chosen_params(checkpoint, params)
        count = params.n_shards if shards is None else shards
        if not 1 <= count <= min(100, params.n_head, checkpoint.n_vocab):
            raise UsageError(f"{count} shards: choose 1 to {min(100, params.n_head, checkpoint.n_vocab)}")
        tensors = [_cast(checkpoint.tensors[name], dtype) for name in original_names(params.n_layer)]
        files = {f"consolidated.{i:02}.pth": [shard_of(tensor, i, count) for tensor in tensors] for i in range(count)}
        plan = ExportPlan(checkpoint, Path(directory), files, {}, {}, [], torch_format, notes)
        plan.sizes = {name: weights_size(plan.directory / name, part, torch_format) for name, part in files.items()}
        plan.texts = {"params.json": params_json(params, kept_from(checkpoint, "meta"))}
        if ranks:
            plan.made = {"tokenizer.model": ranks}
        elif vocab:
            plan.copies = [path for path in (vocab.path, vocab.added_path) if path]
        elif not weights_only:
            plan.made = made_tokenizer(checkpoint, plan.notes)
        _refuse_same_directory(plan)
        stack.pop_all()
        return plan


def parse_size(text: str | int) -> int:
    """Bytes of a size in words, decimal or binary.

    >>> parse_size("10GB"), parse_size("1.5MiB"), parse_size(4096)
    (10000000000, 1572864, 4096)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    unit = match[2].upper() if match else None
    if not match or unit not in _UNITS or not (size := int(float(match[1]) * _UNITS[unit])):
        raise UsageError(f"cannot understand the size {text!r}: write for example 10GB, 500MB or 2GiB")
    return size


def open_source(source: str | os.PathLike[str]) -> Checkpoint:
    """The directory of a checkpoint, or a GGML or GGUF file on its way back."""
    return open_ggml(source) if os.path.isfile(source) and is_ggml_file(source) else open_checkpoint(source)


# ------------------------------------------------------------------------------------------------------------ to-hf


def _huggingface_tensors(checkpoint: Checkpoint, dtype: str | None, inv_freq: bool) -> Iterator[LazyTensor]:
    """All tensors under their Hugging Face names, in the order of the state dict."""
    params = checkpoint.params
    frequencies = inverse_frequencies(params.n_rot)
    for name in names_of(params):
        if name == "output.weight" and params.tied_embeddings:
            continue
        tensor = _cast(in_layout(checkpoint.tensors[name], "huggingface", params), dtype)
        yield tensor.with_(name=rename(name, "huggingface"))
        if inv_freq and name.endswith(".attention.wo.weight"):
            prefix = rename(name, "huggingface").removesuffix("o_proj.weight")
            yield LazyTensor.of_array(f"{prefix}rotary_emb.inv_freq", frequencies, source="computed")


def inverse_frequencies(n_rot: int) -> np.ndarray:
    """The rotary frequencies of one head as transformers 4.28.1 stores them: float32 [n_rot / 2].

    The script loads its own result in half precision before it saves it, so the values are those of f16.

    >>> inverse_frequencies(4).tolist()
    [1.0, 0.01000213623046875]
    """
    exponents = np.arange(0, n_rot, 2, dtype=np.float32) / np.float32(n_rot)
    frequencies = np.float32(1) / np.power(np.float32(10000), exponents, dtype=np.float32)
    return frequencies.astype(np.float16).astype(np.float32)


def _split(tensors: Sequence[LazyTensor], limit: int, weights: str) -> dict[str, list[LazyTensor]]:
    """Files by name; a new one begins before one would grow over the limit (shard_checkpoint of transformers)."""
    parts: list[list[LazyTensor]] = [[]]
    for tensor in tensors:
        if parts[-1] and sum(t.nbytes for t in parts[-1]) + tensor.nbytes > limit:
            parts.append([])
        parts[-1].append(tensor)
    return _named(parts, weights)


def _named(parts: Sequence[list[LazyTensor]], weights: str) -> dict[str, list[LazyTensor]]:
    return dict(zip(weight_file_names(weights, len(parts))[0], parts, strict=True))


def _has_frequencies_of_2023(checkpoint: Checkpoint) -> bool:
    """Whether the rotary frequencies are those that :func:`inverse_frequencies` writes."""
    plain = is_usual(checkpoint.params, "rope_theta") and is_usual(checkpoint.params, "rope_scaling")
    return plain and not is_of_today(checkpoint.metadata)


def _parts_of_gguf(
    checkpoint: Checkpoint, tensors: Sequence[LazyTensor], limit: int, sorts: bool
) -> list[list[LazyTensor]]:
    """The files that a GGUF file was made from, as far as its order tells; nothing if it is of another program.

    Args:
        sorts: whether the converter takes the names in a file in alphabetical order, as it does in safetensors files.
            More such files than layers are none: those tensors came from ``.bin``.
    """
    if not is_of_today(checkpoint.metadata):
        return []
    by_name, parts = {tensor.name: tensor for tensor in tensors}, list[list[LazyTensor]]()
    for tensor in (by_name.pop(rename(name, "huggingface"), None) for name in checkpoint.tensors):
        if tensor is None:
            continue
        last = parts[-1] if parts else []
        falls = sorts and last and tensor.name < last[-1].name
        if not last or falls or sum(t.nbytes for t in last) + tensor.nbytes > limit:
            parts.append([])
        parts[-1].append(tensor)
    return [] if by_name or len(parts) > checkpoint.params.n_layer + 2 else parts


def _index(files: Mapping[str, Sequence[LazyTensor]]) -> str:
    total = sum(tensor.nbytes for tensors in files.values() for tensor in tensors)
    weight_map = {tensor.name: name for name, tensors in files.items() for tensor in tensors}
    return json_text({"metadata": {"total_size": total}, "weight_map": weight_map})


def _config_files(checkpoint: Checkpoint, tensors: Iterable[LazyTensor]) -> dict[str, str]:
    dtype = next(tensor.dtype for tensor in tensors if len(tensor.shape) == 2)
    generation = {
        "_from_model_config": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "transformers_version": "4.28.1",
    }
    other = kept_from(checkpoint, "huggingface")
    params = as_written(checkpoint.params) if checkpoint.metadata else checkpoint.params
    config = config_json(params, checkpoint.n_vocab, dtype=dtype, other=other)
    return {"config.json": json_text(config), "generation_config.json": json_text(generation)}


def kept_from(checkpoint: Checkpoint, layout: str) -> dict[str, Any]:
    """Keys of the checkpoint's configuration that nothing here understands, for a configuration of the same kind."""
    return kept_keys(checkpoint.params, layout) if checkpoint.layout == layout else {}


# ---------------------------------------------------------------------------------------------------------- from-hf


def _chosen_params(checkpoint: Checkpoint, chosen: ModelParams | None) -> ModelParams:
    own = checkpoint.params
    if chosen is None:
        return own
    if (chosen.n_embd, chosen.n_ff, chosen.n_head, chosen.n_layer) != (own.n_embd, own.n_ff, own.n_head, own.n_layer):
        raise UsageError(
            f"the parameters asked for ({chosen.n_embd} wide, {chosen.n_ff} feed-forward, {chosen.n_head} heads, "
            f"{chosen.n_layer} layers) are not those of {checkpoint.params_path} ({own.n_embd}, {own.n_ff}, "
            f"{own.n_head}, {own.n_layer})"
        )
    return replace(chosen, **{name: getattr(own, name) for name in ("norm_eps", "rope_theta", "rope_scaling")})


# --------------------------------------------------------------------------------------------------------- in common


def _cast(tensor: LazyTensor, dtype: str | None) -> LazyTensor:
    """The tensor in another floating type, rounded to nearest even."""
    if dtype is None or dtype == tensor.dtype:
        return tensor
    if dtype not in ("float16", "float32"):
        raise UsageError(f"unknown type {dtype!r}: choose float16 or float32")
    target = DTYPES[dtype].stored

    def read(start: int, stop: int) -> np.ndarray:
        with np.errstate(over="ignore"):
            return tensor.rows(start, stop).astype(target)

    return tensor.with_(dtype=dtype, read=read, source=f"{tensor.source}, as {dtype}")


def _refuse_same_directory(plan: ExportPlan) -> None:
    """The output must not mix with the input: a directory with two layouts in it is nobody's."""
    refuse_directory(plan.directory, [plan.checkpoint.path])
    there = Folder.of(plan.directory).names if plan.directory.is_dir() else ()
    stale = [name for name in there if is_weight_file(name) and name not in plan.files]
    if stale:
        raise UsageError(
            f"{plan.directory} holds other weights already ({', '.join(stale[:4])}): name an empty directory"
        )
