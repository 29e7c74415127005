"""Legacy files (before torch 1.6) that do not add up: no directory, no checksums, so every length must fit."""

import re
import struct

import pytest

from ggmlpy.files.errors import FormatError
from llama_ref.checkpoint import open_pth
from tests.llama_ref.attacks.forge import DATA, PROTO, STOP, integer, name, program, storage, tensor, text

MAGIC = PROTO + integer(0x1950A86A20F9469CFC6C) + STOP
VERSION = PROTO + integer(1001) + STOP
KEYS = PROTO + b"](" + text("0") + b"e" + STOP
SIZED = struct.pack("<Q", 16) + DATA


def system(little_endian=b"\x88"):
    return PROTO + b"}" + text("little_endian") + little_endian + b"s" + STOP


def legacy(magic=MAGIC, version=VERSION, info=None, main=None, keys=KEYS, data=SIZED):
    """The parts of a legacy file, one after the other."""
    return magic + version + (info or system()) + (main or program(tensor())) + keys + data


def keys_of(*names):
    return PROTO + b"](" + b"".join(map(text, names)) + b"e" + STOP


def storage_with_view():
    return b"(" + text("storage") + name("torch", "HalfStorage") + text("0") + text("cpu") + b"K\x10)tQ"


ATTACKS = {
    "another magic number": (legacy(magic=PROTO + integer(7) + STOP), r"a pickle, but not one of torch\.save"),
    "magic number as a string": (legacy(magic=PROTO + text("torch") + STOP), r"not one of torch\.save"),
    "another layout": (legacy(version=PROTO + integer(1002) + STOP), r"unknown layout version"),
    "big-endian": (legacy(info=system(b"\x89")), r"not written on a little-endian machine"),
    "no system information": (legacy(info=PROTO + b"}" + STOP), r"not written on a little-endian machine"),
    "keys are no list": (legacy(keys=PROTO + b"}" + STOP), r"not a list of strings"),
    "keys are no strings": (legacy(keys=PROTO + b"]K\x01a" + STOP), r"not a list of strings"),
    "key twice": (legacy(keys=keys_of("0", "0")), r"not those that the tensors use"),
    "key unknown": (legacy(keys=keys_of("0", "1")), r"not those that the tensors use"),
    "key missing": (legacy(keys=PROTO + b"]" + STOP), r"not those that the tensors use"),
    "data missing": (legacy(data=b""), r"storage 0 is cut off"),
    "data cut off": (legacy(data=SIZED[:-1]), r"storage 0 is cut off"),
    "data of another size": (legacy(data=struct.pack("<Q", 15) + DATA), r"storage 0 has another size"),
    "data of 2^63 elements": (legacy(data=struct.pack("<Q", 1 << 63) + DATA), r"storage 0 has another size"),
    "more data": (legacy(data=SIZED + b"\0"), r"1 bytes follow the last storage"),
    "second file behind": (legacy() + legacy(), r"bytes follow the last storage"),
    "storage of 2^62 bytes": (
        legacy(main=program(tensor(storage(numel=1 << 61)))),
        r"storage 0 is cut off",
    ),
    "storage that is a view": (
        legacy(main=program(tensor(storage_with_view()))),
        r"no data of its own \(meta device or",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_legacy_attacks_are_refused_and_named(tmp_path, attack):
    content, reason = ATTACKS[attack]
    path = tmp_path / "evil.pth"
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        open_pth(path)
    assert re.search(reason, str(caught.value)), str(caught.value)
    assert caught.value.path == str(path)


def test_the_benign_twin_loads_and_every_truncation_is_refused(tmp_path):
    path = tmp_path / "old.pth"
    path.write_bytes(legacy())
    with open_pth(path) as f:
        assert f.format == "legacy"
        assert f["w"].numpy().tobytes() == DATA
        assert f["w"].rows(2, 3).tobytes() == DATA[16:24]
        f.verify()
    for length in range(len(legacy())):
        path.write_bytes(legacy()[:length])
        with pytest.raises(FormatError):
            open_pth(path)


def test_values_at_odd_offsets_come_aligned(tmp_path):
    """Legacy files align nothing; kernels that read the arrays rely on it."""
    path = tmp_path / "odd.pth"
    content = legacy(main=program(tensor(storage(location="cuda:0"))))
    assert content.index(DATA) % 2
    path.write_bytes(content)
    with open_pth(path) as f:
        assert f["w"].numpy().flags.aligned
        assert f["w"].numpy().tobytes() == DATA
