"""What the pickle of a checkpoint may hold: the allow-list of names, and the inert values that they make.

A pickle calls functions by name. Of those names only the ones in :data:`GLOBALS` are known, and none of them is ever
looked up or called: ``_rebuild_tensor_v2`` becomes a :class:`TensorView` (four numbers and a storage), ``OrderedDict``
a :class:`StateDict`, the others text or tuples. A tensor is *proven* to lie within its storage here, in Python
integers, before any array exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from ggmlpy.files.errors import FormatError, IntegrityError, UnsupportedError

from .tensor import DTYPES

__all__ = ["GLOBALS", "REDUCERS", "Global", "Machine", "StateDict", "Storage", "TensorView"]

MAX_AXES = 32  # numpy's own limit before 2.0

ATTACK = "the file tries to run code, or holds Python objects besides tensors"
BOMB = "the file is built to exhaust memory or time"
SAVE_PLAINLY = "save it again with torch.save: plain tensors in a dict, contiguous, default protocol"
LEAVE_ALONE = "do not load this file with anything; get it again from its publisher"
FOREIGN = "the file is damaged, was edited, or was not written by torch.save"


@dataclass(frozen=True)
class Storage:
    """A run of elements in the file that tensors are views of."""

    key: str  # names the record data/<key>, or the place in the list of a legacy file
    dtype: str | None  # None: bytes without a type (torch.storage.UntypedStorage)
    size: int  # in elements; in bytes if untyped
    location: str  # the device it was saved from: "cpu", "cuda:0"

    def __str__(self) -> str:
        return f"{self.size:,} x {self.dtype or 'byte'}"

    @property
    def nbytes(self) -> int:
        """Bytes that the storage takes in the file."""
        return self.size * (DTYPES[self.dtype].size if self.dtype else 1)


@dataclass(frozen=True)
class TensorView:
    """A tensor: the elements ``offset + sum(index * stride)`` of its storage."""

    storage: Storage
    dtype: str
    offset: int  # in elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


class StateDict(dict[Any, Any]):
    """An OrderedDict of the file; ``state`` holds its attributes, such as ``_metadata``."""

    state: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.state = {}


@dataclass(frozen=True)
class Global:
    """A name that the pickle may mention. It stands for itself; nothing is looked up."""

    role: str  # rebuild, parameter, ordered, size, device, storage, dtype
    name: str
    dtype: str | None = None


def _globals() -> dict[tuple[str, str], Global]:
    table = {
        ("collections", "OrderedDict"): Global("ordered", "OrderedDict"),
        ("torch._utils", "_rebuild_tensor"): Global("rebuild", "_rebuild_tensor"),
        ("torch._utils", "_rebuild_tensor_v2"): Global("rebuild", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_tensor_v3"): Global("rebuild", "_rebuild_tensor_v3"),
        ("torch._utils", "_rebuild_parameter"): Global("parameter", "_rebuild_parameter"),
        ("torch", "Size"): Global("size", "Size"),
        ("torch", "device"): Global("device", "device"),
        ("torch.storage", "UntypedStorage"): Global("storage", "UntypedStorage"),
    }
    for entry in DTYPES.values():
        table["torch", entry.name] = Global("dtype", entry.name, entry.name)
        if entry.storage:
            table["torch", entry.storage] = Global("storage", entry.storage, entry.name)
    return table


GLOBALS = _globals()


class Machine(Protocol):
    """What the makers ask of the interpreter: to refuse, and to say which tensor is at work."""

    def refuse(
        self,
        problem: str,
        error: type[FormatError] = IntegrityError,
        *,
        expected: object = None,
        found: object = None,
        cause: str | None = None,
        next_step: str | None = None,
    ) -> NoReturn: ...

    def tensor_name(self) -> str: ...


# -- what REDUCE may make ----------------------------------------------------------------------------------------------


def make_ordered(machine: Machine, function: Global, arguments: tuple[Any, ...]) -> StateDict:
    if arguments:
        machine.refuse("OrderedDict with arguments", cause="saved by Python 2, or edited")
    return StateDict()


def make_size(machine: Machine, function: Global, arguments: tuple[Any, ...]) -> tuple[int, ...]:
    if len(arguments) != 1 or not is_integers(arguments[0]):
        machine.refuse("torch.Size of something else than integers")
    return arguments[0]


def make_device(machine: Machine, function: Global, arguments: tuple[Any, ...]) -> str:
    if len(arguments) not in (1, 2) or type(arguments[0]) is not str or not is_integers(arguments[1:]):
        machine.refuse("torch.device of something else than a name and a number")
    return ":".join(str(part) for part in arguments)


def make_parameter(machine: Machine, function: Global, arguments: tuple[Any, ...]) -> TensorView:
    if len(arguments) != 3 or not isinstance(arguments[0], TensorView):
        machine.refuse("_rebuild_parameter of something else than a tensor")
    _no_hooks(machine, arguments[1], arguments[2])
    return arguments[0]


def make_tensor(machine: Machine, function: Global, arguments: tuple[Any, ...]) -> TensorView:
    """(storage, offset, size, stride[, requires_grad, hooks[, dtype][, metadata]]), by version."""
    typed = function.name == "_rebuild_tensor_v3"
    least, most = {"_rebuild_tensor": (4, 4), "_rebuild_tensor_v2": (6, 7), "_rebuild_tensor_v3": (7, 8)}[function.name]
    if not least <= len(arguments) <= most or not isinstance(arguments[0], Storage):
        machine.refuse(f"{function.name} with other arguments than a tensor's")
    if len(arguments) > 4:
        _no_hooks(machine, arguments[4], arguments[5])
    metadata = arguments[6 + typed :]
    if metadata not in ((), (None,), ({},)):
        machine.refuse("a tensor with metadata", UnsupportedError, cause="a conjugated or negated view")
    dtype = arguments[6].dtype if typed and isinstance(arguments[6], Global) else arguments[0].dtype
    if dtype is None:
        machine.refuse("a tensor without an element type")
    return proven(machine, TensorView(arguments[0], dtype, *arguments[1:4]))


def _no_hooks(machine: Machine, requires_grad: Any, hooks: Any) -> None:
    if type(requires_grad) is not bool or not isinstance(hooks, StateDict) or hooks or hooks.state:
        machine.refuse("a tensor with backward hooks", cause=ATTACK)


def proven(machine: Machine, view: TensorView) -> TensorView:
    """``view``, once it is certain that each of its elements lies within its storage."""
    name = machine.tensor_name()
    if type(view.offset) is not int or not is_integers(view.shape) or not is_integers(view.strides):
        machine.refuse(f"tensor {name!r} has an offset, shape or strides that are not integers")
    if len(view.shape) != len(view.strides) or len(view.shape) > MAX_AXES:
        machine.refuse(f"tensor {name!r} has {len(view.shape)} axes and {len(view.strides)} strides")
    if view.offset < 0 or min(view.shape, default=0) < 0 or min(view.strides, default=0) < 0:
        found = f"offset {view.offset}, shape {list(view.shape)}, strides {list(view.strides)}"
        machine.refuse(f"tensor {name!r} has a negative offset, shape or stride", found=found)
    if math.prod(max(n, 1) for n in view.shape) * DTYPES[view.dtype].size >= 1 << 62:
        machine.refuse(f"tensor {name!r} has an impossible shape", found=list(view.shape))
    available = view.storage.nbytes // DTYPES[view.dtype].size
    size = math.prod(view.shape)
    last = sum((n - 1) * stride for n, stride in zip(view.shape, view.strides)) if size else -1
    if view.offset + last >= available or size > available or view.offset > available:
        machine.refuse(
            f"tensor {name!r} is larger than its storage {view.storage.key}",
            expected=f"at most {available:,} elements",
            found=f"shape {list(view.shape)}, strides {list(view.strides)}, offset {view.offset}",
            cause="the file was edited, or an expanded tensor was saved (use .contiguous() before saving)",
        )
    return view


REDUCERS: dict[str, Callable[[Machine, Global, tuple[Any, ...]], Any]] = {
    "ordered": make_ordered,
    "size": make_size,
    "device": make_device,
    "rebuild": make_tensor,
    "parameter": make_parameter,
}


def is_integers(values: Any) -> bool:
    return type(values) is tuple and all(type(value) is int for value in values)


def kind_of_value(value: Any) -> str:
    return f"{value.role} {value.name}" if isinstance(value, Global) else type(value).__name__


def short(value: Any) -> str:
    """``value`` for a message: at most 60 characters, and of a container only its kind."""
    if type(value) is str:
        return repr(value[:60])
    return repr(value) if type(value) in (int, float, bool, type(None)) else kind_of_value(value)
