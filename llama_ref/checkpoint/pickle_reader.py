"""The pickle inside a checkpoint, interpreted without ever importing or calling anything.

``torch.save`` writes a program for a small stack machine. The real machine (``pickle``) can call any function of any
module; this one knows only what a checkpoint of tensors needs, and whatever else is found ends the reading. It is an
allow-list: 31 opcodes of protocol 2 (:data:`_OPCODES`), and as globals only names that become inert values of this
module: the ``_rebuild_tensor`` functions, ``OrderedDict``, ``Size``, ``device``, storage classes and dtypes.

Beyond that, what the interpreter accepts is what Python's pickler produces: one PROTO at the start and one STOP at the
end, memo numbers 0, 1, 2, … in order, containers filled after they were made, no key twice. Limits, each with its
reason:

=================  ==========  =======================================================================================
opcodes            2,000,000   each tensor takes 33; the largest known checkpoints hold some 10,000 tensors
values in a frame  4,096       the pickler fills containers in batches of 1,000 (2,000 values for a dict)
open marks         64          one per level of nesting, and two within a tensor
nesting            32          a training checkpoint is 4 or 5 deep
nodes walked out   opcodes     only an attacker has values fetched from the memo written out again and again
=================  ==========  =======================================================================================

A tensor is *proven* to lie within its storage (:mod:`.pickle_values`) before any array exists.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from ggmlpy.files.errors import FormatError, IntegrityError, TruncatedError, UnsupportedError

from .pickle_values import (
    ATTACK,
    BOMB,
    FOREIGN,
    GLOBALS,
    LEAVE_ALONE,
    REDUCERS,
    SAVE_PLAINLY,
    Global,
    StateDict,
    Storage,
    TensorView,
    kind_of_value,
    short,
)
from .tensor import DTYPES

__all__ = ["LEGACY_MAGIC", "MAX_PICKLE", "Loaded", "StateDict", "Storage", "TensorView", "load_pickle", "walk"]

MAX_PICKLE = 32 << 20  # bytes of a pickle; the data.pkl of LLaMA-65B has 90,000
MAX_OPCODES = 2_000_000
MAX_FRAME = 4_096
MAX_MARKS = 64
MAX_DEPTH = 32
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the only integer above 64 bits that torch itself writes


@dataclass(frozen=True)
class Loaded:
    """What a pickle says."""

    value: Any  # dicts, lists, tuples, strings, numbers, None, Storage, TensorView
    length: int  # bytes from PROTO to STOP
    n_opcodes: int  # a bound for walk()
    storages: dict[str, Storage]  # every storage mentioned, by key


def load_pickle(
    data: bytes | memoryview, *, path: str, record: str, base: int | None = 0, exact: bool = True
) -> Loaded:
    """Interpret one pickle.

    Args:
        data: the bytes, from the first opcode on.
        path, record: the file and the part of it, for messages.
        base: offset of ``data`` in the file, for messages; None where the record was compressed.
        exact: the pickle must fill ``data``; otherwise bytes may follow it.

    Raises:
        IntegrityError: an opcode, global or structure that ``torch.save`` does not write.
        UnsupportedError: another pickle protocol, a storage class or dtype without a numpy form.
        TruncatedError: the pickle ends before its STOP.

    >>> load_pickle(b"\\x80\\x02}q\\x00X\\x01\\x00\\x00\\x00aq\\x01K\\x07s.", path="x.pth", record="data.pkl").value
    {'a': 7}
    >>> load_pickle(b"\\x80\\x02cposix\\nsystem\\n.", path="x.pth", record="data.pkl")
    Traceback (most recent call last):
    ggmlpy.files.errors.IntegrityError: x.pth: data.pkl: global 'posix.system' is not part of a checkpoint ...
    """
    machine = _Machine(memoryview(data), path, record, base)
    value = machine.run()
    if exact and machine.position != len(machine.data):
        machine.refuse(f"{len(machine.data) - machine.position} bytes follow the STOP of the pickle")
    return Loaded(value, machine.position, machine.n_opcodes, machine.storages)


class _Machine:
    """The stack machine: a frame of values since the last MARK, the frames below it, and the memo."""

    def __init__(self, data: memoryview, path: str, record: str, base: int | None) -> None:
        self.data = data
        self.path = path
        self.record = record
        self.base = base
        self.position = 0
        self.start = 0  # of the opcode at work
        self.n_opcodes = 0
        self.frame: list[Any] = []
        self.frames: list[list[Any]] = []
        self.memo: list[Any] = []
        self.storages: dict[str, Storage] = {}

    def run(self) -> Any:
        """Interpret up to and including STOP; return the one value that is left."""
        self._protocol()
        while True:
            self.start = self.position
            code = self._take(1)[0]
            self.n_opcodes += 1
            if code == 0x2E:  # "." STOP
                return self._result()
            handler = _OPCODES.get(code)
            if handler is None:
                self._unknown_opcode(code)
            handler(self)
            if len(self.frame) > MAX_FRAME:
                self.refuse("values pile up on the stack", expected=f"at most {MAX_FRAME}", cause=BOMB)
            if self.n_opcodes >= MAX_OPCODES:
                self.refuse("too many opcodes", expected=f"fewer than {MAX_OPCODES:,}", cause=BOMB)

    # -- messages ----------------------------------------------------------------------------------------------------

    def refuse(
        self,
        problem: str,
        error: type[FormatError] = IntegrityError,
        *,
        expected: object = None,
        found: object = None,
        cause: str | None = None,
        next_step: str | None = None,
    ) -> NoReturn:
        """Raise ``error`` about the opcode at work."""
        raise error(
            f"{self.record}: {problem}",
            path=self.path,
            offset=None if self.base is None else self.base + self.start,
            field=self.record,
            expected=expected,
            found=found,
            cause=cause or FOREIGN,
            next_step=next_step or (SAVE_PLAINLY if error is UnsupportedError else LEAVE_ALONE),
        )

    def _unknown_opcode(self, code: int) -> NoReturn:
        name = _REFUSED.get(code)
        if name is None:
            self.refuse(f"byte 0x{code:02x} is no opcode of protocol 2", cause="the file is damaged")
        self.refuse(f"opcode {name} (0x{code:02x}) is not part of a checkpoint of tensors", cause=ATTACK)

    # -- bytes -------------------------------------------------------------------------------------------------------

    def _take(self, n: int) -> memoryview:
        """The next ``n`` bytes."""
        end = self.position + n
        if end > len(self.data):
            self.refuse(
                "the pickle ends before its STOP",
                TruncatedError,
                expected=f"{n} more bytes",
                found=len(self.data) - self.position,
                cause="the file was cut off or damaged",
                next_step="download or save the file again",
            )
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def _line(self) -> str:
        """The next line of ASCII, at most 128 characters: the module or the name of a global."""
        window = bytes(self.data[self.position : self.position + 129])
        end = window.find(b"\n")
        if end < 0:
            self.refuse("a name of more than 128 characters", cause=ATTACK)
        self.position += end + 1
        return window[:end].decode("ascii", "backslashreplace")

    def _protocol(self) -> None:
        code, version = self._take(2)
        if code != 0x80:
            self.refuse("the pickle does not start with PROTO", expected="0x80 0x02", found=f"0x{code:02x}")
        if version != 2:
            self.refuse(
                f"pickle protocol {version}",
                UnsupportedError,
                expected="protocol 2, torch.save's default",
                cause="saved with pickle_protocol=… or not by torch.save",
            )

    # -- stack -------------------------------------------------------------------------------------------------------

    def _pop(self) -> Any:
        if not self.frame:
            self.refuse("an opcode takes a value from an empty stack")
        return self.frame.pop()

    def _pop_frame(self) -> list[Any]:
        """The values since the last MARK."""
        if not self.frames:
            self.refuse("an opcode needs a MARK, and there is none")
        values, self.frame = self.frame, self.frames.pop()
        return values

    def _top(self, kind: type) -> Any:
        if not self.frame or not isinstance(self.frame[-1], kind):
            self.refuse(f"items for a {kind.__name__} that is not there")
        return self.frame[-1]

    def _result(self) -> Any:
        if self.frames or len(self.frame) != 1:
            self.refuse("STOP with an unfinished structure", expected="one value", found=len(self.frame))
        return self.frame[0]

    # -- opcodes -----------------------------------------------------------------------------------------------------

    def _mark(self) -> None:
        if len(self.frames) >= MAX_MARKS:
            self.refuse("marks are nested too deeply", expected=f"at most {MAX_MARKS}", cause=BOMB)
        self.frames.append(self.frame)
        self.frame = []

    def _put(self, index: int) -> None:
        if index != len(self.memo):
            self.refuse(
                "memo numbers are out of order",
                expected=len(self.memo),
                found=index,
                cause="a memo bomb, or the pickle was edited",
            )
        if not self.frame:
            self.refuse("nothing to remember in the memo")
        self.memo.append(self.frame[-1])

    def _get(self, index: int) -> None:
        if index >= len(self.memo):
            self.refuse("a memo number that was never set", expected=f"below {len(self.memo)}", found=index)
        self.frame.append(self.memo[index])

    def _tuple(self, n: int) -> None:
        values = [self._pop() for _ in range(n)]
        self.frame.append(tuple(reversed(values)))

    def _tuple_from_mark(self) -> None:
        values = self._pop_frame()
        self.frame.append(tuple(values))

    def _unicode(self) -> None:
        (length,) = struct.unpack("<I", self._take(4))
        try:
            self.frame.append(str(self._take(length), "utf-8"))
        except UnicodeDecodeError:
            self.refuse("a string is not UTF-8", cause="the file is damaged")

    def _append(self, values: list[Any]) -> None:
        self._top(list).extend(values)

    def _set_items(self, values: list[Any]) -> None:
        target = self._top(dict)
        if len(values) % 2:
            self.refuse("a key without a value")
        for key, value in zip(values[::2], values[1::2]):
            if type(key) not in (str, int):
                self.refuse(f"a dict key of type {kind_of_value(key)}", expected="a string or an integer")
            if key in target:
                self.refuse(f"key {short(key)} twice", cause="the pickle was edited: a dict has each key once")
            target[key] = value

    def _long1(self) -> None:
        value = int.from_bytes(self._take(self._take(1)[0]), "little", signed=True)
        if value.bit_length() > 64 and value != LEGACY_MAGIC:
            self.refuse("an integer of more than 64 bits", found=f"{value.bit_length()} bits")
        self.frame.append(value)

    def _global(self) -> None:
        module, name = self._line(), self._line()
        known = GLOBALS.get((module, name)) or (GLOBALS.get(("torch", name)) if module == "torch.cuda" else None)
        if known is not None:
            self.frame.append(known)
        elif module in ("torch", "torch.cuda") and name.endswith("Storage"):
            supported = ", ".join(entry.storage for entry in DTYPES.values() if entry.storage)
            self.refuse(
                f"unsupported storage {name} in tensor {self.tensor_name()!r}; supported: {supported}",
                UnsupportedError,
                cause="a quantized or experimental tensor type",
            )
        elif module.partition(".")[0] == "torch":
            self.refuse(
                f"unsupported global '{module}.{name}' in tensor {self.tensor_name()!r}",
                UnsupportedError,
                cause="a whole module, a sparse or quantized tensor, an experimental dtype, or an attempt to run code",
            )
        else:
            self.refuse(f"global '{module}.{name}' is not part of a checkpoint of tensors", cause=ATTACK)

    def _reduce(self) -> None:
        arguments = self._pop()
        function = self._pop()
        if not isinstance(function, Global) or type(arguments) is not tuple:
            self.refuse(f"REDUCE calls a {kind_of_value(function)}", cause=ATTACK)
        maker = REDUCERS.get(function.role)
        if maker is None:
            self.refuse(f"REDUCE calls {function.name}, which is not a function", cause=ATTACK)
        self.frame.append(maker(self, function, arguments))

    def _build(self) -> None:
        state = self._pop()
        target = self._top(StateDict)
        if type(state) is not dict or any(type(key) is not str for key in state) or target.state:
            self.refuse("BUILD sets attributes in a way that torch.save does not", cause=ATTACK)
        target.state = state

    def _persistent(self) -> None:
        """A storage: ('storage', class, key, location, number of elements[, None])."""
        pid = self._pop()
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
            self.refuse("a persistent id that is not a storage", cause=ATTACK)
        _, kind, key, location, size = pid[:5]
        if not isinstance(kind, Global) or kind.role != "storage":
            self.refuse("a storage without a storage class")
        if type(key) is not str or not (key.isascii() and key.isdigit() and len(key) <= 20):
            self.refuse(f"storage key {short(key)} is not a number", cause="a path in place of a record's number")
        if type(location) is not str or type(size) is not int or not 0 <= size < 1 << 63:
            self.refuse(f"storage {key} has size {short(size)} at {short(location)}")
        if location == "meta" or (len(pid) == 6 and pid[5] is not None):
            self.refuse(f"storage {key} has no data of its own (meta device or view)", UnsupportedError)
        storage = Storage(key, kind.dtype, size, location)
        if self.storages.setdefault(key, storage) != storage:
            self.refuse(f"storage {key} is used with two sizes or types", expected=self.storages[key], found=storage)
        self.frame.append(self.storages[key])

    def tensor_name(self) -> str:
        """The key that the tensor at work will be stored under, as far as the stack shows."""
        for frame in [self.frame, *reversed(self.frames)]:
            values = [value for value in frame[-4:] if not isinstance(value, Global)]
            if values and type(values[-1]) is str and frame[0] != "storage":
                return values[-1][:200]
        return "?"


def walk(value: Any, n_opcodes: int, *, path: str, record: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each leaf of a loaded pickle with the keys that lead to it; empty containers are leaves too.

    Raises:
        IntegrityError: nested deeper than :data:`MAX_DEPTH`, within itself, or larger than what the opcodes wrote out.
    """
    pending: list[tuple[tuple[str, ...], Any]] = [((), value)]
    n_nodes = 1
    while pending:
        keys, node = pending.pop()
        children: Iterable[tuple[Any, Any]] = ()
        if isinstance(node, dict):
            children = node.items()
        elif type(node) in (list, tuple):
            children = enumerate(node)
        else:
            yield keys, node
            continue
        n_nodes += len(node)
        if len(keys) >= MAX_DEPTH or n_nodes > n_opcodes:
            raise IntegrityError(
                f"{record}: containers are nested too deeply, within themselves, or shared without end",
                path=path,
                field=record,
                expected=f"depth up to {MAX_DEPTH}, up to {n_opcodes:,} values",
                cause=BOMB,
                next_step=LEAVE_ALONE,
            )
        if not node:
            yield keys, node
        pending.extend(((*keys, str(key)), child) for key, child in reversed(list(children)))


