"""Writing .pth files: the bytes of torch.save, for every version that there is a golden file or digest of."""

import collections
import hashlib
import io
import json
import math
import os
import pickle
import struct
import sys
import tracemalloc
import types
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggmlpy.files.errors import DiskSpaceError, OutputError, ShapeError, UsageError
from llama_ref.checkpoint import (
    DTYPES,
    TORCH_FORMATS,
    LazyTensor,
    open_pth,
    pth_archive,
    pth_pickle,
    pth_size,
    torch_formats,
    write_pth,
)
from llama_ref.checkpoint.torch_zip import read_directory

DATA = Path(__file__).resolve().parent.parent / "data"
GOLDEN = DATA / "merge" / "pth-format"
DIGESTS = sorted((DATA / "pth").glob("torch-save-*.json"))


@pytest.mark.parametrize("version", ["1.13.1", "2.0.1", "2.13.0"])
def test_golden_checkpoints_are_written_byte_for_byte(version, tmp_path, golden):
    saved = golden(f"merge/pth-format/torch{version}/consolidated.00.pth")
    target = tmp_path / saved.name
    with open_pth(saved) as f:
        write_pth(target, f.values(), version)
        shapes = [(t.name, t.dtype, t.shape) for t in f.values()]
    assert target.read_bytes() == saved.read_bytes()
    assert pth_size(target, shapes, version) == saved.stat().st_size


def test_every_zip_file_of_the_golden_merges_is_written_byte_for_byte(tmp_path):
    """Read, write, compare: adapters, shards and merged models of torch 1.13.1."""
    files = [path for path in (DATA / "merge").rglob("*") if path.suffix in (".pth", ".bin")]
    files = [
        path for path in files if path.parent.name not in ("parser", "malicious") and "pth-format" not in str(path)
    ]
    if not files:
        pytest.skip("no merge vectors beside the format vectors")
    for path in files:
        target = tmp_path / path.name
        with open_pth(path) as f:
            write_pth(target, f.values(), "1.13", ordered=f.ordered)
        assert target.read_bytes() == path.read_bytes(), path


def content(k, dtype, shape):
    """The bytes of tensor ``k`` of a digest case, by the rule that torch's files were made with."""
    n = math.prod(shape) * DTYPES[dtype].size
    return ((np.arange(n, dtype=np.int64) * 31 + k * 17 + 7) & (1 if dtype == "bool" else 255)).astype(np.uint8)


def digest_cases():
    for path in DIGESTS:
        record = json.loads(path.read_text())
        for case in record["cases"]:
            yield pytest.param(record["torch"], case, id=f"{record['torch']}-{case['file']}-{case['ordered']:d}")


@pytest.mark.parametrize(("version", "case"), list(digest_cases()))
def test_the_digests_of_torchs_files(version, case, tmp_path):
    """Dtypes, shapes, names, sizes of dicts: the SHA256 of what that torch wrote, without torch."""
    tensors = case.get("tensors") or [[f"layers.{i}.w", "float16", [1 + i % 2]] for i in range(case.get("count", 0))]
    target = tmp_path / case["file"]
    written = [(name, dtype, shape, [content(k, dtype, shape)]) for k, (name, dtype, shape) in enumerate(tensors)]
    write_pth(target, written, version, ordered=case["ordered"])
    data = target.read_bytes()
    assert len(data) == case["size"] == pth_size(target, tensors, version, ordered=case["ordered"])
    assert hashlib.sha256(data).hexdigest() == case["sha256"]


def test_there_are_digests_of_both_newer_layouts():
    assert {json.loads(path.read_text())["torch"] for path in DIGESTS} == {"2.6.0", "2.13.0"}


# -- properties --------------------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@st.composite
def tensor_lists(draw):
    names = draw(st.lists(NAMES, max_size=6, unique=True))
    tensors = []
    for name in names:
        dtype, shape = draw(st.sampled_from(sorted(DTYPES))), draw(SHAPES)
        size = math.prod(shape) * DTYPES[dtype].size
        tensors.append((name, dtype, shape, draw(st.binary(min_size=size, max_size=size))))
    return tensors


