"""What compilers that fuse multiplications and additions make of the quantizers: digests of one source, compiled by
gcc 12 (-O3 -march=haswell -std=gnu11) and clang 14 (the same), of ggml 0.25.3."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

import ggmlpy
from ggmlpy.files.errors import UsageError
from ggmlpy.machine import contraction
from ggmlpy.quantizers.gguf_plan import GgufOptions
from ggmlpy.quantizers.rows import quantize_rows
from ggmlpy.quantizers.whole_file import quantize_file
from ggmlpy.verify.quantization import verify_files
from tests.quantized_today import input_file
from toolchain.commands import files
from toolchain.commands.main import main

# fmt: off
#          without importance: gcc, clang         with importance: gcc, clang
DIGESTS = {
    "q4_0":   ("33ffc7cb325822da", "5e2d3917e0a2886c", "3c08901bd9450dab", "72c13394c799cfe8"),
    "q4_1":   ("acbccb69abf572df", "acbccb69abf572df", "b0e3b066383db86e", "60271cead52c2c78"),
    "q5_0":   ("d80dbe294674cba3", "deb62e8ce2cdd962", "dcf2bae73c399faf", "0d03c36fa5b28105"),
    "q5_1":   ("c5c79f027db7ce9a", "c5c79f027db7ce9a", "3fc56c8758191c5c", "5aecb49759ed8d76"),
    "q2_K":   ("cd3d326c326b5e99", "60791e2f550247a1", "0b87561e018b72de", "7979cc0d332cdc88"),
    "q3_K":   ("ead810d8dde761c0", "81d9f23efea1555f", "0fc89132129ddd79", "a5e016db3b394f8f"),
    "q4_K":   ("1cdc2f533d3b370c", "190b26133d4825e7", "6e19cb7a5f78287b", "4e9313505bca6b26"),
    "q5_K":   ("0983d413972bcabb", "e4b3e36afa61d3db", "52335f44f2d98a7b", "962111a7f84a9af8"),
    "q6_K":   ("06dae03c5c6538b1", "6afbe0007ac64363", "babda56fab528fd2", "ebfdcae1de048347"),
    "iq4_nl": ("98ede6751224b6d0", "98ede6751224b6d0", "b99e44cc02ac1273", "b99e44cc02ac1273"),
    "iq4_xs": ("18a4f95c7af6f331", "18a4f95c7af6f331", "41f4682a8e11c926", "41f4682a8e11c926"),
}
# fmt: on
#: what is compiled in every run; the others take a minute
QUICK = {("q2_K", "gcc-fma", False), ("q4_0", "gcc-fma", False), ("q4_1", "clang-fma", True), ("q5_K", "gcc-fma", True)}
CASES = [
    pytest.param(name, compiler, weighted, marks=[] if (name, compiler, weighted) in QUICK else pytest.mark.slow)
    for name in DIGESTS
    for compiler in ("gcc-fma", "clang-fma")
    for weighted in (False, True)
]


def test_the_command_offers_them_all() -> None:
    """Its help names them without importing the table."""
    assert tuple(contraction.COMPILERS) == files.COMPILERS
    assert files.COMPILERS[0] == contraction.BASELINE


@pytest.fixture(scope="module")
def rows():
    """Numbers as f16 has them, a few of them large."""
    x = np.random.default_rng(2023).standard_normal((256, 512)).astype(np.float32) * np.float32(0.02)
    x[:, ::257] *= 16
    return x.astype(np.float16).astype(np.float32)


@pytest.mark.parametrize(("name", "compiler", "weighted"), CASES)
def test_the_bytes_of_a_compiler(rows, name, compiler, weighted):
    weights = np.random.default_rng(822).random(512).astype(np.float32) + np.float32(0.01)
    made = quantize_rows(rows, name, "today", importance=weights if weighted else None, compiler=compiler)
    wanted = DIGESTS[name][2 * weighted + (compiler == "clang-fma")]
    assert hashlib.sha256(made.tobytes()).hexdigest()[:16] == wanted


def test_arrays_take_a_compiler(rows):
    fused = ggmlpy.quantize(rows, "q4_0", "today", compiler="gcc-fma")
    assert (fused != ggmlpy.quantize(rows, "q4_0", "today")).any()
    assert (ggmlpy.quantize(rows, "q8_0", "today", compiler="gcc-fma") == ggmlpy.quantize(rows, "q8_0", "today")).all()


@pytest.mark.parametrize(
    ("compiler", "name", "era", "words"),
    [
        ("icc", "q4_K", "today", "no compiler 'icc'; there are baseline, gcc-fma, clang-fma"),
        ("gcc-fma", "q4_K", "2023-08-21", "what gcc-fma made of the quantizers of 2023-08-21 is not known"),
        ("clang-fma", "iq3_s", "today", "what clang-fma makes of iq3_s is not known"),
    ],
)
def test_what_is_not_known_is_refused(rows, compiler, name, era, words):
    with pytest.raises(UsageError, match=words):
        quantize_rows(rows, name, era, compiler=compiler)


def test_verify_finds_the_compiler(golden, tmp_path):
    """A whole file of q2_K and q3_K, and a row of it that somebody changed."""
    source = input_file(golden("today-quants/models"), "a4gqa.f16.gguf", tmp_path / "f16.gguf")
    out = tmp_path / "out.gguf"
    quantize_file(source, out, "Q2_K", options=GgufOptions(pure=True, compiler="gcc-fma"))
    report = verify_files(out, source)
    assert report.verdict == "identical bytes"
    assert "(Q2_K, --pure), built by gcc with fused multiply-add" in report.made_by

    statement = tmp_path / "s.json"
    assert main(["verify", str(out), "--source", str(source), "--attest", str(statement), "-q"]) == 0
    assert "built by gcc with fused multiply-add" in statement.read_text()
    assert main(["verify", "--statement", str(statement), "-q"]) == 0

    data = bytearray(out.read_bytes())
    data[-1] ^= 1
    out.write_bytes(data)
    assert main(["verify", "--statement", str(statement), "-q"]) == 1
    changed = verify_files(out, source)
    assert "built by gcc with fused multiply-add" in changed.made_by
    assert (changed.exit_code, len(changed.differing)) == (1, 1)
