"""What a merged model is written as: Meta's checkpoint, Hugging Face's, or a GGML file.

**Crash safety.** A directory is written in a folder ``.merge-partial`` inside it, each file appearing there when it is
whole; when all are, they are renamed into place, ``params.json`` (``config.json``) last. So under their final names
there is the old state or the finished new one. A run that was killed leaves the folder; ``resume`` takes finished
shards from it if base, adapters and options are still the same, and otherwise says what differs. A GGML file is one
file: it appears when it is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy.files.atomic import atomic_write, require_space
from ggmlpy.files.errors import OutputError, ShapeError, UsageError
from ggmlpy.files.json_files import read_json
from ggmlpy.formats.carrying import carry
from ggmlpy.formats.containers import CONTAINERS, GGUF
from ggmlpy.formats.eras import GGUF_ERA, era_of
from ggmlpy.formats.file_types import TypeChooser, fallback_notes, file_type_of
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.out_tensor import OutTensor, made_by_rows
from ggmlpy.formats.tensor_names import ggml_names, is_known, meta_names, plain_name, rename, shard_axis, unwrapped
from ggmlpy.formats.tensor_types import type_named
from ggmlpy.formats.writer import write_model, written_size
from ggmlpy.quantizers.rows import quantize_rows
from llama_ref.checkpoint import LazyTensor
from llama_ref.checkpoint.folder import Folder, is_weight_file, weight_file_names
from llama_ref.checkpoint.layout import in_layout
from llama_ref.checkpoint.params import params_json
from llama_ref.checkpoint.rope_freqs import rope_freqs_of
from llama_ref.checkpoint.weights import open_weights, weights_kind, weights_size, write_weights
from llama_ref.conversion.checkpoints import SHARD_SIZE, huggingface_files, kept_from
from llama_ref.conversion.ggml import carried_notes
from llama_ref.vocabulary.sentencepiece_model import tokenizer_side_files

from .checks import EMBEDDING, OUTPUT, Chain
from .plan import CheckedMerge
from .stream import MergedModel, MergedTensor

__all__ = ["STAGE", "DirectoryTarget", "GgmlTarget", "HuggingFaceTarget", "PthTarget", "Target"]

STAGE = ".merge-partial"


class Target(ABC):
    """Something that a merged model is written as."""

    def __init__(self, plan: CheckedMerge) -> None:
        self.plan = plan

    @abstractmethod
    def sizes(self) -> dict[Path, int]:
        """Final path -> bytes, of the large files."""

    @abstractmethod
    def notes(self) -> list[str]:
        """What of the base's numbers the target cannot say but its reader must know.

        Raises:
            UnsupportedError: its reader would compute something else.
        """

    @abstractmethod
    def write(self, *, force: bool, resume: bool) -> tuple[list[Path], list[str]]:
        """Write everything; returns the files and the names of those taken from an interrupted run."""


class DirectoryTarget(Target):
    """A directory of files: staged, then renamed into place."""

    last = ""  # the file without which readers see no model

    @abstractmethod
    def tensors(self) -> dict[str, list[LazyTensor]]:
        """The tensors of each weight file by its name, in order."""

    @abstractmethod
    def small_files(self) -> dict[str, bytes]:
        """Name -> content of the others, but those of the tokenizer."""

    def small_content(self) -> dict[str, bytes]:
        """Name -> content of all files but the weights."""
        return {**_tokenizer_content(self.plan.chain), **self.small_files()}

    def sizes(self) -> dict[Path, int]:
        return {self.plan.output / name: self._size(name, tensors) for name, tensors in self.tensors().items()}

    def _size(self, name: str, tensors: list[LazyTensor]) -> int:
        return weights_size(self.plan.output / name, tensors, self.plan.options.torch_format)

    def write(self, *, force: bool, resume: bool) -> tuple[list[Path], list[str]]:
        shards = self.tensors()
        small = self.small_content()
        names = [*shards, *small]
        stage = self.plan.output / STAGE
        half_published = resume and stage.is_dir() and not (self.plan.output / self.last).exists()
        _refuse_existing(self.plan.output, names, force or half_published)
        done = _prepare_stage(stage, _identity(self.plan), resume)
        sizes = {name: self._size(name, tensors) for name, tensors in shards.items()}
        resumed = [name for name, size in sizes.items() if done.get(name) == size]
        try:
            first = self.plan.output / names[0]
            require_space(first, sum(size for name, size in sizes.items() if name not in resumed))
            for name, tensors in shards.items():
                if name not in resumed:
                    write_weights(
                        stage / name, tensors, self.plan.options.torch_format, workers=self.plan.model.workers
                    )
        except BaseException:
            _forget_if_empty(stage, shards)
            raise
        for name, content in small.items():
            with atomic_write(stage / name) as stream:
                stream.write(content)
        _publish(stage, self.plan.output, sorted(names, key=lambda name: name == self.last), self.last)
        return [self.plan.output / name for name in names], resumed


class PthTarget(DirectoryTarget):
    """``consolidated.NN.pth`` and ``params.json``, byte for byte what the original script saves."""

    last = "params.json"

    def tensors(self) -> dict[str, list[LazyTensor]]:
        """The tensors of each shard by the file's name."""
        model, n = self.plan.model, self.plan.n_shards
        names = meta_names(self.plan.base.params.n_layer)
        return {f"consolidated.{k:02}.pth": [_shard_of(model, name, k, n) for name in names] for k in range(n)}

    def small_files(self) -> dict[str, bytes]:
        base = self.plan.base
        return {"params.json": params_json(base.params, kept_from(base, "meta")).encode()}

    def notes(self) -> list[str]:
        base = self.plan.base
        return carry(base.params, "meta", base.layout, base.params_path)