@settings(max_examples=60)
@given(tensor_lists(), st.sampled_from(["2.6.0", "2.13"]), st.booleans())
def test_what_is_written_is_read_again(tmp_path_factory, tensors, version, ordered):
    path = tmp_path_factory.mktemp("pth") / "x.pth"
    write_pth(path, [(n, d, s, [data]) for n, d, s, data in tensors], version, ordered=ordered)
    with open_pth(path) as f:
        assert [(t.name, t.dtype, t.shape, t.stored().tobytes()) for t in f.values()] == tensors
        f.verify()
        again = path.with_name("y") / "x.pth"
        again.parent.mkdir(exist_ok=True)
        write_pth(again, f.values(), version, ordered=ordered)
    assert again.read_bytes() == path.read_bytes()
    with zipfile.ZipFile(path) as archive:  # another program's opinion of the archive
        assert archive.testzip() is None


@given(st.lists(st.integers(1, 40), max_size=8))
def test_how_a_tensor_is_cut_into_chunks_does_not_matter(tmp_path_factory, cuts):
    path = tmp_path_factory.mktemp("pth") / "x.pth"
    data = bytes(range(200))
    edges = [0, *sorted({min(sum(cuts[:i]), 200) for i in range(1, len(cuts) + 1)}), 200]
    write_pth(path, [("a", "uint8", (200,), [data])])
    whole = path.read_bytes()
    write_pth(path, [("a", "uint8", (200,), (memoryview(data)[a:b] for a, b in pairwise(edges)))])
    assert path.read_bytes() == whole


def test_arrays_of_any_memory_order_are_written_row_by_row(tmp_path):
    path = tmp_path / "x.pth"
    square = np.arange(12, dtype=np.float32).reshape(3, 4)
    variants = [square, np.asfortranarray(square), square[::-1][::-1], square.astype(">f4")]
    written = []
    for variant in variants:
        write_pth(path, [("a", "float32", (3, 4), [variant])])
        written.append(path.read_bytes())
    assert len(set(written)) == 1


# -- rules that no file at hand shows ----------------------------------------------------------------------------------


def llama_7b(n_vocab):
    """Names and shapes of a merged 7B model in the order of the merge."""
    yield "tok_embeddings.weight", "float16", (n_vocab, 4096)
    for i in range(32):
        for name in ("wq", "wk", "wv", "wo"):
            yield f"layers.{i}.attention.{name}.weight", "float16", (4096, 4096)
        for name, shape in (("w1", (11008, 4096)), ("w2", (4096, 11008)), ("w3", (11008, 4096))):
            yield f"layers.{i}.feed_forward.{name}.weight", "float16", shape
        for name in ("attention_norm", "ffn_norm"):
            yield f"layers.{i}.{name}.weight", "float16", (4096,)
    yield "norm.weight", "float16", (4096,)
    yield "output.weight", "float16", (n_vocab, 4096)


@pytest.mark.parametrize(("n_vocab", "size"), [(49953, 13_771_067_591), (49954, 13_771_083_975)])
def test_the_predicted_size_of_the_published_7b_merges(n_vocab, size):
    assert pth_size("consolidated.00.pth", llama_7b(n_vocab)) == size


def places_of(*sizes, start=0):
    """Records of these sizes, one after the other, from offset ``start``."""
    places = []
    for i, size in enumerate(sizes):
        header = places[-1].end if places else start
        places.append(pth_archive.Place(f"data/{i}", f"x/data/{i}".encode(), size, header))
    return places


