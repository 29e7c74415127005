"""Reading what ``torch.save`` wrote (``.pth``, ``.pt``, ``.bin``), without torch and without trust.

The file is mapped, its directory and its pickle are checked (:mod:`.torch_zip`, :mod:`.pickle_reader`), and every
tensor is proven to lie within its record; no value is read. That makes opening 13 GB a matter of milliseconds. A
tensor's values are read when they are asked for, and before a storage hands out its first value, its CRC-32 is checked
once (``check_crc=False`` turns that off; legacy files have none).

**Names.** Tensors are named by their path in the saved object, joined by dots: the tensor ``w`` in
``{"model": {"w": ...}}`` is ``model.w``, in a list the position is the name, and a tensor saved by itself is
``tensor``. :attr:`PthFile.state_dict` is the same without a wrapper such as ``model.`` around all of them.

=============  =====================================================================================================
format         records besides ``data.pkl``, ``data/<key>`` and ``version``
=============  =====================================================================================================
torch-1.13     none: torch 1.6 to 2.0
torch-2.1      ``byteorder`` and ``.data/serialization_id``: torch 2.1 to 2.6
torch-2.7+     also ``.format_version`` and ``.storage_alignment``
legacy         no zip archive at all, see :mod:`.legacy`
=============  =====================================================================================================
"""

from __future__ import annotations

import mmap
import os
import re
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import numpy as np

from ggmlpy.files.errors import (
    BadMagicError,
    FormatError,
    IntegrityError,
    TruncatedError,
    UnsupportedError,
    UsageError,
)
from ggmlpy.files.kinds import FIRST_BYTES, kind_of, lookalike
from ggmlpy.files.mapping import check_length, map_file, read_out

from .legacy import read_legacy
from .pickle_reader import MAX_PICKLE, StateDict, Storage, TensorView, load_pickle, walk
from .shared_crc import SharedCrc
from .tensor import DTYPES, LazyTensor
from .torch_zip import STORED, Record, inflate, read_directory

__all__ = ["PthFile", "open_pth"]

_READ = 32 << 20  # bytes; what streams through a file asks for less at a time
_PAGE = 4096  # records up to this size have their CRC checked when the file is opened
_WRAPPERS = ("model", "state_dict", "module", "model_state_dict")
_SIDE_RECORDS = {
    "version": rb"([1-9]|10)\n?",  # 10 is the newest that torch 2.13 reads
    "byteorder": rb"little|big",
    ".format_version": rb"[0-9]{1,2}",
    ".storage_alignment": rb"[0-9]{1,8}",
    ".data/serialization_id": rb"[0-9]{40}",
}


def open_pth(path: str | os.PathLike[str], *, check_crc: bool = True) -> PthFile:
    """Open a checkpoint of ``torch.save``, zip or legacy. See :class:`PthFile`.

    Args:
        path: the file.
        check_crc: check a record's CRC-32 before its first value is handed out.

    Raises:
        MissingFileError: there is no such file.
        BadMagicError: it is neither a zip archive nor a pickle.
        TruncatedError, IntegrityError, UnsupportedError: see :mod:`.torch_zip` and :mod:`.pickle_reader`.
    """
    return PthFile(path, check_crc=check_crc)


