"""Each vector operation against numpy, for the instructions of this machine (LLAMA_SIMD chooses others)."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ggmlpy.files.errors import UsageError
from ggmlpy.machine.features import MACHINE, TARGETS, detect

ELSEWHERE = "LLAMA_SIMD" in os.environ


@pytest.fixture(scope="module")
def run():
    """run(name, *inputs): an operation from memory to memory, compiled once with all the others."""
    from ggmlpy.machine import vectors as v
    from ggmlpy.machine.kernels import inlined

    @v.op(v.nothing, v.address, v.address, v.address, v.address)
    def dot(b, acc, u, s, out):
        x, y, z = (v.load_as(b, a, v.I32X16) for a in (acc, u, s))
        v.store_as(b, out, v.dot_bytes(b, x, y, z, small=True))

    @v.op(v.nothing, v.address, v.address, v.address, v.address)
    def dot_any(b, acc, u, s, out):
        x, y, z = (v.load_as(b, a, v.I32X16) for a in (acc, u, s))
        v.store_as(b, out, v.dot_bytes(b, x, y, z, small=False))

    @v.op(v.nothing, v.address, v.address)
    def sums(b, four, out):
        s = [v.load_as(b, v.at(b, four, 64 * i), v.I32X16) for i in range(4)]
        v.store_as(b, out, v.gather_sums(b, s, b.add))

    @v.op(v.nothing, v.address, v.i32x16)
    def store_int(b, a, x):
        v.store_as(b, a, x)

    @inlined
    def compute(which, x, y, z, out):
        if which == 0:
            v.store(out, v.fma(v.load(x), v.load(y), v.load(z)))
        elif which == 1:
            v.store(out, v.exp(v.load(x)))
        elif which == 2:
            v.store_f32(out, v.total(v.load(x)))
        elif which == 3:
            v.store_f32(out, v.largest(v.load(x)))
        elif which == 4:
            store_int(out, v.round_to_int(v.load(x)))
        elif which == 5:
            v.store(out, v.load_f16x16(x))
        elif which == 6:
            v.store_f16x16(out, v.load(x))
        elif which == 7:
            dot(x, y, z, out)
        elif which == 8:
            dot_any(x, y, z, out)
        elif which == 9:
            sums(x, out)

    names = ["fma", "exp", "total", "largest", "round", "load_f16", "store_f16", "dot", "dot_any", "sums"]

    def run(name, result, *inputs):
        out = np.zeros(16, result)
        places = [np.ascontiguousarray(i) for i in inputs]
        at = [p.ctypes.data for p in places] + [0] * (3 - len(places))
        compute(names.index(name), *at, out.ctypes.data)
        return out

    return run


floats = arrays(np.float32, 16, elements=st.floats(-1e4, 1e4, width=32))


anything = arrays(np.float32, 16, elements=st.floats(-(2.0**40), 2.0**40, width=32))  # no sum of products is infinite


def rounded_once(x: np.float32, y: np.float32, z: np.float32) -> np.float32:
    """x * y + z from exact fractions: the nearest float32, of two equally near the even one."""
    exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
    near = np.float32(float(exact))
    candidates = [near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
    return min(candidates, key=lambda c: (abs(Fraction(float(c)) - exact), int(c.view(np.uint32)) & 1))


@given(x=anything, y=anything, z=anything)
def test_products_and_sums_are_rounded_once_on_every_machine(run, x, y, z):
    expected = [rounded_once(*each) for each in zip(x, y, z, strict=True)]
    assert np.array_equal(run("fma", np.float32, x, y, z), np.array(expected, np.float32))


def test_ties_are_seen_through_the_second_rounding(run):
    """Sums just beside the middle of two float32, where a plain float64 sum falls on it."""
    x, y = np.full(16, 1 + 2.0**-12, np.float32), np.full(16, 1 + 2.0**-12, np.float32)
    z = np.array([2.0**-80, -(2.0**-80), 2.0**24 + 2, -(2.0**24) - 2] * 4, np.float32)
    expected = [rounded_once(*each) for each in zip(x, y, z, strict=True)]
    assert np.array_equal(run("fma", np.float32, x, y, z), np.array(expected, np.float32))


@given(x=floats)
def test_arithmetic(run, x):
    halves = x[:8] + x[8:]
    quarters = halves[:4] + halves[4:]
    pairs = quarters[:2] + quarters[2:]
    assert run("total", np.float32, x)[0] == pairs[0] + pairs[1]
    assert run("largest", np.float32, x)[0] == x.max()
    assert np.array_equal(run("round", np.int32, x), np.rint(x).astype(np.int32))


@given(arrays(np.float32, 16, elements=st.floats(-87, 88, width=32)))
def test_exp(run, x):
    assert np.allclose(run("exp", np.float32, x), np.exp(x.astype(np.float64)), rtol=3e-7)


def test_exp_at_the_ends(run):
    x = np.array([-1e30, -1e4, 0, 1e4] * 4, np.float32)
    assert np.all(run("exp", np.float32, x)[:2] < 1e-37)
    assert run("exp", np.float32, x)[2] == 1


def test_every_float16_is_widened_exactly(run):
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    wide = np.concatenate([run("load_f16", np.float32, every[i : i + 16]) for i in range(0, 65536, 16)])
    assert np.array_equal(wide, every.astype(np.float32), equal_nan=True)


@given(arrays(np.float32, 16, elements=st.floats(width=32, allow_nan=False)))
def test_float16_is_rounded_to_nearest_even(run, x):
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    assert np.array_equal(run("store_f16", np.float16, x)[:16], expected)


def test_float16_ties_and_subnormals(run):
    every = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (every[:-1] + every[1:]) / 2  # exactly halfway
    between = between[: len(between) // 16 * 16].reshape(-1, 16)
    for x in between:
        assert np.array_equal(run("store_f16", np.float16, x)[:16], x.astype(np.float16))


accumulators = arrays(np.int32, 16, elements=st.integers(-(2**20), 2**20))
signed = arrays(np.int8, 64)


def dots(acc, u, s):
    return acc + (u.astype(np.int32) * s).reshape(16, 4).sum(axis=1)


@given(accumulators, arrays(np.uint8, 64, elements=st.integers(0, 31)), signed)
def test_dot_products_of_small_codes(run, acc, u, s):
    assert np.array_equal(run("dot", np.int32, acc, u, s), dots(acc, u, s))


@given(accumulators, arrays(np.uint8, 64), signed)
def test_dot_products_of_any_bytes(run, acc, u, s):
    assert np.array_equal(run("dot_any", np.int32, acc, u, s), dots(acc, u, s))


@given(arrays(np.int32, (4, 16), elements=st.integers(-(2**20), 2**20)))
def test_sums_are_gathered(run, four):
    expected = four.reshape(4, 4, 4).sum(axis=2).T  # [L, j]: lanes 4L … 4L+3 of vector j
    assert np.array_equal(run("sums", np.int32, four).reshape(4, 4), expected)


@pytest.mark.skipif(ELSEWHERE, reason="this is that other machine")
@pytest.mark.parametrize("simd", ["avx2", "portable"])
def test_the_same_on_lesser_machines(simd):
    if not MACHINE.is_x86 or MACHINE.simd == "portable":
        pytest.skip(f"this processor cannot stand in for {simd}")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "LLAMA_SIMD": simd}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_kernels_compile_for_aarch64():
    """The instructions of `neon`, through LLVM's compiler for aarch64: it names sdot."""
    import llvmlite.binding as llvm
    from llvmlite import ir

    from ggmlpy.machine import features as machine
    from ggmlpy.machine import vectors as simd

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        target = llvm.Target.from_triple("aarch64-unknown-linux-gnu")
    except RuntimeError:
        pytest.skip("this LLVM was built without aarch64")
    module = ir.Module("m")
    vector = simd.I32X16
    function = ir.Function(module, ir.FunctionType(vector, [vector] * 3), "dot")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(simd.dot_neon(builder, *function.args))
    compiled = llvm.parse_assembly(str(module))
    compiled.verify()
    code = target.create_target_machine(cpu="neoverse-n1", features="+dotprod").emit_assembly(compiled)
    assert code.count("sdot") == 8
    assert machine.Machine("neoverse-n1", frozenset({"neon", "dotprod"}), triple="aarch64-linux").simd == "neon"


def test_an_unknown_instruction_set_is_refused():
    with pytest.raises(UsageError, match=r"sse9.*avx2"):
        detect("sse9")


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_machines_are_chosen_by_name(name):
    try:
        machine = detect(name)
    except UsageError as error:
        pytest.skip(str(error))
    assert machine.simd == name
