"""Pickles that try to run code, to exhaust memory, or to reach outside their data: each is refused by name."""

import re
import struct
import sys

import pytest

from ggmlpy.files.errors import FormatError
from llama_ref.checkpoint import open_pth
from tests.llama_ref.attacks.forge import (
    DATA,
    HOOKS,
    PROTO,
    STOP,
    call,
    checkpoint,
    integer,
    name,
    program,
    storage,
    tensor,
    text,
)

LS = text("touch pwned")
MARKED = b"(" + LS


def reduce_of(module, attribute):
    return program(call(name(module, attribute), LS))


def remember(index):
    return b"q" + bytes([index])


def doubled(n):
    """A tuple of two tuples of two tuples ...: 2^n leaves in 5n bytes."""
    return b"".join(b"h" + bytes([i]) + b"\x86" + remember(i + 1) for i in range(n))


CODE = {
    "os.system": (reduce_of("os", "system"), r"global 'os\.system'"),
    "posix.system": (reduce_of("posix", "system"), r"global 'posix\.system'"),
    "nt.system": (reduce_of("nt", "system"), r"global 'nt\.system'"),
    "popen": (reduce_of("subprocess", "Popen"), r"global 'subprocess\.Popen'"),
    "eval": (reduce_of("builtins", "eval"), r"global 'builtins\.eval'"),
    "python 2 eval": (reduce_of("__builtin__", "eval"), r"global '__builtin__\.eval'"),
    "exec": (reduce_of("builtins", "exec"), r"global 'builtins\.exec'"),
    "import": (reduce_of("importlib", "import_module"), r"global 'importlib\.import_module'"),
    "getattr chain": (
        program(call(call(name("builtins", "getattr"), name("os", "path"), text("os")), text("system"))),
        r"global 'builtins\.getattr'",
    ),
    "partial": (reduce_of("functools", "partial"), r"functools\.partial"),
    "attrgetter": (reduce_of("operator", "attrgetter"), r"operator\.attrgetter"),
    "encode": (reduce_of("_codecs", "encode"), r"_codecs\.encode"),
    "numpy object array": (reduce_of("numpy.core.multiarray", "_reconstruct"), r"numpy\.core\.multiarray"),
    "torch loads code": (reduce_of("torch.hub", "load"), r"unsupported global 'torch\.hub\.load'"),
    "torch loads a pickle": (reduce_of("torch.storage", "_load_from_bytes"), r"torch\.storage\._load_from_bytes"),
    "dotted name": (reduce_of("collections", "OrderedDict.__init__.__globals__"), r"collections\.OrderedDict\."),
    "dotted module": (reduce_of("torch._utils.os", "system"), r"torch\._utils\.os\.system"),
    "name in another case": (reduce_of("Collections", "OrderedDict"), r"Collections\.OrderedDict"),
    "not ASCII": (program("ctorch\nHalfStorag\u0435\n".encode()), r"HalfStorag"),
    "name without an end": (program(b"c" + b"a" * 300), "more than 128 characters"),
    "GLOBAL alone": (program(name("posix", "system")), r"global 'posix\.system'"),
    "STACK_GLOBAL": (program(text("os") + text("system") + b"\x93"), r"opcode STACK_GLOBAL \(0x93\)"),
    "INST": (program(b"(" + LS + b"ios\nsystem\n"), r"opcode INST"),
    "OBJ": (program(b"(" + name("torch", "Size") + b"o"), r"opcode OBJ"),
    "NEWOBJ": (program(name("torch", "Size") + b")\x81"), r"opcode NEWOBJ \(0x81\)"),
    "NEWOBJ_EX": (program(name("torch", "Size") + b")}\x92"), r"opcode NEWOBJ_EX"),
    "EXT1": (program(b"\x82\x01"), r"opcode EXT1"),
    "EXT2": (program(b"\x83\x01\x00"), r"opcode EXT2"),
    "EXT4": (program(b"\x84\x01\x00\x00\x00"), r"opcode EXT4"),
    "PERSID": (program(b"Pstorage\n"), r"opcode PERSID"),
    "BYTEARRAY8": (program(b"\x96" + struct.pack("<Q", 1 << 60)), r"opcode BYTEARRAY8"),
    "BINBYTES": (program(b"B\x01\x00\x00\x00a"), r"opcode BINBYTES"),
    "STRING": (program(b"S'a'\n"), r"opcode STRING"),
    "FLOAT": (program(b"F1.0\n"), r"opcode FLOAT"),
    "no opcode": (program(b"\xff"), r"byte 0xff is no opcode"),
    "REDUCE of a class": (program(call(name("torch", "HalfStorage"))), r"REDUCE calls HalfStorage"),
    "REDUCE of a dtype": (program(call(name("torch", "float16"))), r"REDUCE calls float16"),
    "REDUCE of a string": (program(LS + b")R"), r"REDUCE calls a str"),
    "REDUCE without a tuple": (program(name("torch", "Size") + b"]R"), r"REDUCE calls a size Size"),
    "BUILD on a dict": (program(b"}}b"), r"items for a StateDict"),
    "BUILD on a tensor": (program(tensor() + b"}b"), r"items for a StateDict"),
    "BUILD with a tuple": (program(HOOKS + b"}}\x86b"), r"BUILD sets attributes"),
    "BUILD twice": (program(HOOKS + b"}" + text("a") + b"Nsb" + b"}b"), r"BUILD sets attributes"),
    "hooks": (program(tensor(hooks=HOOKS + text("a") + b"Ns")), r"backward hooks"),
    "hooks of another kind": (program(tensor(hooks=b"}")), r"backward hooks"),
    "OrderedDict of something": (program(call(name("collections", "OrderedDict"), b"]")), r"OrderedDict with argum"),
}