LIMIT = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("size", "header", "field"),
    [
        (LIMIT - 1, 0, b""),
        (LIMIT, 0, struct.pack("<HHQQ", 1, 16, LIMIT, 0)),
        (LIMIT + 1, LIMIT - 1, struct.pack("<HHQQ", 1, 16, LIMIT + 1, 0)),
        (2, LIMIT - 1, b""),
        (2, LIMIT, struct.pack("<HHQ", 1, 8, LIMIT)),
        (LIMIT, 1 << 40, struct.pack("<HHQQQ", 1, 24, LIMIT, 0, 1 << 40)),
        (0, 1 << 40, struct.pack("<HHQ", 1, 8, 1 << 40)),
    ],
)
def test_zip64_fields_of_large_records_and_offsets(size, header, field):
    """A field where size or offset reach 2^32-1; in the local header the second size of it is 0."""
    place = pth_archive.Place("data/0", b"x/data/0", size, header)
    local = place.local_header()
    assert local[30 + 8 :].startswith(field + b"FB")
    assert (header + len(local)) % 64 == 0
    assert len(local) - (30 + 8 + len(field) + 4) < 64
    descriptor = place.descriptor(7)
    if size:
        assert descriptor == struct.pack("<4sIQQ" if field else "<4sIII", b"PK\7\x08", 7, size, size)
    else:
        assert descriptor == b""
    entry = place.directory_entry(7)
    assert struct.unpack_from("<III", entry, 16) == (7, min(size, LIMIT), min(size, LIMIT))
    assert struct.unpack_from("<I", entry, 42) == (min(header, LIMIT),)
    real = field[:12] + struct.pack("<Q", size) + field[20:] if size >= LIMIT else field
    assert entry[46 + 8 :] == real


def test_records_follow_each_other_without_a_gap():
    places = places_of(7, 0, LIMIT, 5, 1 << 33, 0, 9)
    for before, after in pairwise(places):
        assert after.header == before.data + before.size + len(before.descriptor(0))
    assert not any(place.data % 64 for place in places)


@pytest.mark.skipif(sys.platform != "linux", reason="the file system may not know holes")
def test_the_reader_accepts_records_over_4_gib(tmp_path):
    """A file of 9 GiB of holes: header offsets, zip64 fields and the end records by rule, read back by the reader."""
    path = tmp_path / "sparse.pth"
    tensors = [("a", "uint8", (5 << 30,)), ("b", "float16", (3,)), ("c", "float32", (1 << 30,)), ("d", "bool", (2,))]
    write_holes(path, tensors)
    assert os.stat(path).st_blocks * 512 < 1 << 20
    with open_pth(path, check_crc=False) as f:
        assert [(t.name, t.dtype, t.shape) for t in f.values()] == tensors
        assert f["b"].stored().tobytes() == b"\1\2\3\4\5\6"
        assert f["d"].numpy().tolist() == [True, False]
        assert f["a"].rows((5 << 30) - 2, 5 << 30).tolist() == [0, 0]
        assert f.records["sparse/data/1"].header > 5 << 30
        assert path.stat().st_size == pth_size(path, tensors)
    with zipfile.ZipFile(path) as archive:
        assert [info.file_size for info in archive.infolist()][1:5] == [5 << 30, 6, 4 << 30, 2]


CONTENT = {"data/1": b"\1\2\3\4\5\6", "data/3": b"\1\0"}


def write_holes(path, tensors, content=CONTENT):
    """The file that write_pth would write of zeros, with holes in place of the large records."""
    import zlib

    layout = TORCH_FORMATS["1.13"]
    wanted = [pth_pickle.Tensor.of((*tensor, ()), layout) for tensor in tensors]
    pickle = pth_pickle.pickle_of(wanted, False)
    places = pth_archive.plan_archive("sparse", layout, len(pickle), wanted)
    known = {"data.pkl": pickle, "version": b"3\n", **content}
    crcs = [zlib.crc32(known.get(place.name, b"")) for place in places]
    with open(path, "wb") as stream:
        for place, crc in zip(places, crcs):
            stream.seek(place.header)
            stream.write(place.local_header() + known.get(place.name, b""))
            stream.seek(place.data + place.size)
            stream.write(place.descriptor(crc))
        directory = b"".join(place.directory_entry(crc) for place, crc in zip(places, crcs))
        stream.write(directory + pth_archive.end_records(len(places), len(directory), places[-1].end))


