"""Deliberate deviations from what llama-quantize makes, each with its verdict."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ggmlpy.formats.gguf import open_gguf
from ggmlpy.formats.importance import open_importance
from ggmlpy.quantizers.gguf_plan import GgufOptions
from ggmlpy.quantizers.whole_file import quantize_file
from ggmlpy.verify.quantization import verify_files
from tests.ggmlpy.test_verify_gguf import damaged
from tests.quantized_today import input_file


@pytest.fixture(scope="module")
def sources(golden, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for name in ("a4gqa.f16.gguf", "m4moe.f16.gguf"):
        input_file(golden("today-quants/models"), name, folder / name)
    return folder


def made(sources: Path, out: Path, kind: str = "Q4_K_M", era: str = "today", **options: object) -> Path:
    quantize_file(sources / "a4gqa.f16.gguf", out, kind, era, options=GgufOptions(**options))
    return out


def with_other_importance(sources: Path, out: Path, right: Path) -> Path:
    entries = open_importance(right).entries
    data = struct.pack("<i", len(entries))
    for name, values in entries.items():
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 1, len(values))
        data += values[::-1].astype("<f4").tobytes()
    (out.parent / "other.dat").write_bytes(data)
    return made(sources, out, importance=str(out.parent / "other.dat"))


def with_rows_of(sources: Path, out: Path, tensor: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """A file in which one tensor was quantized from changed values."""
    changed = out.parent / "changed.gguf"
    shutil.copy(sources / "a4gqa.f16.gguf", changed)
    found = open_gguf(changed).tensors[tensor]
    values = np.frombuffer(found.data.tobytes(), "<f2").reshape(found.shape)
    offset = found.offset
    del found
    with changed.open("r+b") as stream:
        stream.seek(offset)
        stream.write(np.ascontiguousarray(change(values), "<f2").tobytes())
    quantize_file(changed, out, "Q4_K_M", options=GgufOptions())
    return out


def requantized(sources: Path, out: Path, tensor: str) -> Path:
    """One tensor went through q4_0 before."""
    from ggmlpy import dequantize, quantize

    return with_rows_of(
        sources, out, tensor, lambda x: dequantize(quantize(x.astype("f4"), "q4_0"), "q4_0").reshape(x.shape)
    )


def turned(x: np.ndarray) -> np.ndarray:
    """Another sign in row 3."""
    return np.where(np.arange(len(x))[:, None] == 3, -x, x)


DIFFERS, FINE = 1, 0
DEVIATIONS = {
    "another mix": (lambda s, o: made(s, o, pure=True), FINE, "(Q4_K_M, --pure)"),
    "another version": (
        lambda s, o: made(s, o, "Q2_K", "2024-01-02"), FINE, "llama-quantize of 2023-10-20 to before 2024-01-11"),
    "one tensor of another type": (
        lambda s, o: made(s, o, tensors=[("blk.1.ffn_up", "q6_K")]), FINE, "--tensor-type blk.1.ffn_up.weight=q6_K"),
    "embeddings of another model": (
        lambda s, o: with_rows_of(s, o, "token_embd.weight", lambda x: x[::-1] * np.float16(0.5)), DIFFERS,
        "off by more than a step of their scale, the first in row 0, which no quantizer does"),
    "one tampered row": (
        lambda s, o: with_rows_of(s, o, "blk.1.attn_q.weight", turned), DIFFERS, "row 3"),
    "one requantized tensor": (lambda s, o: requantized(s, o, "blk.1.ffn_up.weight"), DIFFERS, "feed_forward.w3"),
}  # fmt: skip


@pytest.mark.parametrize("what", DEVIATIONS)
def test_each_deviation_has_its_verdict(sources, tmp_path, what):
    make, code, words = DEVIATIONS[what]
    report = verify_files(make(sources, tmp_path / "out.gguf"), sources / "a4gqa.f16.gguf")
    said = "\n".join([report.sentence(), *report.lines(), *(cause.name for cause in report.causes)])
    assert (report.exit_code, words in said) == (code, True), said


def test_another_importance_matrix_has_its_verdict(sources, tmp_path, golden):
    right = golden("today-quants/models/a4gqa.imatrix.gguf")
    out = with_other_importance(sources, tmp_path / "out.gguf", right)
    report = verify_files(out, sources / "a4gqa.f16.gguf", importance=str(right))
    assert report.exit_code == DIFFERS
    assert "all codes are the nearest to the source" in " ".join(cause.name for cause in report.causes)


@pytest.mark.parametrize("kind", ["Q4_K_M", "MXFP4_MOE", "Q8_0"])
def test_experts_are_verified_too(sources, tmp_path, kind):
    source = sources / "m4moe.f16.gguf"
    quantize_file(source, tmp_path / "out.gguf", kind)
    report = verify_files(tmp_path / "out.gguf", source)
    assert (report.exit_code, f"({kind})" in report.sentence()) == (FINE, True), report.sentence()
    name = next(name for name in open_gguf(tmp_path / "out.gguf").tensors if "_exps" in name)
    damaged(tmp_path / "out.gguf", name, 5, lambda row: row ^ np.uint8(0x10))
    assert verify_files(tmp_path / "out.gguf", source).exit_code == DIFFERS
