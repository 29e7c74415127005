"""Hugging Face's layout: safetensors or ``pytorch_model*.bin``, whole or in parts with an index, and ``config.json``.

Names and the rows of wq and wk differ from Meta's (:mod:`ggmlpy.formats.tensor_names`, :mod:`.layout`). Here tensors
come out under Meta names and in Meta's order of rows, so that nothing downstream has to ask.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from ggmlpy.files.errors import FormatError, MissingFileError, ShapeError
from ggmlpy.files.paths import stays_inside
from ggmlpy.formats.tensor_names import rename

from .layout import Checkpoint, check_model, directory_of, in_layout, known_tensors
from .params import read_config_json, read_json
from .pth import PthFile, open_pth
from .safetensors_file import SafetensorsFile
from .tensor import LazyTensor

__all__ = ["find_weight_files", "open_huggingface"]

_KINDS = (
    # single file,      index,                            parts
    ("model.safetensors", "model.safetensors.index.json", re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", re.compile(r"pytorch_model-(\d{5})-of-(\d{5})\.bin")),
)


def find_weight_files(directory: str | os.PathLike[str]) -> list[Path]:
    """The weight files of a directory in order, safetensors before ``.bin``; an empty list where there are none.

    Raises:
        MissingFileError: the index, or the numbers in the names, promise a file that is not there.
    """
    directory = Path(directory)
    for single, index, pattern in _KINDS:
        if (directory / index).is_file():
            return _from_index(directory / index)
        if (directory / single).is_file():
            return [directory / single]
        parts = {path.name: match for path in directory.iterdir() if (match := pattern.fullmatch(path.name))}
        if parts:
            return _from_numbers(directory, parts)
    return []


def _from_index(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise FormatError("has no weight_map", path=index, field="weight_map", found=str(weight_map)[:80])
    names = sorted(set(weight_map.values()))
    for name in names:
        if PurePosixPath(name).name != name or not stays_inside(name):
            raise FormatError(
                "names a file outside its directory",
                path=index,
                found=repr(name)[:120],
                cause="a damaged or forged index",
            )
    return _all_there(index.parent, names, f"{index.name}")


def _from_numbers(directory: Path, parts: Mapping[str, re.Match[str]]) -> list[Path]:
    totals = {match[2] for match in parts.values()}
    if len(totals) > 1:
        raise FormatError(
            "parts of different models", path=directory, found=", ".join(sorted(parts)), cause="two downloads mixed"
        )
    first = next(iter(parts.values()))
    total = int(first[2])
    names = [first.string[: first.start(1)] + f"{i:05}" + first.string[first.end(1) :] for i in range(1, total + 1)]
    return _all_there(directory, names, "the numbers in their names")


def _all_there(directory: Path, names: list[str], source: str) -> list[Path]:
    absent = [name for name in names if not (directory / name).is_file()]
    if absent:
        raise MissingFileError(
            f"{', '.join(absent[:8])} missing",
            path=directory,
            expected=f"{len(names)} weight files by {source}",
            found=len(names) - len(absent),
            cause="the download is incomplete",
            next_step="fetch the missing files",
        )
    return [directory / name for name in names]


def open_huggingface(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a model in Hugging Face's layout.

    Arguments:
        path: its directory, or a file in it.

    Raises:
        MissingFileError: no weights, a part missing, or no config.json.
        FormatError: a file is bad, or weights and config do not fit together.
    """
    directory = directory_of(path)
    files = find_weight_files(directory)
    if not files:
        raise MissingFileError("no model.safetensors or pytorch_model.bin here", path=directory)
    config = directory / "config.json"
    params = read_config_json(config)
    with contextlib.ExitStack() as stack:
        mapped: list[PthFile] = []
        originals = _tensors(files, stack, mapped)
        try:
            tensors = {
                rename(name, "meta"): in_layout(
                    tensor.with_(name=rename(name, "meta"), layout="huggingface"), "meta", params.n_head
                )
                for name, tensor in originals.items()
            }
        except ShapeError as error:
            error.path, error.next_step = os.fspath(directory), f"`doctor {directory}`"
            raise
        _tie(config, tensors)
        check_model(directory, params, config, tensors, _unfinished(directory, files))
        names = {rename(name, "meta"): name for name in originals}
        return Checkpoint(
            directory,
            "huggingface",
            params,
            config,
            tensors,
            files,
            names,
            notes=list(_special_ids(config)),
            _open=stack.pop_all(),
            _mapped=mapped,
        )


def _tensors(files: list[Path], stack: contextlib.ExitStack, mapped: list[PthFile]) -> dict[str, LazyTensor]:
    """The known tensors of all files by their own names."""
    found: dict[str, LazyTensor] = {}
    for file in files:
        opened: Mapping[str, LazyTensor]
        if file.suffix == ".safetensors":
            opened = stack.enter_context(SafetensorsFile(file))
        else:
            pth = stack.enter_context(open_pth(file))
            mapped.append(pth)
            opened = pth.state_dict
        for name in known_tensors(file, opened):
            if name in found:
                raise ShapeError(
                    f"tensor {name!r} is in two files", path=file, cause="parts of two downloads mixed in one directory"
                )
            found[name] = opened[name]
    return found


def _tie(config: Path, tensors: dict[str, LazyTensor]) -> None:
    """A model may say that its output matrix is the embedding; then the file holds only one of them."""
    embedding = tensors.get("tok_embeddings.weight")
    if embedding and "output.weight" not in tensors and read_json(config).get("tie_word_embeddings") is True:
        tensors["output.weight"] = embedding.with_(name="output.weight", source=f"{embedding.source}, tied")


def _special_ids(config: Path) -> Iterator[str]:
    """Early third-party conversions of LLaMA carry wrong ids (0 and 1); what was trained on them is as wrong."""
    record = read_json(config)
    for key, expected in (("bos_token_id", 1), ("eos_token_id", 2)):
        if record.get(key, expected) != expected:
            yield (
                f"{config} says {key} {record[key]}, LLaMA's is {expected}: an early third-party conversion. Adapters "
                "trained on another base do not fit it: compare the tensors (`fingerprint`)"
            )


def _unfinished(directory: Path, files: list[Path]) -> str | None:
    if list(directory.glob("adapter_model.*")):
        return "the directory holds a LoRA adapter beside or instead of a model"
    return f"{len(files)} weight files do not hold a whole model" if len(files) > 1 else None