@pytest.mark.slow
def test_a_record_over_4_gib_is_streamed_to_disk(tmp_path):
    """4.5 GiB of real bytes in pieces of 64 MiB: offsets by rule, CRC checked by the reader and by zipfile."""
    path = tmp_path / "big.pth"
    size = (9 << 29) + 5
    piece = np.arange(64 << 20, dtype=np.uint32).astype(np.uint8)

    def pieces():
        for start in range(0, size, len(piece)):
            yield piece[: min(len(piece), size - start)]

    write_pth(path, [("a", "uint8", (size,), pieces()), ("b", "float16", (2,), [b"\0\1\2\3"])])
    assert path.stat().st_size == pth_size(path, [("a", "uint8", (size,)), ("b", "float16", (2,))])
    with open_pth(path) as f:
        f.verify()
        assert f["a"].rows(size - 5, size).tolist() == [0, 1, 2, 3, 4]
        assert f["b"].stored().tobytes() == b"\0\1\2\3"
        with open(path, "rb") as stream:
            records = read_directory(memoryview(f._buffer()), str(path))
            assert records["big/data/1"].header == records["big/data/0"].data + size + 24
            stream.seek(records["big/data/0"].header)
            assert stream.read(4) == b"PK\3\4"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_unknown_formats_are_refused():
    for name in ("1.12", "2.99", "3.0", "latest", "", "2", "1.13x", "1.13.1;"):
        with pytest.raises(UsageError, match=r"unknown torch format .*known: 1\.13, 2\.0"):
            write_pth("x.pth", [], name)


def test_versions_stand_for_their_layout():
    same = [("1.13", "1.13.1"), ("1.13", "2.0.1+cpu"), ("2.1", "2.5.1+cu124"), ("2.6", "2.13.0"), ("2.1", "2.4")]
    for first, second in same:
        assert torch_formats.layout_of(first) is torch_formats.layout_of(second)
    assert torch_formats.layout_of("2.6") is not torch_formats.layout_of("2.6.0")


@pytest.mark.parametrize("chunks", [[], [b"abc"], [b"abcd", b"e"]])
def test_chunks_that_do_not_make_up_the_tensor_leave_no_file(tmp_path, chunks):
    with pytest.raises(ShapeError, match=r"tensor 'a' .*4 bytes"):
        write_pth(tmp_path / "x.pth", [("a", "float16", (2,), chunks)])
    assert not list(tmp_path.iterdir())


def test_names_and_dtypes_that_cannot_be_saved(tmp_path):
    two = [("a", "bool", (1,), [b"\0"])] * 2
    with pytest.raises(UsageError, match="same name"):
        write_pth(tmp_path / "x.pth", two)
    with pytest.raises(UsageError, match="cannot save dtype float8"):
        write_pth(tmp_path / "x.pth", [("a", "float8", (1,), [b"\0"])])
    for version in ("1.13", "2.5"):  # torch 2.6 was the first to save these
        with pytest.raises(UsageError, match="cannot save dtype uint16"):
            write_pth(tmp_path / "x.pth", [("a", "uint16", (1,), [b"\0\0"])], version)
    with pytest.raises(OutputError, match="no name before the extension"):
        write_pth(tmp_path / ".pth", [])
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_on_the_disk_is_not_begun(tmp_path):
    with pytest.raises(DiskSpaceError):
        write_pth(tmp_path / "x.pth", [("a", "uint8", (1 << 60,), iter([]))])
    assert not list(tmp_path.iterdir())


