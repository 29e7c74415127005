"""The quantizers against the real tools' bytes, against a scalar transcription, and against themselves."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numba import config
from numba.core.dispatcher import Dispatcher

from ggmlpy import ERAS, UsageError, open_model, out_tensor, write_model
from ggmlpy.formats.dequantize import dequantize
from ggmlpy.machine import kernels
from ggmlpy.machine.c_arithmetic import narrow, round_half_away, truncate
from ggmlpy.machine.vectors import f16_of_bits_by_hand
from ggmlpy.quantizers.classic import RULES
from ggmlpy.quantizers.rows import quantizable, quantize_rows
from ggmlpy.quantizers.rows import quantize_rows as quantize
from ggmlpy.quantizers.whole_file import quantize_file
from tests.ggmlpy.scalar_c import c_int, quantize_block, roundf

BY_PIN = {era.pin: era for era in ERAS.values()}
LEGACY = [(era.pin, name) for era, name in RULES]


def scaled_by(scale):
    """The rows of RULES with a kind of scale, as LEGACY names them."""
    return [(era.pin, name) for (era, name), rule in RULES.items() if rule.scale == scale]


QUANTIZED_T1 = [
    *[(pin, name) for pin in ("p0", "p1", "p2") for name in ("q4_0", "q4_1")],
    *[("p3", name) for name in ("q4_0", "q4_1", "q4_2", "q5_0", "q5_1", "q8_0")],
    *[(pin, name) for pin in ("p4", "p5") for name in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")],
]


# --- the real tools -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pin", "name"), QUANTIZED_T1)
def test_the_toy_model_becomes_the_real_tools_file(golden, tmp_path, pin, name):
    source = golden(f"ggml/T1_convert_f16/T1.{pin if pin < 'p3' else 'p2'}.f16.bin")
    wanted = golden(f"ggml/T1_quant_{pin}/T1.{name}.bin")
    if pin == "p5":
        source = in_the_order_of(wanted, source, tmp_path / "reordered.bin")
    report = quantize_file(source, tmp_path / "out.bin", name, BY_PIN[pin], threads=2)
    assert (tmp_path / "out.bin").read_bytes() == wanted.read_bytes()
    printed = json.loads((wanted.parent / "manifest.json").read_text())["files"][wanted.name]["hist"]
    assert printed == [report.closing_lines()[-1]] if pin < "p5" else printed == []


def in_the_order_of(wanted, source, path):
    """The input of era 2023-08-21 did not travel: the same tensors in the order of that era's converter."""
    with open_model(wanted) as order, open_model(source) as model:
        tensors = [out_tensor(model.tensors[name]) for name in order.tensors]
        vocab = zip(model.vocab, model.vocab.scores.tolist())
        write_model(path, "ggjt", 1, replace(model.hparams, ftype=1), vocab, tensors)
    return path


