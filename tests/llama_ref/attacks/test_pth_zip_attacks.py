"""Archives that lie about their contents: each is refused by name, and nothing is unpacked on the way."""

import os
import re
import stat
import struct
import tracemalloc
import zlib

import pytest

from ggmlpy.files.errors import FormatError, MissingFileError
from llama_ref.checkpoint import open_pth
from tests.llama_ref.attacks.forge import (
    DATA,
    Member,
    archive,
    checkpoint,
    deflate,
    members,
    program,
    storage,
    tensor,
    text,
)


def bomb(size: int) -> bytes:
    """The deflate stream of ``size`` zeros, about a thousandth as long."""
    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    megabyte = bytes(1 << 20)
    return b"".join(machine.compress(megabyte) for _ in range(size >> 20)) + machine.flush()


def zip64(n: int, size: int, offset: int, at: int, record_size: int = 44, disks: int = 1) -> bytes:
    """A zip64 end record that stands at offset ``at``, and its locator."""
    end = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", record_size, 45, 45, 0, 0, n, n, size, offset)
    return end + struct.pack("<4sIQI", b"PK\6\7", 0, at, disks)


def with_zip64(**changes) -> bytes:
    """A checkpoint whose classic end record defers to a zip64 one, as torch writes it."""
    plain = checkpoint()
    _, _, _, _, n, size, offset, _ = struct.unpack("<4sHHHHIIH", plain[-22:])
    true = {"n": n, "size": size, "offset": offset, "at": offset + size}
    return plain[:-22] + zip64(**(true | changes)) + plain[-22:]


BOMB = bomb(1 << 27)
VERSION = Member("x/version", b"3\n")
BIG = 1 << 34

