"""Migration: the same bytes as the real migration scripts; losses are stated, never hidden."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy import TENSOR_TYPES, open_model
from ggmlpy.files.errors import UsageError
from ggmlpy.formats.codes import pack_codes, repack, repackable, unpack_codes
from ggmlpy.formats.containers import container_named
from ggmlpy.quantizers.migration import derived_scores, migrate
from ggmlpy.verify.compare import compare
from ggmlpy.verify.fingerprint import fingerprint
from tests.ggmlpy.models import finite_blocks, write_tiny


def migrated(source, target, container, **options):
    declared, version = container_named(container)
    with open_model(source) as model:
        return migrate(model, target, declared.name, version, **options)


CASES = [
    ("T1_convert_f16/T1.p1.f16.bin", "T1_convert_f16/T1.p2.f16.bin", "ggjt1"),
    ("T1_convert_f16/T1.p0.f16.bin", "T1_convert_f16/T1.p1.f16.bin", "ggmf1"),
    ("T1_convert_f16/T1.p0.f16.bin", "T1_convert_f16/T1.p2.f16.bin", "ggjt1"),
    ("T3_convert_f16/T3.p0.f16.bin", "T3_convert_f16/T3.p2.f16.bin", "ggjt1"),
    ("T3_convert_f16/T3.p1.f16.bin", "T3_convert_f16/T3.p2.f16.bin", "ggjt1"),
    ("T1_quant_p0/T1.q4_0.bin", "T1_quant_p2/T1.q4_0.bin", "ggjt1"),
    ("T1_quant_p1/T1.q4_0.bin", "T1_quant_p2/T1.q4_0.bin", "ggjt1"),
    ("T1_quant_p1/T1.q4_1.bin", "T1_quant_p2/T1.q4_1.bin", "ggjt1"),
    ("T1_quant_p2/T1.q4_1.bin", "T1_quant_p1/T1.q4_1.bin", "ggmf1"),
]


@pytest.mark.parametrize(("source", "target", "container"), CASES)
def test_equals_the_file_written_directly(source, target, container, golden, tmp_path):
    migrated(golden(f"ggml/{source}"), tmp_path / "out.bin", container)
    assert (tmp_path / "out.bin").read_bytes() == golden(f"ggml/{target}").read_bytes()


def test_splitting_is_the_inverse_of_joining(golden, tmp_path):
    source = golden("ggml/T3_convert_f16/T3.p2.f16.bin")
    report = migrated(source, tmp_path / "m.bin", "ggmf1", n_parts=2)
    for path, name in zip(report.paths, ("T3.p1.f16.bin", "T3.p1.f16.bin.1"), strict=True):
        assert path.read_bytes() == (source.parent / name).read_bytes()


@pytest.mark.parametrize("type_name", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
def test_codes_carried_from_april_to_may_lose_nothing(type_name, tmp_path):
    source = write_tiny(tmp_path / "april.bin", "ggjt", 1, type_name)
    report = migrated(source, tmp_path / "may.bin", "ggjt2", requantize=True)
    assert all(loss.rmse == loss.max_error == 0 for loss in report.losses)
    with open_model(source) as a, open_model(tmp_path / "may.bin") as b:
        assert compare(a, b).verdict == "same content"


def test_rounding_scales_to_f16_is_stated(tmp_path):
    source = write_tiny(tmp_path / "may.bin", "ggjt", 2, "q4_0")
    report = migrated(source, tmp_path / "august.bin", "ggjt3", requantize=True)
    with open_model(source) as a, open_model(tmp_path / "august.bin") as b:
        errors = {name: np.abs(t.numpy() - b.tensors[name].numpy()) for name, t in a.tensors.items()}
    assert report.losses
    for loss in report.losses:
        assert 0 < loss.max_error == errors[loss.name].max()
        assert loss.rmse == pytest.approx(np.sqrt(np.mean(np.square(errors[loss.name], dtype=np.float64))))


def test_other_bytes_need_asking(tmp_path):
    source = write_tiny(tmp_path / "a.bin", "ggjt", 1, "q4_0")
    with pytest.raises(UsageError, match=r"q4_0-2023-03 became q4_0-2023-08.*--requantize carries the codes over"):
        migrated(source, tmp_path / "out.bin", "ggjt3")
    assert not (tmp_path / "out.bin").exists()


def test_a_type_that_is_gone_needs_a_name(tmp_path):
    source = write_tiny(tmp_path / "a.bin", "ggjt", 1, "q4_2")
    with pytest.raises(UsageError, match=r"ggjt v2 has no q4_2 .*--requantize TYPE converts .* q8_0"):
        migrated(source, tmp_path / "out.bin", "ggjt2", requantize=True)
    report = migrated(source, tmp_path / "out.bin", "ggjt2", requantize="q8_0")
    assert {loss.target for loss in report.losses} == {"q8_0-2023-04"}
    with open_model(tmp_path / "out.bin") as model:
        assert model.hparams.ftype == 7


def test_ggjt_is_never_split(tmp_path):
    source = write_tiny(tmp_path / "a.bin")
    with pytest.raises(UsageError, match="ggjt models are always one file"):
        migrated(source, tmp_path / "out.bin", "ggjt1", n_parts=2)


def test_scores_of_the_real_vocabulary_follow_from_its_order(vectors):
    with open_model(vectors / "ggml/vocab/ggml-vocab-p2.bin") as model:
        assert derived_scores(model.vocab).tobytes() == model.vocab.scores.tobytes()


def test_fingerprint_is_the_container_s_no_business(golden, tmp_path):
    source = golden("ggml/T1_quant_p1/T1.q4_0.bin")
    migrated(source, tmp_path / "out.bin", "ggjt1")
    with open_model(source) as a, open_model(tmp_path / "out.bin") as b:
        assert fingerprint(a) == fingerprint(b)
    data = bytearray((tmp_path / "out.bin").read_bytes())
    data[-1] ^= 1
    (tmp_path / "out.bin").write_bytes(data)
    with open_model(source) as a, open_model(tmp_path / "out.bin") as b:
        assert fingerprint(a) != fingerprint(b)


PAIRS = [(s, t) for s in TENSOR_TYPES.values() for t in TENSOR_TYPES.values() if repackable(s, t)]


@given(pair=st.sampled_from(PAIRS), seed=st.integers(0, 2**32))
def test_repacking_keeps_every_code(pair, seed):
    source, target = pair
    blocks = finite_blocks(np.random.default_rng(seed), source, (2, source.blck_size * 3)).view(source.block)
    np.testing.assert_array_equal(unpack_codes(repack(blocks, source, target), target), unpack_codes(blocks, source))


@given(record=st.sampled_from([s for s, _ in PAIRS]), seed=st.integers(0, 2**32))
def test_packing_is_the_inverse_of_unpacking(record, seed):
    blocks = finite_blocks(np.random.default_rng(seed), record, (record.blck_size * 4,)).view(record.block)
    again = blocks.copy()
    for part in record.codes:
        again[part.field] = 0
    pack_codes(unpack_codes(blocks, record), again, record)
    assert again.tobytes() == blocks.tobytes()


def test_no_parts_are_no_model(golden, tmp_path):
    with (
        open_model(golden("ggml/T1_convert_f16/T1.p2.f16.bin")) as model,
        pytest.raises(UsageError, match="at least one"),
    ):
        migrate(model, tmp_path / "x.bin", "ggml", 0, n_parts=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("type_name", "n_parts"), [("f32", 33), ("f16", 64), ("q4_0", 2)])
def test_no_part_is_without_columns_or_ends_within_a_block(type_name, n_parts, tmp_path):
    """Found by fuzzing: parts of no columns were written, which nothing reads."""
    source = write_tiny(tmp_path / "m.bin", type_name=type_name)
    with open_model(source) as model, pytest.raises(UsageError, match=r"has 32 columns.* can't be spread over"):
        migrate(model, tmp_path / "x.bin", "ggmf", 1, n_parts=n_parts)
    assert list(tmp_path.iterdir()) == [source]