EXHAUSTION = {
    "memo far out": (program(b"]r" + struct.pack("<I", 0x7FFFFFFF)), r"memo numbers are out of order"),
    "memo out of order": (program(b"]q\x05"), r"memo numbers are out of order"),
    "memo set twice": (program(b"]q\x00q\x00"), r"memo numbers are out of order"),
    "memo never set": (program(b"h\x07"), r"memo number that was never set"),
    "memo of nothing": (PROTO + b"q\x00.", r"nothing to remember"),
    "deep lists": (PROTO + b"]" * 50_000 + b"a" * 49_999 + STOP, r"values pile up"),
    "deep marks": (PROTO + b"(" * 50_000 + STOP, r"marks are nested too deeply"),
    "deep but tidy": (program(b"]" + b"(]" * 40 + b"e" * 40), r"nested too deeply"),
    "deep tuples": (program(b")" + b"\x85" * 1000), r"nested too deeply"),
    "deep dicts": (program(b"}" + b"".join(text(str(i)) + b"}" for i in range(40)) + b"s" * 40), "nested too deeply"),
    "list within itself": (program(b"]q\x00h\x00a"), r"nested too deeply, within themselves"),
    "dict within itself": (program(b"}q\x00" + text("d") + b"h\x00s"), r"nested too deeply, within themselves"),
    "two lists within each other": (program(b"]q\x00]q\x01h\x00aa"), r"within themselves"),
    "2^200 leaves": (program(b"K\x01K\x02\x86q\x00" + doubled(200)), r"nested too deeply"),
    "2^20 leaves": (program(b"K\x01K\x02\x86q\x00" + doubled(20)), r"shared without end"),
    "list within itself, wide": (
        program(b"]q\x00h\x00a(" + b"N" * 4000 + b"e(" + b"N" * 4000 + b"e"),
        r"within themselves",
    ),
    "DUP": (program(b"]2"), r"opcode DUP"),
    "string longer than the file": (program(b"X\xff\xff\xff\xff"), r"ends before its STOP"),
    "LONG4": (program(b"\x8b\xff\xff\xff\x7f"), r"opcode LONG4"),
    "FRAME": (program(b"\x95" + struct.pack("<Q", 1 << 60)), r"opcode FRAME"),
    "integer of 2040 bits": (program(b"\x8a\xff" + b"\x7f" * 255), r"more than 64 bits"),
    "second PROTO": (program(PROTO + b"N"), r"opcode PROTO"),
    "protocol 4": (b"\x80\x04N.", r"pickle protocol 4"),
    "protocol 0": (b"N.", r"does not start with PROTO"),
    "empty pickle": (b"", r"ends before its STOP"),
    "no STOP": (PROTO + b"}", r"ends before its STOP"),
    "two values": (PROTO + b"NN.", r"unfinished structure"),
    "open mark": (PROTO + b"}(.", r"unfinished structure"),
    "POP": (program(b"N0"), r"opcode POP"),
    "pickle after the pickle": (program(b"N") + program(call(name("os", "system"), LS)), r"bytes follow the STOP"),
    "empty stack": (PROTO + b"\x85.", r"from an empty stack"),
    "no mark": (PROTO + b"t.", r"needs a MARK"),
    "items for nothing": (PROTO + b"N(NNu.", r"items for a dict that is not there"),
    "key without value": (PROTO + b"}(Nu.", r"key without a value"),
    "key twice": (PROTO + b"}(" + text("a") + b"N" + text("a") + b"Nu.", r"key 'a' twice"),
    "dict as a key": (PROTO + b"}}Ns.", r"dict key of type dict"),
    "tuple as a key": (PROTO + b"})Ns.", r"dict key of type tuple"),
    "not UTF-8": (program(b"X\x01\x00\x00\x00\xff"), r"not UTF-8"),
    "half a surrogate": (program(b"X\x03\x00\x00\x00\xed\xa0\x80"), r"not UTF-8"),
    "names that collide": (
        PROTO + b"}" + text("a.b") + b"Ns" + text("a") + b"}" + text("b") + b"Nss.",
        r"two values with the name 'a\.b'",
    ),
}

