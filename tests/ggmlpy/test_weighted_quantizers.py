"""The quantizers of GGUF's eras, with an importance matrix and without, against blocks of the real ones."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy import TENSOR_TYPES, UsageError
from ggmlpy.formats.eras import GGUF_ERAS, TODAY
from ggmlpy.quantizers.rows import quantize_rows

CLASSIC = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
LATER = ("q1_0", "q2_0", "tq1_0", "tq2_0", "mxfp4", "nvfp4", "iq4_nl", "iq4_xs")
TERNARY = ("iq1_s", "iq1_m")
ON_A_GRID = ("iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s")
K_QUANTS = ("q2_K", "q3_K", "q4_K", "q5_K", "q6_K")


@pytest.fixture(scope="module")
def rows(golden):
    """47 rows of many kinds, zero, tiny, huge and overflowing ones among them, and the weights of their columns."""
    folder = golden("today-quants/rows")
    x = np.fromfile(folder / "rows.f32", "<f4").reshape(-1, 512)
    return folder, x, np.fromfile(folder / "imatrix.f32", "<f4")


@pytest.mark.parametrize("name", [*CLASSIC, *K_QUANTS, *LATER])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_real_tools_blocks(rows, name, weighted):
    folder, x, weights = rows
    wanted = np.fromfile(folder / f"{name}.{'imat' if weighted else 'none'}.bin", np.uint8)
    made = quantize_rows(x, name, "today", importance=weights if weighted else None)
    assert made.tobytes() == wanted.tobytes()


def era_hashes(folder):
    """(type, with importance, change) for each day on which the bytes of ordinary rows or of nearly nothing changed."""
    for kind, changes in json.loads((folder / "eras.json").read_text())["types"].items():
        name, weights = kind.split(".")
        yield from ((name, weights == "imat", change) for change in changes)


#: one type of each family, whose rules of all days take seconds to compile; the others take minutes
IN_EVERY_RUN = ("q4_0", "q8_0", "q6_K", "iq4_nl", "iq1_m", "iq3_xxs", "tq1_0")
OTHERS = (
    *("q4_1", "q5_0", "q5_1", "q2_K", "q3_K", "q4_K", "q5_K", "iq4_xs", "tq2_0"),
    *("iq1_s", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_s"),
)


def era_of_commit(change):
    """Two commits of one day have an era each."""
    return next((era for era in GGUF_ERAS.values() if era.commit == change["commit"]), change["date"])


@pytest.mark.parametrize("part", ["main", "edge"])
@pytest.mark.parametrize("type", [*IN_EVERY_RUN, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_every_day_on_which_the_bytes_changed(golden, type, part):
    folder = golden("today-quants/eras")
    x, weights = (np.fromfile(folder / f"{name}.f32", "<f4") for name in (part, "imat"))
    seen = set()
    for name, weighted, change in era_hashes(folder):
        if name != type or part not in change:  # edges of IQ types: see below
            continue
        date = TODAY if change["commit"] == "p7" else era_of_commit(change)
        made = quantize_rows(x.reshape(-1, 512), name, date, importance=weights if weighted else None)
        seen.add((name, weighted, date, hashlib.sha256(made.tobytes()).hexdigest()[:16] == change[part]))
    assert not {case[:3] for case in seen if not case[3]}
    assert seen or part == "edge"


def test_no_type_of_the_eras_is_left_out(golden):
    assert {name for name, _, _ in era_hashes(golden("today-quants/eras"))} == {*IN_EVERY_RUN, *OTHERS}


@pytest.mark.parametrize("name", [*ON_A_GRID, *TERNARY])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_real_tools_points_of_grids(rows, name, weighted):
    """In IQ2 and IQ3 without two rows of 1e18 and 1e37, at which the real tool ends."""
    folder, x, weights = rows
    path = folder / f"{name}.{'imat' if weighted else 'none'}.bin"
    usual = x if name in TERNARY else np.delete(x, [43, 44], axis=0)
    if not path.exists():
        with pytest.raises(UsageError, match=f"{name} needs the importance"):
            quantize_rows(usual, name, "today")
        return
    made = quantize_rows(usual, name, "today", importance=weights if weighted else None)
    assert made.tobytes() == path.read_bytes()
    if name in ON_A_GRID:
        with pytest.raises(UsageError, match=f"values are too large for {name}"):
            quantize_rows(x[43:45], name, "today", importance=weights)


@pytest.mark.parametrize("name", [*LATER, *ON_A_GRID, *TERNARY])
def test_the_last_bytes_of_types_that_changed(golden, name):
    """Ordinary rows, 48 more of them."""
    folder = golden("today-quants/eras")
    x, weights = (np.fromfile(folder / f"{part}.f32", "<f4") for part in ("main", "imat"))
    for kind, changes in json.loads((folder / "eras.json").read_text())["types"].items():
        if kind.split(".")[0] == name:
            importance = weights if kind.endswith("imat") else None
            made = quantize_rows(x.reshape(-1, 512), name, "today", importance=importance)
            assert hashlib.sha256(made.tobytes()).hexdigest()[:16] == changes[-1]["main"], kind


@pytest.mark.parametrize("name", [*CLASSIC, *K_QUANTS, *LATER, *ON_A_GRID, *TERNARY])
@pytest.mark.parametrize("n_rows", [1, 3, 17])
def test_rows_are_independent(name, n_rows):
    """Sixteen blocks are made side by side; which ones they are changes nothing."""
    generator = np.random.default_rng(n_rows)
    x = generator.standard_normal((n_rows, 768)).astype(np.float32)
    weights = generator.random(768).astype(np.float32)
    together = quantize_rows(x, name, "today", importance=weights)
    alone = [quantize_rows(row, name, "today", importance=weights) for row in x]
    assert together.tobytes() == b"".join(row.tobytes() for row in alone)


def test_f16_is_widened(rows):
    _, x, weights = rows
    half = x[:8].astype(np.float16)
    for name in ("q4_0", "q4_K"):
        made = quantize_rows(half, name, "today", importance=weights)
        assert made.tobytes() == quantize_rows(half.astype(np.float32), name, "today", importance=weights).tobytes()


def test_importance_is_refused_where_there_is_none():
    x = np.zeros((1, 256), np.float32)
    with pytest.raises(UsageError, match="importance came in January 2024"):
        quantize_rows(x, "q4_K", "2023-09-15", importance=np.ones(256, np.float32))
    with pytest.raises(UsageError, match="rows of 256 values need as many weights"):
        quantize_rows(x, "q4_K", "today", importance=np.ones(255, np.float32))


def levels_one_by_one(x, exponent):
    """The codes of mxfp4: of each value the first level that, times the scale, leaves the least."""
    levels = np.array(TENSOR_TYPES["mxfp4"].levels, np.float32)
    with np.errstate(all="ignore"):
        scale = np.float32(2.0 ** (int(exponent) - 128))
        errors = np.abs(levels * scale - x[:, None])
    best = np.zeros(len(x), int)
    for level in range(1, 16):
        best = np.where(errors[np.arange(len(x)), best] > errors[:, level], level, best)
    return best


UNUSUAL = [0.0, -0.0, 0.25, 0.75, -1.25, 2.5, -5.0, 3.4e38, 1e-38, 1e-45, float("inf"), float("-inf"), float("nan")]


@given(st.lists(st.one_of(st.sampled_from(UNUSUAL), st.floats(width=32)), min_size=32, max_size=32), st.integers(0, 20))
def test_mxfp4_takes_the_first_of_the_nearest_levels(values, n_before):
    """In a block of any values, wherever it stands among the sixteen that are made at a time."""
    x = np.ones((n_before + 1, 32), np.float32)
    x[-1] = values
    block = quantize_rows(x, "mxfp4", "today")[-1]
    codes = np.concatenate([block[1:] & 15, block[1:] >> 4])
    assert codes.tolist() == levels_one_by_one(x[-1], block[0]).tolist()