def _shard_of(model: MergedModel, name: str, k: int, n: int) -> LazyTensor:
    """Shard ``k`` of ``n`` of a merged tensor; of the vocabulary's odd rows the last shard gets the remainder."""
    axis, shape = shard_axis(name), model.shape_of(name)
    if n == 1 or axis is None:
        return model.tensor(name)
    width, remainder = divmod(shape[axis], n)
    if remainder and name != OUTPUT:
        raise UsageError(f"{name} {list(shape)} cannot be cut into {n} shards: choose another --shards")
    part = slice(k * width, (k + 1) * width + (remainder if k == n - 1 else 0))
    return model.tensor(name, rows=part) if axis == 0 else model.tensor(name, columns=part)


class HuggingFaceTarget(DirectoryTarget):
    """Weights in one file or in parts with an index, and ``config.json`` with the new vocabulary.

    A base in this layout lends its own parts, index and configuration, as in the low-memory script, unless another kind
    of weights or size of parts is asked for; otherwise parts are cut as transformers does.
    """

    last = "config.json"

    def tensors(self) -> dict[str, list[LazyTensor]]:
        """The tensors of each weight file by its name."""
        return self._files()[0]

    def _files(self) -> tuple[dict[str, list[LazyTensor]], dict[str, str]]:
        base, options, own = self.plan.base, self.plan.options, "bin"
        if base.layout == "huggingface":
            own = weights_kind(base.files[0])
            all_in_files = len(base.original_names) == len(
                base.tensors
            )  # not so if the output is tied to the embedding
            if options.shard_size is None and options.weights in (None, own) and all_in_files:
                return self._parts_of_the_base()
        return huggingface_files(
            self.plan.model.checkpoint, weights=options.weights or own, shard_size=options.shard_size or SHARD_SIZE
        )

    def _parts_of_the_base(self) -> tuple[dict[str, list[LazyTensor]], dict[str, str]]:
        files: dict[str, list[LazyTensor]] = {}
        for path in self.plan.base.files:
            with open_weights(path) as opened:
                files[path.name] = [self._merged_or_derived(name, tensor) for name, tensor in opened.items()]
        total = sum(tensor.nbytes for tensors in files.values() for tensor in tensors)
        weight_map = {tensor.name: name for name, tensors in files.items() for tensor in tensors}
        changes: dict[str, dict[str, Any]] = {
            "config.json": {"vocab_size": self.plan.chain.n_vocab, "torch_dtype": self.plan.model.dtype_of(EMBEDDING)},
            "generation_config.json": {},
        }
        if len(files) > 1:
            _, index = weight_file_names(weights_kind(self.plan.base.files[0]), len(files))
            own = self._changed_json(index, {"metadata": {"total_size": total}})
            changes[index] = {"weight_map": weight_map, **json.loads(own)}
        return files, {name: self._changed_json(name, change) for name, change in changes.items()}

    def _merged_or_derived(self, name: str, tensor: LazyTensor) -> LazyTensor:
        """The merged tensor of that name; the rotary frequencies, which no adapter changes, as they are."""
        if not is_known(plain_name(name)):
            return LazyTensor.of_array(name, tensor.numpy().copy(), source=tensor.source)
        merged = self.plan.model.tensor(rename(plain_name(name), "meta"))
        return in_layout(merged, "huggingface", self.plan.base.params).with_(name=unwrapped(name))

    def _changed_json(self, name: str, changes: dict[str, Any]) -> str:
        """The base's file of that name (if it has one) with values changed, formatted as the script does."""
        path = self.plan.base.path / name
        before = read_json(path) if path.is_file() else {}
        return json.dumps({**before, **changes}, indent=2)

    def small_files(self) -> dict[str, bytes]:
        return {name: text.encode() for name, text in self._files()[1].items()}

    def notes(self) -> list[str]:
        base = self.plan.base
        return carry(base.params, "huggingface", base.layout, base.params_path)