OUT_OF_BOUNDS = {
    "a billion elements": (tensor(shape=(10**9,), strides=(1,)), r"tensor 'w' is larger than its storage"),
    "product of 2^64": (tensor(shape=(1 << 32, 1 << 32), strides=(1, 1)), r"impossible shape"),
    "product of 2^64 and 0": (tensor(shape=(0, 1 << 32, 1 << 32), strides=(1, 1, 1)), r"impossible shape"),
    "last element one too far": (tensor(shape=(4, 4), strides=(4, 1), offset=1), r"larger than its storage"),
    "stride one too far": (tensor(shape=(4, 4), strides=(5, 1)), r"larger than its storage"),
    "empty but far out": (tensor(shape=(0,), strides=(1,), offset=17), r"larger than its storage"),
    "stride of 2^62": (tensor(shape=(2, 2), strides=(1 << 62, 1)), r"larger than its storage"),
    "repeated by stride 0": (tensor(shape=(1 << 40,), strides=(0,)), r"larger than its storage"),
    "repeated by overlap": (tensor(shape=(9, 2), strides=(1, 1)), r"larger than its storage"),
    "negative stride": (tensor(offset=12, strides=(-4, 1)), r"negative offset, shape or stride"),
    "negative offset": (tensor(offset=-1), r"negative offset, shape or stride"),
    "negative shape": (tensor(shape=(-4, -4)), r"negative offset, shape or stride"),
    "fewer strides": (tensor(strides=(1,)), r"2 axes and 1 strides"),
    "33 axes": (tensor(shape=(1,) * 33, strides=(1,) * 33), r"33 axes"),
    "shape of strings": (
        call(name("torch._utils", "_rebuild_tensor_v2"), storage(), b"K\x00", text("a"), b")", b"\x89", HOOKS),
        r"not integers",
    ),
    "shape of booleans": (
        call(name("torch._utils", "_rebuild_tensor_v2"), storage(), b"K\x00", b"\x88\x85", b"\x88\x85", b"\x89", HOOKS),
        r"not integers",
    ),
    "no storage": (tensor(data=b"N"), r"other arguments than a tensor's"),
    "too few arguments": (call(name("torch._utils", "_rebuild_tensor_v2"), storage()), r"other arguments"),
    "path as a key": (tensor(storage(key="../../etc/passwd")), r"storage key '../../etc/passwd' is not a number"),
    "digits of another script": (tensor(storage(key="\u0661")), r"is not a number"),
    "no key": (tensor(storage(key="")), r"is not a number"),
    "record missing": (tensor(storage(key="9")), r"record 'x/data/9' is missing"),
    "record under another spelling": (tensor(storage(key="00")), r"record 'x/data/00' is missing"),
    "storage of 2^40": (tensor(storage(numel=1 << 40)), r"record 'x/data/0' has another size"),
    "storage one short": (tensor(storage(numel=15)), r"larger than its storage|another size"),
    "storage of -1": (tensor(storage(numel=-1)), r"storage 0 has size -1"),
    "storage of 16.0": (tensor(storage(numel=b"G" + struct.pack(">d", 16))), r"storage 0 has size 16\.0"),
    "storage without data": (tensor(storage(location="meta")), r"no data of its own"),
    "unknown storage": (tensor(storage(kind=name("torch", "QInt8Storage"))), r"storage QInt8Storage in tensor 'w'"),
    "function as storage": (tensor(storage(kind=name("torch", "Size"))), r"without a storage class"),
    "untyped": (tensor(storage(kind=name("torch.storage", "UntypedStorage"))), r"without an element type"),
    "persistent string": (text("storage") + b"Q", r"persistent id that is not a storage"),
    "persistent module": (b"(" + text("module") + b"NNNNtQ", r"persistent id that is not a storage"),
    "two types for one storage": (
        tensor() + text("v") + tensor(storage(kind=name("torch", "FloatStorage"), numel=8), shape=(8,), strides=(1,)),
        r"used with two sizes or types",
    ),
}


