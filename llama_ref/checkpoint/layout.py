"""What both checkpoint layouts have in common: an open model, and the rotary permutation between them.

Meta rotates neighbouring rows ``(2j, 2j+1)`` of a head of wq and wk, Hugging Face the rows ``(j, j + d/2)``. So the
rows of these two (and of their biases) are stored in another order, ``w.reshape(h, d//2, 2, -1).transpose(0, 2, 1, 3)``
with ``h`` heads of ``d`` rows: the heads of queries for wq, those of keys for wk. A tensor carries its layout:
permuting it twice, which makes a model fluent and then gibberish, raises.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Protocol

import numpy as np

from ggmlpy.files.errors import ShapeError, UnsupportedError, UsageError
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.model_file import Vocabulary
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.tensor_names import (
    expected_shapes,
    find,
    is_derived,
    is_known,
    names_of,
    plain_name,
    shard_axis,
    unwrapped,
)

from .folder import Layout
from .tensor import LazyTensor
from .weights import WeightFile, is_safetensors

__all__ = ["Checkpoint", "HasHeads", "Heads", "check_model", "in_layout", "shard_of"]

FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass
class Checkpoint:
    """A whole model, opened lazily; a context manager.

    Attributes:
        path: its directory.
        layout: the one it was stored in, "meta" or "huggingface"; the container, where it was a file of llama.cpp's.
        params: its hyper-parameters, and ``params_path``, the file that states them.
        tensors: by Meta name, joined over shards, **in Meta layout**, in the order of the files.
        files: the weight files; several are shards (Meta) or parts (Hugging Face).
        original_names: Meta name -> the name in the files.
        shard_sizes: Meta name -> its size along the shard axis in each shard, where there are several.
        notes: things worth telling the user.
        vocabulary: the pieces that a GGML file has beside its weights; checkpoints have theirs in tokenizer.model.
        metadata: all keys of a GGUF file.
    """

    path: Path
    layout: Layout | Literal["ggml", "gguf"]
    params: ModelParams
    params_path: Path
    tensors: dict[str, LazyTensor]
    files: list[Path]
    original_names: dict[str, str]
    shard_sizes: dict[str, list[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    vocabulary: Vocabulary | None = None
    metadata: Mapping[str, Value] = field(default_factory=dict, repr=False)
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)
    _opened: list[WeightFile] = field(default_factory=list, repr=False)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the weight files; the tensors can no longer be read."""
        self._open.close()

    def release(self) -> None:
        """Give back the memory of the file pages read so far (see :meth:`.PthFile.release`)."""
        for file in self._opened:
            file.release()

    def names_by_file(self) -> list[list[str]]:
        """The names in each weight file: sorted in a safetensors file, elsewhere as stored."""
        names = [(is_safetensors(file.path), list(file.state_dict)) for file in self._opened]
        return [sorted(found) if by_name else found for by_name, found in names]

    @property
    def n_vocab(self) -> int:
        """Rows of the embedding."""
        return self.tensors["tok_embeddings.weight"].shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def dtype(self) -> str:
        """The element type of the matrices; several, if they differ, joined by "/"."""
        return "/".join(sorted({tensor.dtype for tensor in self.tensors.values() if len(tensor.shape) == 2}))

    @property
    def tokenizer_path(self) -> Path:
        """Its tokenizer.model, in the directory or the parent.

        Raises:
            MissingFileError: none there; lists the paths that were tried.
        """
        from llama_ref.vocabulary.tokenizer_file import find_tokenizer

        return find_tokenizer(self.path)


class HasHeads(Protocol):
    """What the permutation asks a model for."""

    @property
    def n_head(self) -> int:
        """Heads of queries."""

    @property
    def n_head_kv(self) -> int:
        """Heads of keys."""


class Heads(NamedTuple):
    """The heads of a model of which nothing else is known."""

    n_head: int
    n_head_kv: int