EDGES = [
    *[(pin, f"t{number}", str(number)) for pin in ("p0", "p1", "p2") for number in (2, 3)],
    *[("p3", name, name) for name in ("q4_0", "q4_1", "q4_2", "q5_0", "q5_1", "q8_0")],
    *[("p4", name, name) for name in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")],
    *[("p5", name, name) for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")],
]


@pytest.mark.parametrize(("pin", "label", "request_type"), EDGES)
def test_blocks_of_ties_zeros_denormals_and_overflow(golden, tmp_path, pin, label, request_type):
    source = golden(f"ggml/edge_quant/edge.{pin if pin < 'p3' else 'p3'}.bin")
    quantize_file(source, tmp_path / "out.bin", request_type, BY_PIN[pin], threads=1)
    wanted = golden(f"ggml/edge_quant/edge.{pin}.{label}.s.bin")
    assert (tmp_path / "out.bin").read_bytes() == wanted.read_bytes()


# --- a scalar transcription ---------------------------------------------------------------------------------------

SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 2.9e-39, 1.1754944e-38, 3.4028235e38, -3.4028235e38, np.inf, -np.inf, np.nan]
SPECIAL = [float(np.float32(x)) for x in SPECIAL]  # NumPy 1 compares a float32 with a float as floats
AWKWARD = [0.5, -0.5, 1.5, 0.49999997, -0.49999997, 7.0, -7.0, 8.0, -8.0, 1e-3, 65504.0, 65520.0]
AWKWARD = [float(np.float32(x)) for x in AWKWARD]


def blocks_of_floats(size: int):
    ordinary = st.floats(-8, 8, width=32)
    anything = st.one_of(ordinary, st.floats(width=32), st.sampled_from(SPECIAL + AWKWARD))
    values = st.one_of(st.just(ordinary), st.just(anything), st.just(st.floats(-(2.0**-120), 2.0**-120, width=32)))
    return values.flatmap(lambda element: hnp.arrays(np.float32, size, elements=element, fill=element))


@pytest.mark.parametrize(("pin", "name"), LEGACY)
@given(data=st.data())
def test_any_block_equals_the_scalar_transcription(pin, name, data):
    record = BY_PIN[pin].type(name)
    x = data.draw(blocks_of_floats(record.blck_size))
    x[np.isnan(x)] = np.nan  # payloads of NaN differ between builds of the real tool
    assert quantize(x, name, BY_PIN[pin]).tobytes() == quantize_block(x, name, pin, record)


@pytest.mark.parametrize(("pin", "name"), LEGACY)
def test_f16_rows_equal_the_same_rows_widened(pin, name):
    x = every_f16_in_rows_of(64)
    with np.errstate(invalid="ignore"):
        wide = x.astype(np.float32)
    ours, theirs = quantize(x, name, BY_PIN[pin]), quantize(wide, name, BY_PIN[pin])
    assert np.array_equal(ours, theirs)


def every_f16_in_rows_of(n: int) -> np.ndarray:
    """All 65536 f16 values, shuffled so that blocks mix magnitudes; NaN only as the canonical one."""
    x = np.random.default_rng(3).permutation(np.arange(1 << 16, dtype=np.uint32)).astype(np.uint16).view(np.float16)
    x = x.copy()
    x[np.isnan(x)] = np.nan
    return x.reshape(-1, n)


# --- C's casts ----------------------------------------------------------------------------------------------------

all_floats = st.one_of(st.floats(width=32), st.sampled_from(SPECIAL + AWKWARD), st.floats(-300, 300, width=32))


@given(v=all_floats)
def test_casts_equal_c_on_x86_in_their_low_byte(v):
    v = np.float32(v)
    assert truncate(v) & 255 == c_int(v) & 255
    if not abs(v) >= 2**22:  # beyond, a float has no fraction and the quantizers' codes never get there
        assert round_half_away(v) & 255 == c_int(roundf(v)) & 255


@given(v=all_floats)
def test_narrowing_is_the_nearest_f16(v):
    with np.errstate(over="ignore"):
        expected = np.float32(v).astype(np.float16)
    wanted = (0x7E00 | 0x8000 * int(np.signbit(expected))) if np.isnan(expected) else int(expected.view(np.uint16))
    assert narrow(np.float32(v)) == wanted


def test_widening_by_bits_is_exact_for_every_f16():
    h = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    widen = kernels.inlined(lambda bits: f16_of_bits_by_hand(bits))
    out = np.array([widen(bits) for bits in h], np.float32)
    with np.errstate(invalid="ignore"):
        expected = h.view(np.float16).astype(np.float32)
    numbers = ~np.isnan(expected)
    assert np.array_equal(out[numbers].view(np.uint32), expected[numbers].view(np.uint32))
    assert np.isnan(out[~numbers]).all()


# --- properties ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pin", "name"), scaled_by("signed"))
@given(seed=st.integers(0, 2**32 - 1))
def test_a_signed_scale_makes_quantizing_idempotent(pin, name, seed):
    """-8 d and -16 d are exact, so what was decoded is coded the same way again."""
    moment = BY_PIN[pin]
    record = moment.type(name)
    x = np.random.default_rng(seed).standard_normal((4, 64)).astype(np.float32)
    once = quantize(x, name, moment)
    again = quantize(dequantize(once.view(record.block), record), name, moment)
    assert np.array_equal(once, again)


@pytest.mark.parametrize(("pin", "name"), scaled_by("magnitude"))
@given(seed=st.integers(0, 2**32 - 1))
def test_a_scale_of_the_magnitude_keeps_its_codes(pin, name, seed):
    """7 d and 127 d round, so d may move by a last place; the codes stay."""
    moment = BY_PIN[pin]
    record = moment.type(name)
    x = np.random.default_rng(seed).standard_normal((4, 64)).astype(np.float32)
    once = quantize(x, name, moment).view(record.block)
    again = quantize(dequantize(once, record), name, moment).view(record.block)
    assert np.array_equal(once["qs"], again["qs"])
    whole = f"u{record.block['d'].itemsize}"
    before, after = (np.ascontiguousarray(blocks["d"]).view(whole).astype(np.int64) for blocks in (once, again))
    assert np.abs(before - after).max() <= 1


@pytest.mark.parametrize(("pin", "name"), LEGACY)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_value_moves_by_more_than_a_step(pin, name, seed):
    moment = BY_PIN[pin]
    record = moment.type(name)
    x = np.random.default_rng(seed).standard_normal((2, 64)).astype(np.float32)
    values = dequantize(quantize(x, name, moment).view(record.block), record)
    steps = RULES[BY_PIN[pin], name].steps
    extent = np.ptp(x) if RULES[BY_PIN[pin], name].scale == "range" else np.abs(x).max()
    assert np.abs(values - x).max() <= 1.01 * extent / steps + 4e-3


@given(data=st.data())
def test_rows_don_t_depend_on_their_neighbours(data):
    pin, name = data.draw(st.sampled_from(LEGACY))
    x = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal((5, 96)).astype(np.float32)
    together = quantize(x, name, BY_PIN[pin])
    apart = np.stack([quantize(row, name, BY_PIN[pin]) for row in x])
    assert np.array_equal(together, apart)


def test_the_histogram_counts_each_value_once():
    x = np.random.default_rng(1).standard_normal((8, 256)).astype(np.float32)
    for pin, name in LEGACY:
        histogram = np.zeros(16, np.int64)
        quantize_rows(x, name, BY_PIN[pin], histogram=histogram)
        assert histogram.sum() == x.size


# --- arguments ----------------------------------------------------------------------------------------------------


def test_what_an_era_lacks_is_refused_by_name():
    with pytest.raises(UsageError, match="era 2023-03-31 has no type 'q8_0'; it has f32, f16, q4_0, q4_1"):
        quantize(np.zeros(32, np.float32), "q8_0")
    with pytest.raises(UsageError, match="f16 is not a quantized type"):
        quantize(np.zeros(32, np.float32), "f16")


def test_a_row_must_consist_of_whole_blocks_of_floats():
    with pytest.raises(UsageError, match="a row of 33 values is not a multiple of q4_0's block of 32"):
        quantize(np.zeros((2, 33), np.float32), "q4_0")
    with pytest.raises(UsageError, match="must be float32 or float16, not float64"):
        quantize(np.zeros(32), "q4_0")


def test_no_rows_give_no_bytes():
    assert quantize(np.zeros((0, 64), np.float32), "q4_0").shape == (0, 40)
    assert quantizable("2023-05-19") == ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")


# --- compiling ----------------------------------------------------------------------------------------------------


def test_where_nothing_can_be_cached_kernels_are_compiled_anyway(monkeypatch):
    """Numba raises where neither its source's folder nor the user's cache directory can be written."""

    def unwritable(dispatcher: object) -> None:
        raise RuntimeError("cannot cache function 'twice': no locator available for file")

    monkeypatch.setattr(Dispatcher, "enable_caching", unwritable)
    twice = kernels.kernel(lambda x: 2 * x, "int64(int64)")
    assert twice(21) == 42


def double(x):
    return 2 * x


def test_the_cache_is_valid_for_the_sources_it_was_made_of(monkeypatch, tmp_path):
    """A file that a kernel calls functions of may change while its own does not."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    hits = []
    for digest in ("one", "one", "two", "two"):
        monkeypatch.setattr(kernels, "source_digest", lambda folder, digest=digest: digest)
        compiled = kernels.kernel(double, "int64(int64)")
        assert compiled(21) == 42
        hits.append(sum(compiled.stats.cache_hits.values()))
    assert hits == [0, 1, 0, 1]