def _push(make: Callable[[], Any]) -> Callable[[_Machine], None]:
    return lambda m: m.frame.append(make())


def _number(form: str) -> Callable[[_Machine], None]:
    layout = struct.Struct(form)
    return lambda m: m.frame.append(layout.unpack(m._take(layout.size))[0])


# fmt: off
_OPCODES: dict[int, Callable[[_Machine], None]] = {
    ord("("):  _Machine._mark,                                                       # MARK
    ord("}"):  _push(dict),                                                          # EMPTY_DICT
    ord("]"):  _push(list),                                                          # EMPTY_LIST
    ord(")"):  _push(tuple),                                                         # EMPTY_TUPLE
    ord("t"):  _Machine._tuple_from_mark,                                            # TUPLE
    0x85:      lambda m: m._tuple(1),                                                # TUPLE1
    0x86:      lambda m: m._tuple(2),                                                # TUPLE2
    0x87:      lambda m: m._tuple(3),                                                # TUPLE3
    ord("N"):  _push(lambda: None),                                                  # NONE
    0x88:      _push(lambda: True),                                                  # NEWTRUE
    0x89:      _push(lambda: False),                                                 # NEWFALSE
    ord("J"):  _number("<i"),                                                        # BININT
    ord("K"):  _number("<B"),                                                        # BININT1
    ord("M"):  _number("<H"),                                                        # BININT2
    0x8A:      _Machine._long1,                                                      # LONG1
    ord("G"):  _number(">d"),                                                        # BINFLOAT
    ord("X"):  _Machine._unicode,                                                    # BINUNICODE
    ord("q"):  lambda m: m._put(m._take(1)[0]),                                      # BINPUT
    ord("r"):  lambda m: m._put(struct.unpack("<I", m._take(4))[0]),                 # LONG_BINPUT
    ord("h"):  lambda m: m._get(m._take(1)[0]),                                      # BINGET
    ord("j"):  lambda m: m._get(struct.unpack("<I", m._take(4))[0]),                 # LONG_BINGET
    ord("a"):  lambda m: m._append([m._pop()]),                                      # APPEND
    ord("e"):  lambda m: m._append(m._pop_frame()),                                  # APPENDS
    ord("s"):  lambda m: m._set_items([m._pop(), m._pop()][::-1]),                   # SETITEM
    ord("u"):  lambda m: m._set_items(m._pop_frame()),                               # SETITEMS
    ord("c"):  _Machine._global,                                                     # GLOBAL
    ord("R"):  _Machine._reduce,                                                     # REDUCE
    ord("b"):  _Machine._build,                                                      # BUILD
    ord("Q"):  _Machine._persistent,                                                 # BINPERSID
}