class PthFile(Mapping[str, LazyTensor]):
    """An open checkpoint: a mapping from names to :class:`.LazyTensor`, and a context manager.

    Arrays that were read stay valid after :meth:`close`; tensors that were not read cannot be read any more.

    Attributes:
        path, size: the file and its bytes.
        format: ``"torch-1.13"``, ``"torch-2.1"``, ``"torch-2.7+"`` or ``"legacy"``.
        prefix: the directory in the archive, torch's base name of the file when it was saved; None in legacy files.
        tensors: name to tensor, in the order of the file.
        extras: what else was saved, by name: numbers, strings, None, empty containers.
        ordered: whether an OrderedDict was saved, not a plain dict.
        metadata: the ``_metadata`` attribute of a state dict, or None.
        records: the members of the archive; empty for legacy files.
        views: of each tensor, the elements of a storage that it is.
    """

    path: str
    size: int
    format: str
    prefix: str | None
    tensors: dict[str, LazyTensor]
    extras: dict[str, Any]
    ordered: bool
    metadata: dict[str, Any] | None
    records: dict[str, Record]
    views: dict[str, TensorView]

    def __init__(self, path: str | os.PathLike[str], *, check_crc: bool = True) -> None:
        self.path = os.fspath(path)
        self._check_crc = check_crc
        self._lock = threading.RLock()
        self._checked: set[str] = set()
        self._checking: dict[str, SharedCrc] = {}
        self._inflated: tuple[str, bytes] | None = None
        self._map: memoryview | None = _mapped(self.path)
        self.size = len(self._map)
        self.records = {}
        self.prefix = None
        try:
            if bytes(self._map[:2]) == b"PK":
                value, n_opcodes, record = self._open_zip()
            else:
                value, n_opcodes, record = self._open_legacy()
            self._name_leaves(value, n_opcodes, record)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<PthFile {self.path!r}: {self.format}, {len(self)} tensors, {self.size:,} bytes>"

    # -- mapping -----------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> LazyTensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __enter__(self) -> PthFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file. Arrays that are still in use keep their part of it alive."""
        self._map = None
        self._inflated = None

    def release(self) -> None:
        """Give back the memory of the pages read so far; what is read again comes from the file again.

        A mapped page counts as this process's memory once it has been touched, so a program that streams through a
        checkpoint calls this now and then. Arrays that were read stay valid. Does nothing where the system cannot.
        """
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.obj.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]

    @property
    def state_dict(self) -> dict[str, LazyTensor]:
        """The tensors of the model: those in the dict ``model``, ``state_dict``, ... of a training checkpoint, under
        their names within it; all of them where tensors are at the top level, or in no such dict."""
        depth = len(self._wrapper)
        inside = {name: keys for name, keys in self._keys.items() if keys[:depth] == self._wrapper}
        return {
            ".".join(keys[depth:]): self.tensors[name].with_(name=".".join(keys[depth:]))
            for name, keys in inside.items()
        }

    def verify(self) -> None:
        """Read the whole file once and check the CRC-32 of every record. (Legacy files have none: nothing to check.)

        Raises:
            IntegrityError: naming the first record whose content is not what was written.
        """
        for record in self.records.values():
            self._check(record)

    # -- opening -----------------------------------------------------------------------------------------------------

    def _open_zip(self) -> tuple[Any, int, str]:
        self.records = read_directory(self._buffer(), self.path)
        pickle = self._main_record()
        self.prefix = pickle.name[: -len("/data.pkl")]
        for record in self.records.values():
            if record.size <= _PAGE or record is pickle:
                self._check(record)
        self.format = self._side_records()
        content = self._content(pickle)
        base = pickle.data if pickle.method == STORED else None
        loaded = load_pickle(content, path=self.path, record=pickle.name, base=base)
        places = {storage.key: self._storage_record(storage) for storage in loaded.storages.values()}
        unused = [
            name
            for name in self.records
            if name.startswith(f"{self.prefix}/data/") and name.rpartition("/")[2] not in places
        ]
        if unused:
            raise self._refusal(f"record {unused[0]!r} belongs to no tensor", unused[0])
        self._legacy_places: dict[str, tuple[Storage, int]] = {}
        return loaded.value, loaded.n_opcodes, pickle.name

    def _open_legacy(self) -> tuple[Any, int, str]:
        buffer = self._buffer()
        _refuse_foreign(buffer, self.path)
        self.format = "legacy"
        value, n_opcodes, self._legacy_places = read_legacy(buffer, self.path)
        return value, n_opcodes, "main pickle"

    def _main_record(self) -> Record:
        """``<prefix>/data.pkl``, in an archive whose every record stands under ``<prefix>/``."""
        found = [record for record in self.records.values() if re.fullmatch(r"[^/]+/data\.pkl", record.name)]
        if len(found) != 1:
            script = any(name.endswith("/constants.pkl") for name in self.records)
            raise UnsupportedError(
                "no data.pkl in this archive" if not found else "more than one data.pkl in this archive",
                path=self.path,
                found=", ".join(list(self.records)[:5]) or "an empty archive",
                cause="a TorchScript program" if script else "a zip file that torch.save did not write",
                next_step=f"`identify {self.path}`",
            )
        pickle = found[0]
        if pickle.size > MAX_PICKLE:
            raise self._refusal(f"a pickle of {pickle.size:,} bytes", pickle.name, expected=f"at most {MAX_PICKLE:,}")
        prefix = pickle.name[: -len("data.pkl")]
        for name in self.records:
            rest = name[len(prefix) :]
            known = rest == "data.pkl" or rest in _SIDE_RECORDS or re.fullmatch(r"data/[0-9]{1,20}", rest)
            if not name.startswith(prefix) or not known:
                if rest == "constants.pkl" or rest.startswith("code/"):
                    raise UnsupportedError("a TorchScript program, not a checkpoint", path=self.path, field=name)
                raise self._refusal(f"record {name!r} is not part of a checkpoint", name)
        return pickle

    def _side_records(self) -> str:
        """Check the small records; return the name of the format."""
        present = {name: self.records.get(f"{self.prefix}/{name}") for name in _SIDE_RECORDS}
        content = {name: bytes(self._content(record)[:64]) for name, record in present.items() if record is not None}
        content.setdefault("version", b"")
        for name, text in content.items():
            if not re.fullmatch(_SIDE_RECORDS[name], text):
                raise self._refusal(
                    f"no record {name!r}, or not what it should be", f"{self.prefix}/{name}", found=text
                )
        if content.get("byteorder") == b"big":
            raise UnsupportedError(
                "written on a big-endian machine", path=self.path, field="byteorder", expected="little", found="big"
            )
        if ".format_version" in content:
            return "torch-2.7+"
        return "torch-2.1" if "byteorder" in content else "torch-1.13"

    def _storage_record(self, storage: Storage) -> Record:
        """The record of ``storage``, which must have exactly its size."""
        name = f"{self.prefix}/data/{storage.key}"
        record = self.records.get(name)
        if record is None:
            raise self._refusal(f"record {name!r} is missing", name, cause="the file was edited or cut off")
        if record.size != storage.nbytes:
            raise self._refusal(
                f"record {name!r} has another size than its tensors need",
                name,
                expected=f"{storage.nbytes:,} bytes ({storage})",
                found=f"{record.size:,}",
            )
        return record

    def _name_leaves(self, value: Any, n_opcodes: int, record: str) -> None:
        """Fill ``tensors``, ``extras`` and ``metadata`` from the loaded object."""
        self.tensors, self.extras, self.views, self._keys = {}, {}, {}, {}
        for keys, leaf in walk(value, n_opcodes, path=self.path, record=record):
            name = ".".join(keys)
            if name in self.tensors or name in self.extras:
                raise self._refusal(f"two values with the name {name!r}", record)
            if isinstance(leaf, TensorView):
                name = name if keys else "tensor"
                self.tensors[name], self.views[name] = self._lazy(name, leaf), leaf
                self._keys[name] = keys or (name,)
            elif isinstance(leaf, Storage):
                self.extras[name] = f"storage of {leaf}"
            elif leaf is None or isinstance(leaf, str | int | float | bool | list | tuple | dict):
                self.extras[name] = leaf
            else:
                self.extras[name] = getattr(leaf, "name", "")
        self._wrapper = _wrapper(list(self._keys.values()))
        self.ordered = isinstance(value, StateDict)
        self.metadata = _metadata(value, n_opcodes, self.path, record)

    # -- values ------------------------------------------------------------------------------------------------------

    def _lazy(self, name: str, view: TensorView) -> LazyTensor:
        return LazyTensor(
            name, view.shape, view.dtype, lambda a, b: self._read(view, a, b), f"{os.path.basename(self.path)}: {name}"
        )

    def _read(self, view: TensorView, start: int, stop: int) -> np.ndarray:
        """Rows of ``view``: read into memory, which fails like any reading where the file is cut short meanwhile.

        More at once than :data:`_READ`, such as a whole matrix, is a read-only array over the map; where the data of
        the file is not aligned, as in legacy files, or is compressed, it is a copy.
        """
        element = DTYPES[view.dtype]
        shape = (stop - start, *view.shape[1:]) if view.shape else ()
        if 0 in shape:
            return np.zeros(shape, element.stored)
        buffer, offset = self._storage_data(view.storage)
        first = view.offset + (start * view.strides[0] if view.shape else 0)
        strides = tuple(stride * element.size if n > 1 else 0 for n, stride in zip(view.shape, view.strides))
        array: np.ndarray = np.ndarray(shape, element.stored, buffer, offset + first * element.size, strides)
        if array.flags.c_contiguous and array.nbytes <= _READ:
            flat = read_out(array.reshape(-1).view(np.uint8), f"tensor data in {view.storage.key}")
            array = flat.view(element.stored).reshape(shape)
        return np.require(array, requirements="A")  # only torch.save aligns; kernels rely on it

    def _storage_data(self, storage: Storage) -> tuple[memoryview | bytes, int]:
        """Where the bytes of a storage lie: a buffer and the offset in it."""
        if storage.key in self._legacy_places:
            return self._buffer(), self._legacy_places[storage.key][1]
        record = self.records[f"{self.prefix}/data/{storage.key}"]
        if self._check_crc:
            self._check(record)
        if record.method == STORED:
            return self._buffer(), record.data
        return self._content(record), 0

    def data_offset(self, storage: Storage) -> int | None:
        """Where the data of a storage begins in the file; None if it is compressed."""
        if storage.key in self._legacy_places:
            return self._legacy_places[storage.key][1]
        record = self.records[f"{self.prefix}/data/{storage.key}"]
        return record.data if record.method == STORED else None

    def _check(self, record: Record) -> None:
        """Check the CRC of a record, once; threads that want the same record do it together."""
        with self._lock:
            if record.name in self._checked:
                return
            shared = self._checking.get(record.name) or self._checking.setdefault(record.name, self._crc_of(record))
        try:
            self._compare(record, shared.value())
        finally:
            with self._lock:
                self._checking.pop(record.name, None)

    def _crc_of(self, record: Record) -> SharedCrc:
        if record.method == STORED:
            return SharedCrc(self._buffer(), record.data, record.data + record.size, f"record {record.name!r}")
        content = memoryview(self._content(record))
        return SharedCrc(content, 0, len(content), f"record {record.name!r}")

    def _compare(self, record: Record, crc: int) -> None:
        if crc != record.crc:
            raise self._refusal(
                f"record {record.name!r} does not have the CRC-32 that was written",
                record.name,
                offset=record.data,
                expected=f"{record.crc:08x}",
                found=f"{crc:08x}",
                cause="the file was damaged on its way, or edited",
            )
        with self._lock:
            self._checked.add(record.name)

    def _content(self, record: Record) -> memoryview | bytes:
        """The bytes of a record; of the compressed ones the last is kept."""
        if record.method == STORED:
            return self._buffer()[record.data : record.data + record.size]
        with self._lock:
            if self._inflated is None or self._inflated[0] != record.name:
                self._inflated = None
                self._inflated = (record.name, inflate(self._buffer(), record, self.path))
            return self._inflated[1]

    def _buffer(self) -> memoryview:
        if self._map is None:
            raise UsageError(f"{self.path} is closed: read tensors within its with block")
        check_length(self._map)
        return self._map

    def _refusal(self, problem: str, record: str, **details: Any) -> FormatError:
        details.setdefault("cause", "the file was edited, or was not written by torch.save")
        next_step = "get the file again from its publisher and compare its SHA256"
        return IntegrityError(problem, path=self.path, field=record, next_step=next_step, **details)


