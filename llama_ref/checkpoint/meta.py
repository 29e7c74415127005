"""Meta's own layout: ``consolidated.00.pth`` … and ``params.json``.

The larger models are cut for model parallelism over 2 (13B), 4 (33B) or 8 (65B) files: each holds every tensor's name,
with a part of its rows or columns (:data:`ggmlpy.formats.tensor_names.TABLE` says which) and the norms whole. Shards
need not be equal: a vocabulary of 49953 over two files is 24976 and 24977 rows. LLaMA 1 and 2 cut the embedding into
columns, LLaMA 3 into rows; its width tells which. The tokenizer lies one level above, in LLaMA 3 beside the weights.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ggmlpy.files.errors import MissingFileError, ShapeError
from ggmlpy.formats.model_params import ModelParams, model_named
from ggmlpy.formats.model_sizes import PUBLISHED_SIZES
from ggmlpy.formats.tensor_names import shard_axis

from .folder import Folder
from .layout import Checkpoint, check_model, known_tensors
from .params import params_json, params_of_meta
from .pth import PthFile, open_pth
from .tensor import LazyTensor

__all__ = ["join", "open_meta"]


def open_meta(folder: Folder) -> Checkpoint:
    """Open a model in Meta's layout.

    Raises:
        MissingFileError: no shards, one missing in the sequence, or no params.json.
        FormatError: a file is bad, or shards and parameters do not fit together.
    """
    directory, files = folder.path, folder.shards
    if not files:
        raise MissingFileError("no consolidated.00.pth here", path=directory, next_step=f"ls {directory}")
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open_pth(file)) for file in files]
        shards = [_known(file) for file in opened]
        names = _common_names(files, shards)
        axes = {name: _axis(name, shards) for name in names}
        tensors = {name: join(name, [shard[name] for shard in shards], files, axes[name]) for name in names}
        params, params_path = _params(folder, tensors)
        _check_all_shards(directory, params, params_path, tensors, len(files))
        check_model(directory, params, params_path, tensors, _missing_shards(params, files))
        several = names if len(files) > 1 else []
        sizes = {name: _sizes(axes[name], [shard[name] for shard in shards]) for name in several}
        return Checkpoint(
            directory,
            "meta",
            params,
            params_path,
            tensors,
            files,
            {name: name for name in names},
            {name: size for name, size in sizes.items() if size},
            _open=stack.pop_all(),
            _opened=[*opened],
        )


def _axis(name: str, shards: Sequence[Mapping[str, LazyTensor]]) -> int | None:
    """Along which axis the shards cut a tensor: LLaMA 3 cuts rows of the embedding, whose width is that of the norm."""
    norm, part = shards[0].get("norm.weight"), shards[0][name]
    if name == "tok_embeddings.weight" and norm is not None and part.shape[-1:] == norm.shape:
        return 0
    return shard_axis(name)


def join(name: str, parts: Sequence[LazyTensor], files: Sequence[Path], axis: int | None) -> LazyTensor:
    """One tensor over all shards, read from them row by row.

    Args:
        axis: along which they cut it; None: each has all of it.

    Raises:
        ShapeError: the parts differ in type, or in the size that must be common to them.
    """
    first = parts[0].with_(layout="meta")
    if len(parts) == 1:
        return first
    for part, file in zip(parts, files):
        if part.dtype != first.dtype or _across(part.shape, axis) != _across(first.shape, axis):
            raise ShapeError(
                f"tensor {name!r} of this shard does not fit that of {files[0].name}",
                path=file,
                field=name,
                expected=f"{first.dtype} {list(first.shape)}",
                found=f"{part.dtype} {list(part.shape)}",
                cause="the shards belong to different models",
            )
    if axis is None:
        return first.with_(source=f"{first.source}, the same in {len(parts)} shards")
    total = sum(part.shape[axis] for part in parts)
    shape = (total, *first.shape[1:]) if axis == 0 else (first.shape[0], total)
    source = f"{len(parts)} shards joined by {('rows', 'columns')[axis]}"
    return first.with_(shape=shape, read=_reader(parts, axis), source=source)


def _reader(parts: Sequence[LazyTensor], axis: int) -> Callable[[int, int], np.ndarray]:
    if axis == 1:
        return lambda start, stop: np.concatenate([part.stored(start, stop) for part in parts], axis=1)
    ends = list(itertools.accumulate(part.shape[0] for part in parts))

    def read(start: int, stop: int) -> np.ndarray:
        pieces = []
        for i in range(bisect.bisect_right(ends, start), len(parts)):
            begin = ends[i] - parts[i].shape[0]
            if begin >= stop:
                break
            pieces.append(parts[i].stored(max(start - begin, 0), min(stop, ends[i]) - begin))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [parts[0].stored(0, 0)])

    return read


def _across(shape: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    """The sizes that all shards of a tensor share."""
    return shape if axis is None else (*shape[:axis], -1, *shape[axis + 1 :])


def _sizes(axis: int | None, parts: Sequence[LazyTensor]) -> list[int]:
    return [] if axis is None else [part.shape[axis] for part in parts]


def _known(file: PthFile) -> dict[str, LazyTensor]:
    """A shard's tensors of the model under their names without wrappers."""
    tensors = file.state_dict
    names = known_tensors(Path(file.path), tensors)
    return {name: tensors[in_file].with_(name=name) for name, in_file in names.items()}