# The rest of the pickle language, by name, so that a refusal can say what was tried.
_REFUSED: dict[int, str] = {
    ord("0"): "POP",        ord("1"): "POP_MARK",        ord("2"): "DUP",             ord("F"): "FLOAT",
    ord("I"): "INT",        ord("L"): "LONG",            ord("P"): "PERSID",          ord("S"): "STRING",
    ord("T"): "BINSTRING",  ord("U"): "SHORT_BINSTRING", ord("V"): "UNICODE",         ord("d"): "DICT",
    ord("g"): "GET",        ord("i"): "INST",            ord("l"): "LIST",            ord("o"): "OBJ",
    ord("p"): "PUT",        ord("B"): "BINBYTES",        ord("C"): "SHORT_BINBYTES",  0x80: "PROTO",
    0x81: "NEWOBJ",         0x82: "EXT1",                0x83: "EXT2",                0x84: "EXT4",
    0x8B: "LONG4",          0x8C: "SHORT_BINUNICODE",    0x8D: "BINUNICODE8",         0x8E: "BINBYTES8",
    0x8F: "EMPTY_SET",      0x90: "ADDITEMS",            0x91: "FROZENSET",           0x92: "NEWOBJ_EX",
    0x93: "STACK_GLOBAL",   0x94: "MEMOIZE",             0x95: "FRAME",               0x96: "BYTEARRAY8",
    0x97: "NEXT_BUFFER",    0x98: "READONLY_BUFFER",
}
# fmt: on