@pytest.mark.parametrize("attack", [*CODE, *EXHAUSTION])
def test_pickle_attacks_are_refused_and_named(tmp_path, attack):
    pickle, reason = (CODE | EXHAUSTION)[attack]
    records = {} if b"HalfStorage\n" in pickle else {"data": None}
    assert_refused(tmp_path, checkpoint(pickle, **records), reason)


@pytest.mark.parametrize("attack", OUT_OF_BOUNDS)
def test_tensors_outside_their_storage_are_refused_and_named(tmp_path, attack):
    value, reason = OUT_OF_BOUNDS[attack]
    pickle = PROTO + b"}(" + text("w") + value + b"u" + STOP
    assert_refused(tmp_path, checkpoint(pickle), reason)


@pytest.mark.parametrize("attack", CODE)
def test_legacy_files_are_read_by_the_same_rules(tmp_path, attack):
    pickle, reason = CODE[attack]
    magic = PROTO + integer(0x1950A86A20F9469CFC6C) + STOP
    version = PROTO + integer(1001) + STOP
    system = PROTO + b"}" + text("little_endian") + b"\x88s" + STOP
    assert_refused(tmp_path, magic + version + system + pickle, reason)
    assert_refused(tmp_path, pickle, reason)  # as the very first pickle, where the magic number should be


def assert_refused(tmp_path, content, reason):
    """Opening ``content`` fails with our error, a message with the path and the reason, and no side effect."""
    path = tmp_path / "evil.pth"
    path.write_bytes(content)
    modules = set(sys.modules)
    with pytest.raises(FormatError) as caught:
        open_pth(path)
    assert re.search(reason, str(caught.value)), str(caught.value)
    assert caught.value.path == str(path)
    assert caught.value.field is not None
    assert caught.value.cause
    assert caught.value.next_step
    assert set(sys.modules) == modules
    assert [entry.name for entry in tmp_path.iterdir()] == ["evil.pth"]


def test_the_benign_twin_of_these_attacks_loads(tmp_path):
    path = tmp_path / "good.pth"
    path.write_bytes(checkpoint())
    with open_pth(path) as f:
        assert f["w"].numpy().tobytes() == DATA