def _mapped(path: str) -> memoryview:
    """The file, mapped; an empty one lacks the first bytes of a checkpoint."""
    try:
        return map_file(path)
    except TruncatedError as error:
        cause, next_step = "an interrupted download", "fetch it again, and compare its size with its source's"
        raise BadMagicError("the file is empty", path=path, offset=0, cause=cause, next_step=next_step) from error


def _refuse_foreign(buffer: memoryview, path: str) -> None:
    """Say what a file is that is neither a zip archive nor a pickle of protocol 2."""
    first = bytes(buffer[:FIRST_BYTES])
    kind = kind_of(first)
    is_safetensors = first[8:10] == b'{"' and int.from_bytes(first[:8], "little") <= len(buffer)
    if not is_safetensors and first[:1] in (b"\x80", b"c", b"(", b"]", b"}"):
        return  # a pickle: the interpreter names what it refuses
    cause, next_step = lookalike(first, path) or (None, f"`identify {path}`")
    if kind and kind.name == "tar":
        cause = "a tar archive: a packed checkpoint, or one of torch 0.1"
    if is_safetensors:
        cause, next_step = "a safetensors file", "name it model.safetensors, beside its config.json"
    raise BadMagicError(
        "not a checkpoint of torch.save",
        path=path,
        offset=0,
        expected='"PK" (zip) or 0x80 (pickle)',
        found=bytes(buffer[:4]),
        cause=cause,
        next_step=next_step,
    )


def _wrapper(paths: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The key of the dict that holds the model among others, as a path of one key; ``()`` if there is none.

    The nesting decides, not the spelling: ``model.norm.weight`` may well be a name at the top. Tensors at the top are a
    model if one has a dotted name, as parameters of modules do; a lone number beside the model, such as
    ``best_val_loss``, has none.
    """
    tops = [keys[0] for keys in paths if len(keys) == 1]
    if len(tops) == len(paths) or any("." in name for name in tops):
        return ()
    heads = {keys[0] for keys in paths}
    return next(((key,) for key in _WRAPPERS if key in heads), ())


def _metadata(value: Any, n_opcodes: int, path: str, record: str) -> dict[str, Any] | None:
    """The ``_metadata`` of a state dict, once it is known to be finite."""
    if not isinstance(value, StateDict) or "_metadata" not in value.state:
        return None
    for _ in walk(value.state, n_opcodes, path=path, record=record):
        pass
    return dict(value.state["_metadata"]) if isinstance(value.state["_metadata"], dict) else None
