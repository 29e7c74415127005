"""Reading .pth files: every golden file of torch, value for value; every malicious one refused; lazily."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ggmlpy.files.errors import FormatError, IntegrityError, UsageError
from llama_ref.checkpoint import open_pth, pth, shared_crc, widen_bfloat16, write_pth
from llama_ref.checkpoint.shared_crc import SharedCrc

MERGE = Path(__file__).resolve().parent.parent / "data" / "merge"
PARSER = sorted(path.name for path in (MERGE / "parser").glob("*.pth"))
BENIGN = {"ok_reference.pth": 1, "deflated_ok.pth": 0}


def expected_of(name):
    """The tensors that a golden file holds, or None where no list of them was written."""
    case, _, version, _ = name.split(".")
    for path in (f"{case}.expected.json", f"{case}.expected.{version}.json"):
        if (MERGE / "parser" / path).exists():
            return json.loads((MERGE / "parser" / path).read_text())
    return None


@pytest.mark.parametrize("name", [name for name in PARSER if expected_of(name)])
def test_golden_files_of_torch_value_for_value(name):
    with open_pth(MERGE / "parser" / name) as f:
        found = {n: {"dtype": f"torch.{t.dtype}", "shape": list(t.shape), "hex": t.stored().tobytes().hex()}
                 for n, t in f.items()}  # fmt: skip
        f.verify()
    assert found == expected_of(name)


def test_the_golden_files_are_there():
    assert len(PARSER) >= 20
    assert {name.split(".")[1] for name in PARSER} == {"zip", "legacy"}


@pytest.mark.parametrize("name", [name for name in PARSER if name.startswith(("dtypes", "strided", "shared"))])
def test_rows_are_rows_of_the_whole(name):
    with open_pth(MERGE / "parser" / name) as f:
        for tensor in f.values():
            whole = tensor.numpy()
            if tensor.shape:
                n = tensor.shape[0]
                for start, stop in [(0, n), (0, 0), (n // 2, n), (1 % (n + 1), n), (n, n)]:
                    np.testing.assert_array_equal(tensor.rows(start, stop), whole[start:stop])
            pieces = b"".join(chunk.tobytes() for chunk in tensor.chunks(limit=5))
            assert pieces == tensor.stored().tobytes()


def test_values_come_in_their_own_dtype():
    with open_pth(MERGE / "parser" / "dtypes.zip.t113.pth") as f:
        names = {"f16": "float16", "f32": "float32", "f64": "float64", "i64": "int64", "i32": "int32", "i16": "int16"}
        names |= {"i8": "int8", "u8": "uint8", "bool": "bool", "scalar": "float16", "empty": "float16"}
        assert {name: str(f[name].numpy().dtype) for name in names} == names
        assert f["bool"].numpy().tolist() == [True, False, True]
        assert f["scalar"].numpy().shape == ()
        assert f["f16"].f32().dtype == np.float32
        assert f["f64"].f16().dtype == np.float16


def test_bfloat16_is_widened_exactly():
    with open_pth(MERGE / "parser" / "bf16.zip.t213.pth") as f:
        bits, values = f["v"].stored(), f["v"].numpy()
    assert values.dtype == np.float32
    assert values.view(np.uint32).tolist() == [int(b) << 16 for b in bits]
    every = np.arange(1 << 16, dtype=np.uint16)
    assert (widen_bfloat16(every).view(np.uint32) == every.astype(np.uint32) << 16).all()


def test_nested_checkpoints_are_named_by_their_path():
    with open_pth(MERGE / "parser" / "nested_ckpt.zip.t113.pth") as f:
        assert list(f) == ["model.nested"]
        assert list(f.state_dict) == ["nested"]
        assert f.state_dict["nested"].name == "nested"
        assert f.extras["step"] == 3
        assert f.extras["lr"] == 0.0001
        assert [f.extras[f"l.{i}"] for i in range(4)] == [1, 2.5, None, True]


def test_metadata_of_a_state_dict():
    with open_pth(MERGE / "parser" / "state_dict_metadata.zip.t213.pth") as f:
        assert f.metadata == {"": {"version": 1}}
        assert list(f.state_dict) == list(f) == ["weight", "bias"]


def test_formats_are_told_apart():
    found = {}
    for case in ("bf16.zip.t113", "bf16.zip.t213", "bf16.legacy.t113"):
        with open_pth(MERGE / "parser" / f"{case}.pth") as f:
            found[case] = (f.format, f.prefix)
    assert found == {
        "bf16.zip.t113": ("torch-1.13", "bf16.zip.t113"),
        "bf16.zip.t213": ("torch-2.7+", "bf16.zip.t213"),
        "bf16.legacy.t113": ("legacy", None),
    }


@pytest.mark.parametrize("name", sorted(path.name for path in (MERGE / "malicious").glob("*.pth")))
def test_malicious_files_are_refused_with_record_and_reason(name):
    path = MERGE / "malicious" / name
    if name in BENIGN:
        with open_pth(path) as f:
            assert len(f) == BENIGN[name]
            f.verify()
        return
    with pytest.raises(FormatError) as caught:
        open_pth(path)
    reasons = {
        "bad_crc.pth": r"record 'consolidated.00/data/0' does not have the CRC-32",
        "deep_nesting.pth": r"archive/data.pkl: values pile up",
        "huge_numel.pth": r"record 'consolidated.00/data/0' has another size.*1,099,511,627,776",
        "missing_record.pth": r"record 'consolidated.00/data/9' is missing",
        "negative_stride.pth": r"tensor 'w' has a negative offset, shape or stride.*-4",
        "no_stop.pth": r"archive/data.pkl: the pickle ends before its STOP",
        "path_traversal_key.pth": r"storage key '\.\./\.\./etc/passwd' is not a number",
        "shape_exceeds_storage.pth": r"tensor 'w' is larger than its storage 0",
        "truncated_tail22.pth": r"the end of the archive is missing",
    }
    assert re.search(reasons.get(name, "."), str(caught.value))
    assert caught.value.field


def test_opening_reads_no_values_and_reading_one_reads_only_that(tmp_path, monkeypatch):
    """Which spans of the file have their CRC computed shows what is touched."""
    path = tmp_path / "small.pth"
    zeros = np.zeros((64, 4096), np.float16)
    write_pth(path, [(f"w{i}", "float16", zeros.shape, [zeros]) for i in range(50)])
    spans = []
    monkeypatch.setattr(pth, "SharedCrc", lambda *args: (spans.append(args[1:3]), SharedCrc(*args))[1])
    with open_pth(path) as f:
        assert max(stop - start for start, stop, *_ in spans) < zeros.nbytes
        spans.clear()
        f["w7"].rows(3, 4)
        f["w7"].numpy()
        record = f.records["small/data/7"]
        assert [span[:2] for span in spans] == [(record.data, record.data + record.size)]
        f.verify()
        assert len(spans) == 50


def test_threads_that_want_the_same_record_check_it_together(tmp_path, monkeypatch):
    """Each takes parts of it; a wrong CRC is told to all."""
    path, noise = tmp_path / "x.pth", np.random.default_rng(0).integers(0, 256, (64, 4096), np.uint8)
    write_pth(path, [("w", "uint8", noise.shape, [noise])])
    monkeypatch.setattr(shared_crc, "PART", 4096)
    whole = shared_crc.read_out
    readers, together = [], threading.Barrier(3, timeout=20)

    def read(*args):
        name = threading.current_thread().name
        if name.startswith("asking") and name not in readers:
            readers.append(name)
            together.wait()  # nobody goes on before all have begun
        return whole(*args)

    def ask(_):
        try:
            return f["w"].rows(3, 5).tobytes()
        except IntegrityError as error:
            return str(error)

    monkeypatch.setattr(shared_crc, "read_out", read)
    for damaged in (False, True):
        readers.clear()
        if damaged:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        with open_pth(path) as f, ThreadPoolExecutor(3, "asking") as pool:
            found = set(pool.map(ask, range(3)))
        assert len(found) == 1
        assert ("CRC-32" in str(found)) == damaged
        assert damaged or found == {noise[3:5].tobytes()}


def test_a_record_that_cannot_be_read_is_told_to_all_who_wait(monkeypatch):
    def fails(*_):
        raise OSError("the disk")

    monkeypatch.setattr(shared_crc, "read_out", fails)
    asked = SharedCrc(memoryview(bytes(10_000_000)), 0, 10_000_000, "x")
    for _ in range(2):
        with pytest.raises(OSError, match="the disk"):
            asked.value()


def test_values_are_views_of_the_file_until_they_are_changed():
    with open_pth(MERGE / "pth-format" / "torch1.13.1" / "consolidated.00.pth") as f:
        array = f["tok_embeddings.weight"].numpy()
        assert not array.flags.writeable
        assert not array.flags.owndata
        name = next(iter(f))
    assert array.sum() == array.sum()  # still valid after close
    with pytest.raises(UsageError, match="closed"):
        f[name].numpy()


def test_rows_out_of_range_are_refused():
    with open_pth(MERGE / "parser" / "strided.zip.t113.pth") as f:
        for start, stop in [(-1, 2), (0, 9), (5, 4)]:
            with pytest.raises(UsageError, match="rows"):
                f["t"].rows(start, stop)
        with pytest.raises(KeyError):
            f["missing"]
