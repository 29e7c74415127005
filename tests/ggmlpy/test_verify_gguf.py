"""Whose llama-quantize made a GGUF file of another: era, type and options are found, and so is what was done to it."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest

from ggmlpy.files.errors import FormatError
from ggmlpy.formats.gguf import open_gguf
from ggmlpy.formats.importance import open_importance
from ggmlpy.look.identify import identify
from ggmlpy.quantizers.gguf_plan import GgufOptions
from ggmlpy.quantizers.whole_file import quantize_file
from ggmlpy.verify.quantization import verify_files
from tests.quantized_today import input_file


@pytest.fixture(scope="module")
def folder(golden):
    return golden("today-quants/models")


@pytest.fixture(scope="module")
def source(folder, tmp_path_factory):
    return input_file(folder, "a4gqa.f16.gguf", tmp_path_factory.mktemp("source") / "a4gqa.f16.gguf")


@pytest.mark.parametrize(
    ("name", "importance", "words"),
    [
        ("a4gqa.f16-Q4_0.gguf", None, "llama-quantize of 2025-01-07 to today (Q4_0)"),
        ("a4gqa.f16-Q2_K.gguf", None, "llama-quantize of 2025-01-07 to today (Q2_K)"),
        ("a4gqa.f16-Q4_K_M.gguf", None, "llama-quantize of 2025-01-07 to today (Q4_K_M)"),
        ("a4gqa.f16-Q4_K_M-im.gguf", "a4gqa.imatrix.gguf", "(Q4_K_M, --imatrix a4gqa.imatrix.gguf)"),
    ],
)
def test_files_of_the_real_tool(folder, source, name, importance, words):
    report = verify_files(folder / name, source, importance=importance and str(folder / importance))
    assert report.verdict == "identical bytes"
    assert words in report.sentence()


@pytest.mark.parametrize("era", ["2023-09-15", "2024-01-02", "2024-03-15", "2024-06-10", "2024-12-01", "2025-02-20"])
def test_the_era_is_found(source, tmp_path, era):
    quantize_file(source, tmp_path / "out.gguf", "Q2_K", era)
    report = verify_files(tmp_path / "out.gguf", source)
    assert report.exit_code == 0
    assert "llama-quantize of 20" in report.sentence() or report.verdict != "identical bytes"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (GgufOptions(pure=True), "(Q4_K_M, --pure)"),
        (GgufOptions(output="q8_0"), "(Q4_K_M, --output-tensor-type q8_0)"),
        (GgufOptions(tensors=[("blk.0.attn_v", "q8_0")]), "(Q4_K_M, --tensor-type blk.0.attn_v.weight=q8_0)"),
    ],
)
def test_options_are_found(source, tmp_path, options, words):
    quantize_file(source, tmp_path / "out.gguf", "Q4_K_M", options=options)
    report = verify_files(tmp_path / "out.gguf", source)
    assert (report.exit_code, words in report.sentence()) == (0, True), report.sentence()


def test_without_the_importance_matrix_codes_are_checked(folder, source):
    report = verify_files(folder / "a4gqa.f16-Q4_K_M-im.gguf", source)
    assert report.exit_code == 1
    assert {cause.name for cause in report.causes} >= {
        "an importance matrix was used that is not at hand (all codes are the nearest to the source)"
    }
    assert not report.unexplained


def test_the_wrong_importance_matrix_is_told(folder, source, tmp_path):
    """The weights of each tensor in reverse."""
    right = open_importance(folder / "a4gqa.imatrix.gguf")
    data = struct.pack("<i", len(right.entries))
    for name, values in right.entries.items():
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 1, len(values))
        data += values[::-1].astype("<f4").tobytes()
    (tmp_path / "other.dat").write_bytes(data)
    report = verify_files(folder / "a4gqa.f16-Q4_K_M-im.gguf", source, importance=str(tmp_path / "other.dat"))
    assert report.exit_code == 1
    assert "of this one (all codes are the nearest to the source)" in " ".join(cause.name for cause in report.causes)


def damaged(path, tensor, row, change):
    """Change one row of a tensor of a file in place."""
    found = open_gguf(path).tensors[tensor]
    size = found.type.row_bytes(found.shape[-1])
    with path.open("r+b") as stream:
        stream.seek(found.offset + row * size)
        data = change(np.frombuffer(stream.read(size), np.uint8).copy())
        stream.seek(found.offset + row * size)
        stream.write(data.tobytes())


def test_a_changed_row_is_named(source, tmp_path):
    quantize_file(source, tmp_path / "out.gguf", "Q4_K_M")
    damaged(tmp_path / "out.gguf", "blk.2.ffn_up.weight", 7, lambda row: np.concatenate([row[:16], row[16:] ^ 0x55]))
    words = " ".join(cause.name for cause in verify_files(tmp_path / "out.gguf", source).causes)
    assert "off by more than a step of their scale, the first in row 7, which no quantizer does" in words


@pytest.mark.parametrize(("type_name", "kind"), [("Q2_K", "q2_K"), ("Q4_K_S", "q4_K"), ("Q5_K_S", "q5_K")])
def test_a_build_with_fused_multiply_add_follows_the_same_recipe(data, source, tmp_path, type_name, kind):
    """One tensor as gcc with -march=haswell compiles its quantizer."""
    quantize_file(source, tmp_path / "out.gguf", type_name)
    tensor, fused = open_gguf(tmp_path / "out.gguf").tensors["blk.1.attn_k.weight"], data / "fused" / f"{kind}.bin"
    assert tensor.type.name == kind
    with (tmp_path / "out.gguf").open("r+b") as stream:
        stream.seek(tensor.offset)
        stream.write(fused.read_bytes())
    report = verify_files(tmp_path / "out.gguf", source)
    assert report.exit_code == 0
    assert "built with fused multiply-add" in report.sentence()


@pytest.mark.parametrize("seed", range(5))
def test_one_flipped_bit_is_no_quantizers(source, tmp_path, seed):
    quantize_file(source, tmp_path / "out.gguf", "Q5_K_M")
    data = bytearray((tmp_path / "out.gguf").read_bytes())
    place = np.random.default_rng(seed).integers(24, len(data))
    data[place] ^= 1 << (seed % 8)
    (tmp_path / "flipped.gguf").write_bytes(data)
    with contextlib.suppress(FormatError):
        assert verify_files(tmp_path / "flipped.gguf", source).verdict != "identical bytes"


@pytest.mark.parametrize(
    ("era", "words"),
    [
        ("2023-09-15", "of 2023-08-27 to before 2023-10-20"),
        ("2024-06-10", "of 2023-10-20 to before 2024-10-31"),
        ("today", "of 2025-01-07 or later"),
    ],
)
def test_identify_names_the_dates_that_the_header_allows(source, tmp_path, era, words):
    quantize_file(source, tmp_path / "out.gguf", "Q4_K_M", era)
    assert words in identify(tmp_path / "out.gguf").era
