"""Hugging Face's layout: safetensors or ``pytorch_model*.bin``, whole or in parts with an index, and ``config.json``.

Names and the rows of wq and wk differ from Meta's (:mod:`ggmlpy.formats.tensor_names`, :mod:`.layout`). Here tensors
come out under Meta names and in Meta's order of rows, so that nothing downstream has to ask.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy.files.errors import MissingFileError, ShapeError
from ggmlpy.formats.tensor_names import rename

from .folder import Folder
from .layout import Checkpoint, check_model, in_layout, known_tensors
from .params import params_of_huggingface
from .tensor import LazyTensor
from .weights import WeightFile, open_weights

__all__ = ["open_huggingface"]


def open_huggingface(folder: Folder) -> Checkpoint:
    """Open a model in Hugging Face's layout.

    Raises:
        MissingFileError: no weights, a part missing, or no config.json.
        FormatError: a file is bad, or weights and config do not fit together.
    """
    directory, files = folder.path, folder.parts
    if not files:
        raise MissingFileError("no model.safetensors or pytorch_model.bin here", path=directory)
    path = directory / "config.json"
    config = folder.json("config.json")
    params = params_of_huggingface(config, path)
    with contextlib.ExitStack() as stack:
        opened: list[WeightFile] = []
        for file in files:
            opened.append(open_weights(file))
            stack.enter_context(opened[-1])
        originals, names_in_files = _tensors(opened)
        try:
            tensors = {
                rename(name, "meta"): in_layout(
                    tensor.with_(name=rename(name, "meta"), layout="huggingface"), "meta", params
                )
                for name, tensor in originals.items()
            }
        except ShapeError as error:
            error.path, error.next_step = os.fspath(directory), f"`doctor {directory}`"
            raise
        notes = [*_special_ids(config, path), *_tie(config, tensors, path)]
        check_model(directory, params, path, tensors, _unfinished(folder, tensors))
        names = {rename(name, "meta"): in_file for name, in_file in names_in_files.items()}
        return Checkpoint(
            directory,
            "huggingface",
            params,
            path,
            tensors,
            files,
            names,
            notes=notes,
            _open=stack.pop_all(),
            _opened=opened,
        )


def _tensors(opened: Sequence[WeightFile]) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """The known tensors of all files by their names without wrappers, and these names -> those in the files."""
    found: dict[str, LazyTensor] = {}
    names: dict[str, str] = {}
    for weights in opened:
        file, tensors = Path(weights.path), weights.state_dict
        for name, in_file in known_tensors(file, tensors).items():
            if name in found:
                raise ShapeError(
                    f"tensor {name!r} is in two files", path=file, cause="parts of two downloads mixed in one directory"
                )
            found[name], names[name] = tensors[in_file], in_file
    return found, names


def _tie(config: Mapping[str, Any], tensors: dict[str, LazyTensor], path: Path) -> Iterator[str]:
    """A model may say that its output matrix is the embedding, or have none; then the file holds only one of them."""
    embedding, output = tensors.get("tok_embeddings.weight"), tensors.get("output.weight")
    tied, headless = config.get("tie_word_embeddings") is True, _is_headless(config)
    if embedding and output is None and (tied or headless):
        tensors["output.weight"] = embedding.with_(name="output.weight", source=f"{embedding.source}, tied")
        if not tied:
            yield f"{path}: {config['architectures'][0]} has no lm_head: the embedding is taken for it, as in llama.cpp"
    elif embedding and output and tied and not _are_equal(embedding, output):
        yield (
            f"{path} says tie_word_embeddings, but lm_head.weight is not the embedding: transformers takes the "
            "embedding, llama.cpp and this program take lm_head.weight"
        )


def _is_headless(config: Mapping[str, Any]) -> bool:
    """Whether the class is that of a model without a head: LlamaModel rather than LlamaForCausalLM."""
    names = config.get("architectures")
    return isinstance(names, list) and bool(names) and str(names[0]) in ("LlamaModel", "MistralModel")


def _are_equal(one: LazyTensor, other: LazyTensor) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return all(np.array_equal(a, b) for a, b in zip(one.chunks(), other.chunks(), strict=True))


def _special_ids(config: Mapping[str, Any], path: Path) -> Iterator[str]:
    """Early third-party conversions of LLaMA carry wrong ids (0 and 1); what was trained on them is wrong too."""
    for key, expected in (("bos_token_id", 1), ("eos_token_id", 2)):
        if config.get(key, expected) == expected - 1:
            yield (
                f"{path} says {key} {config[key]}, LLaMA's is {expected}: an early third-party conversion. Adapters "
                "trained on another base do not fit it: compare the tensors (`fingerprint`)"
            )


def _unfinished(folder: Folder, tensors: Mapping[str, LazyTensor]) -> str | None:
    if folder.matching("adapter_model.*"):
        return "the directory holds a LoRA adapter beside or instead of a model"
    if "output.weight" not in tensors:
        return "lm_head.weight was not saved; where it is the embedding, config.json says tie_word_embeddings: true"
    return f"{len(folder.parts)} weight files do not hold a whole model" if len(folder.parts) > 1 else None
