"""Comparing any two things that hold a model, an adapter or a tokenizer, whatever lies around them.

Tensors are matched by Meta's names, with the rows of wq and wk in Meta's order where the number of heads is known (a
weight file by itself takes it from the configuration beside it). Numbers and vocabularies are compared where both sides
have them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import FormatError
from ggmlpy.files.kinds import is_ggml_file
from ggmlpy.formats.carrying import unstated
from ggmlpy.formats.gguf_model import CONTROL, CONTROL_NAMES, UNKNOWN, from_gguf_token
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.opening import open_model
from ggmlpy.formats.row_reader import RowSource
from ggmlpy.formats.tensor_names import is_derived, is_known, rename
from ggmlpy.verify.compare import Comparison, missing_tensors
from ggmlpy.verify.numbers import NUMBERS, params_differences
from ggmlpy.verify.tensors import Found, compare_tensors
from ggmlpy.verify.terms import BETWEEN, Terms
from llama_ref.checkpoint import Heads, LazyTensor, in_layout, open_checkpoint
from llama_ref.checkpoint.folder import Folder
from llama_ref.checkpoint.weights import open_weights
from llama_ref.vocabulary.opening import is_tokenizer_json
from llama_ref.vocabulary.tokenizer_file import load_vocabulary

from .as_written import type_of
from .beside import Pieces, tokenizer_differences, vocabulary_beside

__all__ = ["compare_anything"]

AS_STORED = "GGUF of another architecture"
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass
class _Side:
    """What one of the two is."""

    tensors: dict[str, Found] = field(default_factory=dict)
    params: ModelParams | None = None
    layout: str = ""
    vocab: Pieces | None = None
    scored: bool = True


def compare_anything(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    tolerance: float = 0.0,
    progress: Callable[[int], object] | None = None,
) -> Comparison:
    """Compare two files or directories that hold a model, an adapter or a tokenizer.

    Args:
        tolerance: absolute differences up to this count as equal.
        progress: called with the number of values compared after each piece.

    Raises:
        FormatError: one of them is bad, or holds none of the three.
    """
    terms = replace(BETWEEN, tolerance=tolerance)
    with ExitStack() as stack:
        ours, theirs = _opened(Path(a), stack), _opened(Path(b), stack)
        result = _beside_tensors(ours, theirs, terms)
        names = [*ours.tensors, *(name for name in theirs.tensors if name not in ours.tensors)]
        for name in [] if result.missing else names:
            first, second = ours.tensors.get(name), theirs.tensors.get(name)
            result.tensors.append(compare_tensors(first, second, terms))
            if progress and first:
                progress(int(np.prod(first.shape)))
    return result


def _beside_tensors(ours: _Side, theirs: _Side, terms: Terms) -> Comparison:
    """The comparison of numbers and vocabularies, where both sides have them."""
    result = Comparison(missing=missing_tensors(ours.tensors, theirs.tensors))
    if ours.params and theirs.params:
        skip = _incomparable(ours.layout, theirs.layout)
        numbers = list(params_differences(ours.params, theirs.params, terms, skip))
        result.header = [item.words for item in numbers]
        result.behavior = [item.words for item in numbers if item.changes_results]
    if ours.vocab is not None and theirs.vocab is not None:
        both = ours.vocab, theirs.vocab
        one, other = both if ours.scored and theirs.scored else map(_unscored, both)
        result.vocabulary = [item.words for item in tokenizer_differences(one, other, terms)]
    elif result.missing:
        result.vocabulary = ["nothing is in both"]
    return result


def _incomparable(ours: str, theirs: str) -> Collection[str]:
    """The numbers that one of two layouts does not state, or states in its own way."""
    if AS_STORED in (ours, theirs):
        return {*NUMBERS, "other"} - {"architecture"}
    return {*unstated(ours), *unstated(theirs), "n_mult", "ftype"} | ({"other"} if ours != theirs else set())


def _unscored(pieces: Pieces) -> Pieces:
    return [(text, 0.0) for text, _ in pieces]


def _opened(path: Path, stack: ExitStack) -> _Side:
    if path.is_dir():
        return _directory(path, stack)
    if is_ggml_file(path):
        model = stack.enter_context(open_model(path, any_architecture=True))
        tensors = {name: Found.of(RowSource(tensor), str(path)) for name, tensor in model.tensors.items()}
        if model.as_stored:
            return _Side(tensors, model.hparams, AS_STORED)
        vocab = list(zip(model.vocab, model.vocab.scores.tolist(), strict=True))
        layout = "gguf" if model.container == "gguf" else "ggml"
        return _Side(tensors, model.hparams, layout, vocab if model.declared.scored else None)
    if path.suffix == ".model":
        return _Side(vocab=list(load_vocabulary(path)))
    if is_tokenizer_json(path):
        return _Side(vocab=_json_pieces(path), scored=False)
    return _weights(path, stack)


def _json_pieces(path: Path) -> Pieces:
    """The pieces of a tokenizer.json as those of a tokenizer.model are: raw bytes, control tokens empty."""
    from llama_ref.vocabulary.json_tokenizer import JsonTokenizer

    tokenizer = JsonTokenizer(path)
    special = {token.id: token.content.encode() for token in tokenizer.added if token.special}
    kinds = {name: UNKNOWN if name == CONTROL_NAMES[0] else CONTROL for name in CONTROL_NAMES}

    def piece(token: int) -> bytes:
        name = special.get(token, b"")
        return from_gguf_token(name, kinds[name]) if name in kinds else tokenizer.piece(token)

    return [(piece(token), 0.0) for token in range(len(tokenizer))]


def _directory(path: Path, stack: ExitStack) -> _Side:
    folder = Folder.of(path)
    if folder.holds_weights:
        checkpoint = stack.enter_context(open_checkpoint(path))
        tensors = {name: _found(tensor, str(path)) for name, tensor in checkpoint.tensors.items()}
        return _Side(tensors, checkpoint.params, checkpoint.layout, vocabulary_beside(path, checkpoint.layout))
    adapter = next((name for name in ADAPTERS if name in folder.files), None)
    if adapter:
        return replace(_weights(path / adapter, stack), vocab=vocabulary_beside(path, "huggingface"))
    if "tokenizer.model" in folder.files:
        return _Side(vocab=list(load_vocabulary(path / "tokenizer.model")))
    if is_tokenizer_json(path):
        return _Side(vocab=_json_pieces(path), scored=False)
    raise FormatError(
        "holds no model, adapter or tokenizer",
        path=path,
        next_step=f"`identify {path}`",
        found=f"{len(folder.names)} files",
    )


def _weights(path: Path, stack: ExitStack) -> _Side:
    """One file of weights; the heads are those of the configuration beside it."""
    file = stack.enter_context(open_weights(path))
    heads = _heads_beside(path.parent)
    tensors = {}
    for name, tensor in file.items():
        if is_derived(name):
            continue
        if is_known(name):
            meta = rename(name, "meta")
            tensor = tensor.with_(name=meta)
            if meta != name and heads:
                tensor = in_layout(tensor.with_(layout="huggingface"), "meta", heads)
        tensors[tensor.name] = _found(tensor, str(path))
    return _Side(tensors)


def _heads_beside(directory: Path) -> Heads | None:
    try:
        config = Folder.of(directory).json("config.json")
    except (FormatError, OSError):
        return None
    n_head = config.get("num_attention_heads")
    n_head_kv = config.get("num_key_value_heads") or n_head
    if not isinstance(n_head, int) or not isinstance(n_head_kv, int) or min(n_head, n_head_kv) < 1:
        return None
    return Heads(n_head, n_head_kv)


def _found(tensor: LazyTensor, path: str) -> Found:
    def row_of(start: int, stop: int) -> NDArray[np.uint8]:
        rows = tensor.stored(start, stop) if len(tensor.shape) == 2 else tensor.stored()[None]
        return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)

    return Found.at(tensor.name, type_of(tensor), tensor.shape, row_of, None, path)