class GgmlTarget(Target):
    """One GGML or GGUF file, f16 or quantized: what converting (and quantizing) the merged .pth would give."""

    def __init__(self, plan: CheckedMerge) -> None:
        super().__init__(plan)
        family, _, kind = plan.options.output_type.partition("-")
        if plan.chain.has_json_tokenizer:
            raise UsageError(f"{plan.chain.tokenizer.path} is the model's tokenizer: --output-type gguf-f16")
        self.era = era_of(GGUF_ERA if family == "gguf" else plan.options.era)
        self.file_type = None if kind == "f16" else file_type_of(kind, self.era)
        if family == "gguf":
            self.container, self.version = "gguf", 3
        elif self.file_type is None and self.era.container == "ggjt":
            self.container, self.version = "ggjt", 1
        else:
            self.container, self.version = self.era.container, self.era.version
        if self.era.container != "ggjt" and plan.base.params.n_shards > 1:
            raise UsageError(f"era {self.era} has several files for a model of this size: merge to pth, then convert")
        output = plan.output
        suffix = "gguf" if family == "gguf" else "bin"
        self.path = output / f"ggml-model-{kind}.{suffix}" if output.is_dir() else output

    @property
    def hparams(self) -> ModelParams:
        """What the file says of the model, as far as its container has a place for it."""
        p = self.plan.base.params
        file_type = 1 if self.file_type is None else self.file_type.id
        return replace(p, n_vocab=self.plan.chain.n_vocab, ftype=file_type)

    def notes(self) -> list[str]:
        container = GGUF if self.container == "gguf" else CONTAINERS[self.container]
        choose = self._chooser()
        self.tensors(choose)
        fallbacks = choose.fallbacks.values() if choose else ()
        return [*carried_notes(self.plan.base, container, self.version), *fallback_notes(fallbacks)]

    def _names(self) -> list[str]:
        n_layer = self.plan.base.params.n_layer
        return ggml_names(n_layer) if self.era.has_convert_py else meta_names(n_layer)

    def _chooser(self) -> TypeChooser | None:
        return TypeChooser(self.file_type, self.era, self._names()) if self.file_type else None

    def tensors(self, choose: TypeChooser | None = None) -> list[OutTensor]:
        """In the order of the era's converter."""
        choose = choose or self._chooser()
        scaling = rope_freqs_of(self.plan.base.params) if self.container == "gguf" else []
        return [*scaling, *(self._tensor(self.plan.model.tensor(name), choose) for name in self._names())]

    def _tensor(self, tensor: MergedTensor, choose: TypeChooser | None) -> OutTensor:
        source = type_named("f16" if len(tensor.shape) == 2 else "f32", self.container, self.version)
        kind = (choose(tensor.name, tensor.shape, source) if choose else None) or source
        if tensor.shape[-1] % kind.blck_size:
            raise ShapeError(
                f"rows of tensor {tensor.name!r} can't be divided into blocks of {kind.name}",
                path=self.plan.base.path,
                expected=f"a multiple of {kind.blck_size} columns",
                found=tensor.shape[-1],
                next_step="--output-type ggml-f16",
            )

        def rows(start: int, stop: int) -> np.ndarray:
            values = tensor.lines(start, stop)
            return quantize_rows(values, kind.name, self.era) if kind.quantized else values.astype(kind.block)

        return made_by_rows(tensor.name, kind, tensor.shape, rows, taken=tensor.lines_taken)

    def sizes(self) -> dict[Path, int]:
        return {self.path: written_size(*self._content())}

    def _content(self) -> tuple[str, int, ModelParams, Iterable[tuple[bytes, float]], list[OutTensor]]:
        """What :func:`ggmlpy.write_model` and :func:`ggmlpy.formats.writer.written_size` take."""
        return self.container, self.version, self.hparams, self.plan.chain.tokenizer, self.tensors()

    def write(self, *, force: bool, resume: bool) -> tuple[list[Path], list[str]]:
        if self.path.exists() and not force:
            raise UsageError(f"{self.path} is there already; use --force to replace it, or name another file")
        write_model(self.path, *self._content(), workers=self.plan.model.workers)
        return [self.path], []


