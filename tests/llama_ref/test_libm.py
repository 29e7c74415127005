"""Our expf, logf, sinf, cosf and powf against the platform's, where that is a glibc with the same algorithm."""

from __future__ import annotations

import ctypes
import platform

import numpy as np
import pytest
from numba import vectorize

from llama_ref.arithmetic.exact import libm

ARGUMENTS = 10_000_000


def glibc_version():
    name, version = platform.libc_ver()
    return tuple(int(part) for part in version.split(".")) if name == "glibc" else (0,)


pytestmark = pytest.mark.skipif(
    glibc_version() < (2, 28) or platform.machine() != "x86_64", reason="needs glibc 2.28 or later on x86-64"
)


@pytest.fixture(scope="module")
def theirs():
    """The platform's function of a name, element by element over arrays."""
    library = ctypes.CDLL("libm.so.6")

    def load(name):
        function = getattr(library, name)
        function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
        return vectorize(["float32(float32)"])(lambda x: function(x))

    return load


def assert_same_bits(ours, expected, x):
    differs = (ours.view(np.uint32) != expected.view(np.uint32)) & ~(np.isnan(ours) & np.isnan(expected))
    assert not differs.any(), f"{differs.sum()} differ, first at {x[differs][0].hex()}"


def boundaries():
    """Every exponent's first and last floats, both signs, specials, and where the algorithms change branches."""
    exponents = np.arange(0, 256, dtype=np.uint32) << 23
    near = np.concatenate([exponents + np.uint32(d) for d in (0, 1, 2, 0x3FFFFF, 0x400000, 0x7FFFFE, 0x7FFFFF)])
    switches = [0.78539816, 120.0, 2.0**-12, 88.0, 88.72283, -87.33, -103.28, -103.972, 1.0, 0.7, 1.4]
    around = np.array(switches, np.float32).view(np.uint32)
    around = (around[:, None] + np.arange(-300, 301)).astype(np.uint32).ravel()
    both = np.concatenate([near, near | np.uint32(0x80000000), around])
    return both.view(np.float32)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["expf", "logf", "sinf", "cosf"])
def test_same_bits_as_glibc(name, theirs):
    function, mine, rng = theirs(name), getattr(libm, name), np.random.default_rng(0)
    any_float = rng.integers(0, 2**32, ARGUMENTS // 2, dtype=np.uint32).view(np.float32)
    usual = rng.uniform(-130, 130, ARGUMENTS // 4).astype(np.float32)
    angles = rng.uniform(0, 4096, ARGUMENTS // 4).astype(np.float32)
    for x in (any_float, usual, angles, boundaries()):
        assert_same_bits(mine(x), function(x), x)


def test_powf_same_bits_as_glibc():
    function = ctypes.CDLL("libm.so.6").powf
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float, ctypes.c_float]
    for n in range(2, 260, 2):  # every exponent that rope takes for heads of up to 258 values
        y = np.append(-np.arange(0, n, 2, dtype=np.float32) / np.float32(n), np.float32(-2) / np.float32(n))
        expected = np.array([function(10000.0, float(v)) for v in y], np.float32)
        assert_same_bits(libm.powf(np.float32(10000), y), expected, y)