def in_layout(tensor: LazyTensor, layout: Layout, heads: HasHeads) -> LazyTensor:
    """The tensor under the same name with its rows in another layout: wq and wk are permuted, others only relabelled.

    Args:
        tensor: with the layout that it has now.
        layout: the one wanted; must be the other one.
        heads: of the model: its parameters, or the two numbers.

    Raises:
        UsageError: the tensor's layout is unknown, or it is in that layout already.

    >>> w = LazyTensor.of_array("layers.0.attention.wq.weight", np.arange(4, dtype="f4")[:, None], layout="meta")
    >>> in_layout(w, "huggingface", Heads(1, 1)).numpy().ravel()
    array([0., 2., 1., 3.], dtype=float32)
    """
    if tensor.layout not in ("meta", "huggingface") or tensor.layout == layout:
        raise UsageError(
            f"tensor {tensor.name!r} ({tensor.source}) has layout {tensor.layout}; it cannot be turned into {layout}. "
            "Permuting twice would scramble the heads"
        )
    row = find(tensor.name)[0]
    if not row.rotary:
        return tensor.with_(layout=layout)
    n_head = {"n_q": heads.n_head, "n_kv": heads.n_head_kv, "head_dim": 1}[row.shape[0]]
    if not 1 <= len(tensor.shape) <= 2 or n_head < 1 or tensor.shape[0] % (2 * n_head):
        raise ShapeError(
            f"tensor {tensor.name!r} does not divide into {n_head} heads of an even size", found=list(tensor.shape)
        )
    d = tensor.shape[0] // n_head
    split = (d // 2, 2) if layout == "huggingface" else (2, d // 2)

    def read(start: int, stop: int) -> np.ndarray:
        first, last = start // d, -(-stop // d)
        rows = tensor.stored(first * d, last * d)  # [(last-first)*d, columns]
        turned = rows.reshape(last - first, *split, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
        return turned[start - first * d : stop - first * d]

    return tensor.with_(read=read, layout=layout, source=f"{tensor.source}, rows of {n_head} heads to {layout}")


def shard_of(tensor: LazyTensor, i: int, count: int) -> LazyTensor:
    """The ``i``-th of ``count`` parts along the tensor's axis; the rest of an uneven cut goes to the last."""
    axis = shard_axis(tensor.name)
    if axis is None or count == 1:
        return tensor
    each = tensor.shape[axis] // count
    begin, end = i * each, tensor.shape[axis] if i == count - 1 else (i + 1) * each
    if axis == 0:
        return tensor.with_(
            shape=(end - begin, *tensor.shape[1:]), read=lambda a, b: tensor.stored(begin + a, begin + b)
        )
    return tensor.with_(shape=(tensor.shape[0], end - begin), read=lambda a, b: tensor.stored(a, b)[:, begin:end])


def check_model(
    path: Path,
    params: ModelParams,
    params_path: Path,
    tensors: Mapping[str, LazyTensor],
    missing_cause: str | None = None,
) -> None:
    """All tensors of a LLaMA and no others, each of the shape that the parameters imply and of a floating type.

    The number of vocabulary rows is left open: that is compared with the tokenizer before something is made of it.

    Raises:
        ShapeError, UnsupportedError: names the tensor, both shapes, and both files.
    """
    embedding = tensors.get("tok_embeddings.weight")
    if embedding is None or len(embedding.shape) != 2:
        found = list(embedding.shape) if embedding else f"{len(tensors)} tensors, none of that name"
        raise ShapeError("no token embedding", path=path, field="tok_embeddings.weight", found=found)
    params = replace(params, n_vocab=embedding.shape[0])
    expected = expected_shapes(params, names_of(params))
    _check_names(path, params_path, expected, tensors, missing_cause)
    for name, shape in expected.items():
        _check_tensor(path, params_path, tensors[name], shape)


def _check_names(
    path: Path, params_path: Path, expected: Iterable[str], tensors: Mapping[str, LazyTensor], cause: str | None
) -> None:
    missing = [name for name in expected if name not in tensors]
    surplus = [name for name in tensors if name not in set(expected)]
    if missing:
        raise ShapeError(
            f"{len(missing)} tensors are missing, the first {missing[0]!r}",
            path=path,
            expected=f"{len(tensors) - len(surplus) + len(missing)} tensors by {params_path.name}",
            found=len(tensors),
            cause=cause or f"a weight file is missing, or {params_path} belongs to another model",
            next_step=f"compare the folder with its source, then `doctor {path}`",
        )
    if surplus:
        unsaid = find(surplus[0])[0].present
        raise ShapeError(
            f"{len(surplus)} more tensors than {params_path.name} implies, the first {surplus[0]!r}",
            path=path,
            cause=f"{params_path} does not say {unsaid}" if unsaid else f"{params_path} belongs to a smaller model",
            next_step=f"put the {params_path.name} of this model in its place",
        )


def _check_tensor(path: Path, params_path: Path, tensor: LazyTensor, shape: tuple[int, ...]) -> None:
    vocabulary_rows = find(tensor.name)[0].shape[0] == "n_vocab"
    same = tensor.shape[1:] == shape[1:] if vocabulary_rows and len(tensor.shape) == 2 else tensor.shape == shape
    if not same:
        raise ShapeError(
            f"tensor {tensor.name!r} has another shape than {params_path.name} implies",
            path=path,
            field=tensor.name,
            expected=list(shape),
            found=list(tensor.shape),
            cause="shards are missing or belong to different models"
            if tensor.size < np.prod(shape, dtype=object)
            else f"{params_path} belongs to another model",
            next_step=f"compare the folder with its source, then `doctor {path}`",
        )
    if tensor.dtype not in FLOATS:
        raise UnsupportedError(
            f"tensor {tensor.name!r} holds {tensor.dtype}",
            path=path,
            field=tensor.name,
            expected=f"one of {', '.join(FLOATS)}",
            found=tensor.dtype,
            cause="a quantized checkpoint (bitsandbytes, GPTQ)",
            next_step="start from the unquantized weights",
        )


def known_tensors(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Of the names in a file those that the table has, as name -> name in the file; derived ones are dropped.

    The wrappers of ``torch.compile`` and of distributed training are no part of a name.

    Raises:
        ShapeError: any other name: an adapter, a quantized checkpoint, or another architecture.
    """
    kept: dict[str, str] = {}
    unknown = []
    for name in names:
        bare = plain_name(name)
        if is_known(bare) and bare not in kept:
            kept[bare] = name
        elif not is_derived(bare):
            unknown.append(name)
    if not unknown:
        return kept
    raise ShapeError(
        f"{len(unknown)} tensors do not belong to a LLaMA model, the first {unknown[0]!r}",
        path=path,
        cause=origin_of(unknown),
        next_step=f"`identify {path}`",
    )


# A part of a tensor's name -> where such tensors come from.
_TRACES = {
    "lora_": "the file is a LoRA adapter: merge it into its base first (`merge`)",
    "quant_map": "the checkpoint is quantized (bitsandbytes); start from the unquantized weights",
    "quant_state": "the checkpoint is quantized (bitsandbytes); start from the unquantized weights",
    ".SCB": "the checkpoint is quantized (bitsandbytes); start from the unquantized weights",
    ".absmax": "the checkpoint is quantized (bitsandbytes); start from the unquantized weights",
    ".qweight": "the checkpoint is quantized (GPTQ, AWQ); start from the unquantized weights",
    ".qzeros": "the checkpoint is quantized (GPTQ, AWQ); start from the unquantized weights",
    ".g_idx": "the checkpoint is quantized (GPTQ); start from the unquantized weights",
    "weight_scale": "the checkpoint is quantized (compressed-tensors, FP8); start from the unquantized weights",
    "weight_packed": "the checkpoint is quantized (compressed-tensors); start from the unquantized weights",
    "modules_to_save": "the model was saved from within PEFT without merging",
    "base_layer": "the model was saved from within PEFT without merging",
    "base_model.model.": "the model was saved from within PEFT without merging",
    "_exps.": "the model is a mixture of experts, which is looked at here and not computed",
    "block_sparse_moe": "the model is a mixture of experts, which is looked at here and not computed",
    "exp_avg": "the file holds an optimizer's state; name the weights of the model",
}


def origin_of(unknown: Iterable[str]) -> str:
    """Where tensors of unknown names come from, in words."""
    keys = list(itertools.islice(unknown, 200))
    trace = next((words for part, words in _TRACES.items() if any(part in key for key in keys)), None)
    if trace:
        return trace
    if all(map(_stands_in_llama, keys)):
        return "the file holds more than the weights of a LLaMA: a model that was changed or wrapped"
    return "the model has another architecture than the first LLaMA"


def _stands_in_llama(key: str) -> bool:
    """Whether a key names a module of a LLaMA, with something unknown behind it or in front."""
    parts = unwrapped(key).split(".")
    spans = (parts[begin:end] for begin in range(min(3, len(parts))) for end in range(begin + 1, len(parts) + 1))
    return any(is_known(".".join([*span, "weight"])) or is_known(".".join(span)) for span in spans)