def test_chunks_are_asked_for_one_tensor_at_a_time_in_the_order_of_the_file(tmp_path):
    asked = []

    def chunks(i):
        asked.append(i)
        yield b"\0\0"

    tensors = [(f"w{i}", "float16", (1,), chunks(i)) for i in range(12)]
    write_pth(tmp_path / "x.pth", tensors, "1.13")
    assert asked == [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    asked.clear()
    write_pth(tmp_path / "x.pth", [LazyTensor(f"w{i}", (1,), "float16", reading(asked, i)) for i in range(12)], "2.13")
    assert asked == list(range(12))


def reading(asked, i):
    return lambda start, stop: (asked.append(i), np.zeros(1, "<f2"))[1]


def test_copying_a_checkpoint_holds_no_tensor_in_memory(tmp_path):
    """From one file to the other in pieces of 16 MB: no copy of 64 MB, whatever the dtype."""
    zeros = np.zeros(4 << 20, np.uint8)
    tensors = [(dtype, dtype, (16, len(zeros) // 2), [zeros] * 16) for dtype in ("float16", "bfloat16")]
    write_pth(tmp_path / "a.pth", tensors)
    import numba  # noqa: F401 - from now on the CRC kernel is used, which is loaded here and not while memory is traced

    with open_pth(tmp_path / "a.pth") as f:
        write_pth(tmp_path / "b.pth", f.values())
        tracemalloc.start()
        try:
            write_pth(tmp_path / "b.pth", f.values())
            assert tracemalloc.get_traced_memory()[1] < 36 << 20
        finally:
            tracemalloc.stop()
        with open_pth(tmp_path / "b.pth") as g:
            assert all((f[name].stored() == g[name].stored()).all() for name in f)


def test_the_prefix_is_the_final_name_not_the_temporary_one(tmp_path):
    for name, prefix in {"consolidated.00.pth": "consolidated.00", "noext": "noext", "a.b.c": "a.b"}.items():
        write_pth(tmp_path / name, [("a", "bool", (1,), [b"\1"])])
        with open_pth(tmp_path / name) as f:
            assert f.prefix == prefix
    write_pth(tmp_path / "模型.pth", [], "2.0")
    with open_pth(tmp_path / "模型.pth") as f:
        assert f.prefix == "模型"
    write_pth(tmp_path / "模型.pth", [], "2.1")
    with open_pth(tmp_path / "模型.pth") as f:
        assert f.prefix == "archive"


# -- CPython's own pickler as the oracle -------------------------------------------------------------------------------


def stand_in(module, name, **members):
    """A class that pickles as the global ``module.name``."""
    return type(name, (), {"__module__": module, "__qualname__": name, **members})


@pytest.fixture
def pickled_like_torch(monkeypatch):
    """What CPython's pickler writes of a dict of stand-ins that reduce themselves as torch's tensors do."""
    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils")}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    for element in DTYPES.values():
        if element.storage:
            setattr(modules["torch"], element.storage, stand_in("torch", element.storage))
    rebuild = stand_in("torch._utils", "_rebuild_tensor_v2")
    modules["torch._utils"]._rebuild_tensor_v2 = rebuild

    class Storage:
        def __init__(self, kind, key, size):
            self.id = ("storage", kind, str(key), "cpu", size)

    class Tensor:
        def __init__(self, key, tensor):
            storage = Storage(getattr(modules["torch"], DTYPES[tensor.dtype].storage), key, tensor.size)
            hooks = collections.OrderedDict()
            self.state = (storage, 0, (*tensor.shape,), (*tensor.strides(),), False, hooks)

        def __reduce_ex__(self, protocol):
            return rebuild, self.state

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            return thing.id if isinstance(thing, Storage) else None

    def dumps(tensors, ordered):
        kind = collections.OrderedDict if ordered else dict
        out = io.BytesIO()
        Pickler(out, 2).dump(kind((tensor.name, Tensor(key, tensor)) for key, tensor in enumerate(tensors)))
        return out.getvalue()

    return dumps


COUNTS = [0, 1, 2, 3, 9, 10, 30, 999, 1000, 1001, 1999, 2000, 2001, 3000]


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("n", COUNTS)
def test_the_pickle_is_that_of_cpythons_pickler(n, ordered, pickled_like_torch):
    """Memo numbers below and above 256, batches of 1,000 and what follows a full one, on this version of Python."""
    dtypes = [name for name, element in DTYPES.items() if element.storage]
    shapes = [(), (0,), (7,), (300, 2), (70_000,), (1, 2, 3), (1, 2, 3, 4), (1 << 31, 2), (1 << 40,)]
    layout = TORCH_FORMATS["1.13"]
    tensors = [
        pth_pickle.Tensor.of((f"t{i}.é", dtypes[i % len(dtypes)], shapes[i % len(shapes)], ()), layout)
        for i in range(n)
    ]
    assert pth_pickle.pickle_of(tensors, ordered) == pickled_like_torch(tensors, ordered)