def _common_names(files: Sequence[Path], shards: Sequence[Mapping[str, LazyTensor]]) -> list[str]:
    """The model's names in the order of the first shard; every shard must have the same."""
    kept = [list(shard) for shard in shards]
    for file, names in zip(files, kept):
        odd = set(names) ^ set(kept[0])
        if odd:
            raise ShapeError(
                f"tensor {min(odd)!r} is not in every shard",
                path=file,
                expected=f"the {len(kept[0])} tensors of {files[0].name}",
                found=len(names),
                cause="the shards belong to different models, or one is cut off",
            )
        flat = next((n for n in names if shard_axis(n) is not None and len(shards[0][n].shape) != 2), None)
        if flat:
            raise ShapeError(f"tensor {flat!r} must have two dimensions", path=file, found=list(shards[0][flat].shape))
    return kept[0]


def _params(folder: Folder, tensors: Mapping[str, LazyTensor]) -> tuple[ModelParams, Path]:
    path = folder.path / "params.json"
    try:
        return params_of_meta(folder.json("params.json"), path), path
    except MissingFileError as error:
        embedding = tensors.get("tok_embeddings.weight")
        width = embedding.shape[-1] if embedding and embedding.shape else 0
        for size in PUBLISHED_SIZES:
            if size.n_embd == width:
                content = params_json(model_named(size.name))
                error.next_step = f"the weights look like {size.name}: write {content} into {path}"
        raise


def _check_all_shards(
    directory: Path, params: ModelParams, params_path: Path, tensors: Mapping[str, LazyTensor], n_files: int
) -> None:
    """The last shards may be missing without a gap in the numbers; then each matrix is narrower than it should be.

    Raises:
        MissingFileError: names them.
    """
    gate, wanted = tensors.get("layers.0.attention.wv.weight"), params.n_kv
    width = gate.shape[0] if gate is not None and gate.shape else 0
    total = wanted * n_files // width if width and wanted * n_files % width == 0 else n_files
    if n_files < total <= 64:
        absent = [f"consolidated.{i:02}.pth" for i in range(n_files, total)]
        raise MissingFileError(
            f"{', '.join(absent)} missing",
            path=directory,
            expected=f"{total} shards: by {params_path.name} wv has {wanted} rows",
            found=f"{n_files} with {width} rows",
            cause="the download is incomplete",
            next_step=f"copy the missing shards into the directory, then `doctor {directory}`",
        )


def _missing_shards(params: ModelParams, files: Sequence[Path]) -> str | None:
    if len(files) < params.n_shards:
        return f"{params.published or 'this width'} has {params.n_shards} shards, here are {len(files)}"
    return None