ATTACKS = {
    "bomb in the pickle": (
        archive([Member("x/data.pkl", bytes(1 << 25), method=8), VERSION]),
        r"CRC|the pickle does not start|PROTO",
    ),
    "bomb behind the pickle": (
        archive([Member("x/data.pkl", program(b"N"), method=8, packed=BOMB), VERSION]),
        r"does not inflate to the announced size",
    ),
    "bomb announced": (
        archive([Member("x/data.pkl", b"", 8, packed=BOMB, local={"size": 1 << 27}, central={"size": 1 << 27})]),
        r"a pickle of 134,217,728 bytes",
    ),
    "bomb beyond deflate's ratio": (
        archive([Member("x/data.pkl", b"", 8, packed=b"\3\0", local={"size": BIG >> 4}, central={"size": BIG >> 4})]),
        r"would expand 2 bytes to 1,073,741,824",
    ),
    "bomb in a storage": (
        checkpoint(data=Member("x/data/0", DATA, method=8, packed=BOMB)),
        r"does not inflate to the announced size",
    ),
    "deflate stream that ends early": (
        checkpoint(data=Member("x/data/0", DATA, method=8, packed=deflate(DATA[:16]))),
        r"does not inflate to the announced size",
    ),
    "deflate stream with a tail": (
        checkpoint(data=Member("x/data/0", DATA, method=8, packed=deflate(DATA) + b"tail")),
        r"does not inflate to the announced size",
    ),
    "no deflate stream": (
        checkpoint(data=Member("x/data/0", DATA, method=8, packed=b"\xff" * 40)),
        r"cannot be inflated",
    ),
    "storage larger than its record": (
        checkpoint(program(tensor(storage(numel=1 << 32), shape=(1 << 32,), strides=(1,)))),
        r"record 'x/data/0' has another size than its tensors need",
    ),
    "record appears twice": (
        archive([*members(), Member("x/data.pkl", program(b"N"))]),
        r"record 'x/data.pkl' appears twice",
    ),
    "two entries for one record": (
        archive([*members(), Member("x/data/1", b"", central={"offset": 0})]),
        r"differs from the directory|another name|overlaps",
    ),
    "overlapping records": (
        archive([*members()[:2], Member("x/version", b"3\n", central={"offset": 60})]),
        r"differs from the directory",
    ),
    "data that is not in the file": (
        checkpoint(
            data=Member("x/data/0", DATA, local={"bytes": b""}),
        ),
        r"'x/(data/0|version)'",
    ),
    "name in the local header": (
        checkpoint(data=Member("x/data/0", DATA, local={"name": b"x/data/9"})),
        r"another name in its local header",
    ),
    "size in the local header": (
        checkpoint(data=Member("x/data/0", DATA, local={"size": 31})),
        r"sizes or CRC differ between local header and directory",
    ),
    "CRC in the local header": (
        checkpoint(data=Member("x/data/0", DATA, local={"crc": 1})),
        r"sizes or CRC differ between local header and directory",
    ),
    "method in the local header": (
        checkpoint(data=Member("x/data/0", DATA, local={"method": 8})),
        r"local header differs from the directory",
    ),
    "flags in the local header": (
        checkpoint(data=Member("x/data/0", DATA, local={"flags": 0})),
        r"local header differs from the directory",
    ),
    "stored with two sizes": (
        checkpoint(data=Member("x/data/0", DATA, local={"packed": 31}, central={"packed": 31})),
        r"two sizes for stored data",
    ),
    "CRC of other data": (
        checkpoint(data=Member("x/data/0", DATA, local={"crc": 1}, central={"crc": 1})),
        r"'x/data/0' does not have the CRC-32",
    ),
    "CRC of another pickle": (
        checkpoint(main=Member("x/data.pkl", program(tensor()), local={"crc": 1}, central={"crc": 1})),
        r"'x/data.pkl' does not have the CRC-32",
    ),
    "descriptor missing": (checkpoint(data=Member("x/data/0", DATA, flags=0x808)), r"descriptor behind its data"),
    "encrypted": (checkpoint(data=Member("x/data/0", DATA, flags=0x801)), r"'x/data/0' is encrypted"),
    "strongly encrypted": (checkpoint(data=Member("x/data/0", DATA, flags=0x840)), r"'x/data/0' is encrypted"),
    "names masked": (checkpoint(data=Member("x/data/0", DATA, flags=0x2800)), r"'x/data/0' is encrypted"),
    "patch data": (checkpoint(data=Member("x/data/0", DATA, flags=0x820)), r"unknown flags"),
    "LZMA": (checkpoint(data=Member("x/data/0", DATA, method=14, packed=DATA)), r"compression method 14"),
    "symbolic link": (
        checkpoint(data=Member("x/data/0", DATA, central={"mode": stat.S_IFLNK | 0o777})),
        r"'x/data/0' is a symbolic link",
    ),
    "device": (checkpoint(data=Member("x/data/0", DATA, central={"mode": stat.S_IFBLK})), r"no regular file"),
    "directory": (checkpoint(extra=Member("x/data/", b"")), r"record 'x/data/' is a directory"),
    "absolute path": (checkpoint(extra=Member("/etc/passwd", b"")), r"unsafe record name '/etc/passwd'"),
    "path upwards": (checkpoint(extra=Member("x/../../etc/passwd", b"")), r"unsafe record name"),
    "path in place": (checkpoint(extra=Member("x/./data", b"")), r"unsafe record name"),
    "backslashes": (checkpoint(extra=Member("x\\..\\evil", b"")), r"unsafe record name"),
    "drive": (checkpoint(extra=Member("C:/evil", b"")), r"unsafe record name"),
    "NUL in a name": (checkpoint(extra=Member("x/data/1\0.txt", b"")), r"unsafe record name"),
    "line feed in a name": (checkpoint(extra=Member("x/data\n/1", b"")), r"unsafe record name"),
    "empty name": (checkpoint(extra=Member("", b"")), r"unsafe record name"),
    "name not UTF-8": (checkpoint(extra=Member(b"x/\xff", b"")), r"not UTF-8"),
    "another name in an extra field": (
        checkpoint(data=Member("x/data/0", DATA, central={"extra": struct.pack("<HHB", 0x7075, 1, 1)})),
        r"misleading extra field",
    ),
    "extra field too long": (
        checkpoint(data=Member("x/data/0", DATA, local={"extra": b"FB\xff\xff"})),
        r"damaged or misleading extra field",
    ),
    "extra field of two bytes": (
        checkpoint(data=Member("x/data/0", DATA, central={"extra": b"FB"})),
        r"damaged extra field",
    ),
    "two zip64 fields": (
        checkpoint(data=Member("x/data/0", DATA, central={"extra": struct.pack("<HHHH", 1, 0, 1, 0)})),
        r"misleading extra field",
    ),
    "zip64 field without need": (
        checkpoint(data=Member("x/data/0", DATA, central={"extra": struct.pack("<HHQ", 1, 8, BIG)})),
        r"damaged zip64 field",
    ),
    "zip64 size": (
        checkpoint(
            data=Member(
                "x/data/0",
                DATA,
                central={"size": 2**32 - 1, "packed": 2**32 - 1, "extra": struct.pack("<HHQQ", 1, 16, BIG, BIG)},
            )
        ),
        r"'x/data/0' reaches into the directory or beyond the file",
    ),
    "zip64 offset": (
        checkpoint(
            data=Member("x/data/0", DATA, central={"offset": 2**32 - 1, "extra": struct.pack("<HHQ", 1, 8, 2**63)})
        ),
        r"local header of 'x/data/0' lies outside the file",
    ),
    "offset beyond the file": (
        checkpoint(data=Member("x/data/0", DATA, central={"offset": 1 << 30})),
        r"local header of 'x/data/0' lies outside the file",
    ),
    "another disk": (checkpoint(data=Member("x/data/0", DATA, central={"disk": 1})), r"another disk"),
    "bytes before a record": (checkpoint(data=Member("x/data/0", DATA, before=b"hidden")), r"comes 6 bytes late"),
    "bytes before the directory": (archive(members(), gap=b"hidden"), r"6 bytes belong to no record"),
    "bytes before the archive": (archive(members(), prepend=b"PK\3\4" + b"#!/bin/sh\n"), r"not where the end record"),
    "script before the archive": (archive(members(), prepend=b"#!/bin/sh\n"), r"not a checkpoint of torch.save"),
    "bytes behind the archive": (archive(members(), append=b"hidden"), r"6 bytes stand behind the end"),
    "comment": (archive(members(), comment=b"a comment"), r"9 bytes stand behind the end"),
    "archive in a comment": (archive(members(), comment=checkpoint(program(b"N"))), r"not where the end record says"),
    "comment that is not there": (checkpoint()[:-2] + b"\1\0", r"announces a comment"),
    "several disks": (archive(members(), disk=1), r"several disks"),
    "fewer records here": (archive(members(), here=1), r"several disks"),
    "65535 records": (archive(members(), count=65535), r"impossible number of records"),
    "one record less": (archive(members(), count=2), r"the directory holds more than its entries"),
    "directory at 4 GiB": (archive(members(), offset=2**32 - 1), r"not where the end record says"),
    "2^60 records": (with_zip64(n=1 << 60), r"two end records differ"),
    "2^60 records, clamped": (
        with_zip64(n=1 << 60)[:-14] + struct.pack("<HH", 65535, 65535) + with_zip64()[-10:],
        r"impossible number of records",
    ),
    "zip64 end elsewhere": (with_zip64(at=0), r"zip64 end record is misplaced"),
    "zip64 end at 2^63": (with_zip64(at=1 << 63), r"zip64 end record is misplaced"),
    "zip64 end of another size": (with_zip64(record_size=1 << 40), r"zip64 end record is malformed"),
    "zip64 on two disks": (with_zip64(disks=2), r"several disks"),
    "empty archive": (archive([]), r"no data.pkl in this archive"),
    "no pickle": (checkpoint(main=None), r"no data.pkl in this archive"),
    "two pickles": (checkpoint(extra=Member("y/data.pkl", program(b"N"))), r"more than one data.pkl"),
    "two prefixes": (checkpoint(extra=Member("y/data/1", b"")), r"'y/data/1' is not part of a checkpoint"),
    "pickle at the top": (checkpoint(main=Member("data.pkl", program(b"N"))), r"no data.pkl"),
    "TorchScript": (checkpoint(extra=Member("x/constants.pkl", b"")), r"TorchScript"),
    "TorchScript code": (checkpoint(extra=Member("x/code/__torch__.py", b"")), r"TorchScript"),
    "program in the archive": (checkpoint(extra=Member("x/evil.sh", b"")), r"'x/evil.sh' is not part of a checkpoint"),
    "record of no tensor": (checkpoint(extra=Member("x/data/1", b"")), r"'x/data/1' belongs to no tensor"),
    "no version": (checkpoint(version=None), r"no record 'version'"),
    "version of words": (checkpoint(version=Member("x/version", b"three")), r"no record 'version'"),
    "version of the future": (checkpoint(version=Member("x/version", b"34\n")), r"no record 'version'"),
    "version of a kilobyte": (
        checkpoint(version=Member("x/version", b"3" * 1000)),
        r"no record 'version'",
    ),
    "serialization id of words": (
        checkpoint(extra=Member("x/.data/serialization_id", b"three")),
        r"no record '\.data/serialization_id'",
    ),
    "directory by its DOS attributes": (
        checkpoint(data=Member("x/data/0", DATA, central={"attributes": 0x10})),
        r"'x/data/0' is a symbolic link or no regular file",
    ),
    "big-endian": (checkpoint(order=Member("x/byteorder", b"big")), r"big-endian"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_archive_attacks_are_refused_and_named(tmp_path, attack):
    content, reason = ATTACKS[attack]
    path = tmp_path / "evil.pth"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError) as caught:
            open_pth(path)
        assert tracemalloc.get_traced_memory()[1] < len(content) + (72 << 20)  # twice the largest pickle
    finally:
        tracemalloc.stop()
    assert re.search(reason, str(caught.value)), str(caught.value)
    assert caught.value.path == str(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["evil.pth"]


@pytest.mark.parametrize("method", [0, 8])
def test_the_benign_twins_load(tmp_path, method):
    """Plain zip archives, stored or deflated, as a person makes who packs a checkpoint again."""
    path = tmp_path / "good.pth"
    packed = {
        "main": Member("x/data.pkl", program(tensor()), method),
        "data": Member("x/data/0", DATA, method, central={"mode": stat.S_IFREG | 0o644}),
        "version": Member("x/version", b"3\n", method),
    }
    path.write_bytes(checkpoint(**packed))
    with open_pth(path) as f:
        assert f["w"].numpy().tobytes() == DATA
        f.verify()
    path.write_bytes(with_zip64())
    with open_pth(path) as f:
        assert f["w"].rows(1, 2).tobytes() == DATA[8:16]


def test_large_records_are_checked_when_they_are_read_or_verified(tmp_path):
    """A CRC of more than a page is not computed on opening; no value is handed out before it was."""
    path = tmp_path / "evil.pth"
    data = bytes(1 << 16)
    value = tensor(storage(numel=1 << 15), shape=(1 << 13, 4))
    bad = Member("x/data/0", data, local={"crc": 7}, central={"crc": 7})
    path.write_bytes(checkpoint(program(value), data=bad))
    with open_pth(path) as f:
        assert f["w"].shape == (1 << 13, 4)
        with pytest.raises(FormatError, match="'x/data/0' does not have the CRC-32"):
            f["w"].rows(0, 1)
        with pytest.raises(FormatError, match="'x/data/0' does not have the CRC-32"):
            f.verify()
    with open_pth(path, check_crc=False) as f:
        assert not f["w"].numpy().any()


def test_a_deflated_storage_is_inflated_only_when_it_is_read(tmp_path):
    path = tmp_path / "bomb.pth"
    size = 1 << 26
    value = tensor(storage(numel=size // 2), shape=(size // 2,), strides=(1,))
    zeros = Member("x/data/0", bytes(size), method=8)
    path.write_bytes(checkpoint(program(value), data=zeros))
    tracemalloc.start()
    try:
        with open_pth(path) as f:
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
            assert f["w"].rows(size // 2 - 3, size // 2).tolist() == [0, 0, 0]
            assert tracemalloc.get_traced_memory()[1] < 2.2 * size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", [checkpoint(), with_zip64(), checkpoint(program(text("x") + b"\x85"), data=None)])
def test_every_truncation_is_refused(tmp_path, content):
    path = tmp_path / "cut.pth"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(FormatError):
            open_pth(path)


def test_no_flipped_byte_changes_a_value_unnoticed(tmp_path, data):
    """Whatever byte is damaged: the file is refused, or every name, shape and value is what was written."""
    path = tmp_path / "flipped.pth"
    good = (data / "merge" / "malicious" / "ok_reference.pth").read_bytes()
    path.write_bytes(good)
    with open_pth(path) as f:
        written = {name: (t.dtype, t.shape, t.numpy().tobytes()) for name, t in f.items()}
    survivors = 0
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ 0x11]) + good[i + 1 :])
        try:
            with open_pth(path) as f:
                found = {name: (t.dtype, t.shape, t.numpy().tobytes()) for name, t in f.items()}
        except FormatError:
            continue
        assert found == written, f"byte {i}"
        survivors += 1
    assert survivors < 400  # versions, dates and padding, which mean nothing to a reader


NO_CHECKPOINTS = {
    "web page": (b"<html><body>Access denied</body></html>", "web page"),
    "git-lfs pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n",
        "git-lfs pointer.*Next: git lfs pull",
    ),
    "GGUF": (b"GGUF\3\0\0\0" + bytes(64), "GGUF"),
    "GGJT": (b"tjgg\1\0\0\0" + bytes(64), "GGML"),
    "safetensors": (struct.pack("<Q", 40) + b'{"w":{"dtype":"F16"}}' + bytes(40), "safetensors"),
    "tar of torch 0.1": (b"sys_info".ljust(257, b"\0") + b"ustar\0" + bytes(300), "torch 0.1"),
    "gzip": (b"\x1f\x8b\x08\0" + bytes(300), "a gzip archive. Next: unpack it first"),
    "7-Zip": (b"7z\xbc\xaf\x27\x1c" + bytes(300), "a 7-Zip archive. Next: unpack it first"),
    "empty file": (b"", "interrupted download. Next: fetch it again"),
    "one byte": (b"P", "not a checkpoint"),
    "two bytes": (b"PK", "not a zip archive"),
}


@pytest.mark.parametrize("kind", NO_CHECKPOINTS)
def test_other_files_are_called_by_their_name(tmp_path, kind):
    content, reason = NO_CHECKPOINTS[kind]
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=reason):
        open_pth(path)


def test_what_is_no_file_is_not_opened(tmp_path):
    with pytest.raises(MissingFileError, match="no such file"):
        open_pth(tmp_path / "missing.pth")
    with pytest.raises(MissingFileError, match="not a regular file"):
        open_pth(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    with pytest.raises(MissingFileError, match="not a regular file"):
        open_pth(tmp_path / "pipe")


def test_a_link_to_a_checkpoint_is_followed(tmp_path):
    """Download caches store files under a hash and link to them."""
    (tmp_path / "blob").write_bytes(checkpoint())
    (tmp_path / "model.bin").symlink_to(tmp_path / "blob")
    with open_pth(tmp_path / "model.bin") as f:
        assert f["w"].shape == (4, 4)