# ── the stage ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _refuse_existing(output: Path, names: Sequence[str], force: bool) -> None:
    there = [name for name in names if (output / name).exists()]
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; name a directory for this output type")
    seen = Folder.of(output).names if output.is_dir() else ()
    stale = [name for name in seen if is_weight_file(name) and name not in names]
    if stale:
        raise UsageError(f"{output} holds weights of another model ({', '.join(stale[:5])}): remove them first")
    if there and not force:
        raise UsageError(
            f"{output} holds {', '.join(there[:5])} already; use --force to replace, or name another directory"
        )


def _identity(plan: CheckedMerge) -> dict[str, Any]:
    """What must be the same for a shard of an earlier run to be a shard of this one."""
    sources = [*plan.base.files, plan.base.params_path]
    for adapter in plan.adapters:
        sources += [adapter.path] if adapter.path.is_file() else [adapter.config.path, adapter.weights]
    options = plan.options
    return {
        "base": str(plan.base.path.resolve()),
        "adapters": [str(adapter.path.resolve()) for adapter in plan.adapters],
        "files": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in sources],
        "output": [options.output_type, options.torch_format, plan.n_shards, options.weights, str(options.shard_size)],
        "arithmetic": [options.dtype, options.fan_in_fan_out],
        "vocabulary": [plan.chain.n_vocab, options.init, options.seed],
    }


def _prepare_stage(stage: Path, identity: dict[str, Any], resume: bool) -> dict[str, int]:
    """An empty stage, or that of the same merge; returns name -> bytes of the whole files in it."""
    marker = stage / "merge.json"
    wanted = json.dumps(identity, indent=1)
    if resume and stage.is_dir():
        try:
            before = json.loads(marker.read_text())
        except (OSError, ValueError, RecursionError):
            before = None
        said = before if isinstance(before, dict) else {}
        different = [key for key in identity if not said or said.get(key) != json.loads(wanted)[key]]
        if different:
            raise UsageError(
                f"{stage} holds another merge (different: {', '.join(different)}); leave --resume out to start again"
            )
        for leftover in stage.glob(".*.partial"):
            leftover.unlink()
        return {path.name: path.stat().st_size for path in stage.iterdir() if path != marker}
    try:
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
    except OSError as error:
        raise OutputError(
            f"cannot write: {error.strerror}", path=stage, next_step="choose a directory that you may write to"
        ) from error
    with atomic_write(marker) as stream:
        stream.write(wanted.encode())
    return {}


def _forget_if_empty(stage: Path, names: Iterable[str]) -> None:
    """After a failure: remove a stage in which nothing was finished, and the output directory if it was made for it."""
    if not any((stage / name).exists() for name in names):
        shutil.rmtree(stage, ignore_errors=True)
        with contextlib.suppress(OSError):
            stage.parent.rmdir()  # refuses if there is anything in it


def _publish(stage: Path, output: Path, names: Sequence[str], last: str) -> None:
    """Rename finished files into place; an older ``last`` goes first, so that no reader takes a mixture for a model."""
    (output / last).unlink(missing_ok=True)
    for name in names:
        os.replace(stage / name, output / name)
    shutil.rmtree(stage, ignore_errors=True)


def _tokenizer_content(chain: Chain) -> dict[str, bytes]:
    """The files of the result's tokenizer; side files that are missing are made as transformers saves them."""
    files = {name: path.read_bytes() for name, path in chain.tokenizer_files.items()}
    if "tokenizer.model" not in files:
        return files
    pad = "[PAD]" if chain.tokenizer.base[-1][0] == b"[PAD]" else None
    return {**tokenizer_side_files(pad), **files}
