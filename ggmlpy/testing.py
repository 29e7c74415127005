"""Assertions about model files, for the tests of other projects.

    from ggmlpy.testing import assert_quantized_from, assert_same_model

    def test_our_quantizer(tmp_path):
        our_quantizer("f16.bin", tmp_path / "q4_0.bin")
        assert_quantized_from(tmp_path / "q4_0.bin", "f16.bin", era="2023-03-31")

They need no pytest; under it, their own frames are left out of the traceback. Merges and conversions of checkpoints
have theirs in :mod:`toolchain.testing`.
"""

from __future__ import annotations

import os

from .formats.eras import Era
from .formats.opening import open_model
from .verify.compare import compare
from .verify.judge import OutputReport
from .verify.quantization import verify_files

__all__ = ["assert_quantized_from", "assert_right", "assert_same_model"]

Path = str | os.PathLike[str]
SHOWN = 8  # tensors named in a message


def assert_same_model(a: Path, b: Path, *, tolerance: float = 0.0, same_container: bool = False) -> None:
    """Two GGML or GGUF files hold the same model: header, vocabulary and tensors.

    Args:
        tolerance: absolute differences of values up to this are let pass.
        same_container: insist on the same container, too.

    Raises:
        AssertionError: they don't; says where they part.
        FormatError: one of them can't be read.
    """
    __tracebackhide__ = True
    with open_model(a) as left, open_model(b) as right:
        found = compare(left, right, tolerance=tolerance)
        lines = [] if found.verdict == "same content" else [found.sentence()]
        if same_container and left.format_name != right.format_name:
            lines.append(f"containers: {left.format_name} and {right.format_name}")
    for tensor in found.differing[:SHOWN]:
        place = "" if tensor.row is None else f", first at row {tensor.row} column {tensor.column}"
        counts = f"{tensor.n_different:,} of {tensor.n_values:,} values, at most {tensor.max_ulp:,} ulp"
        lines.append(f"{tensor.name} {tensor.status}: {counts}{place}")
    if lines:
        raise AssertionError("\n".join([f"{os.fspath(a)} and {os.fspath(b)} are not the same model", *lines]))


def assert_quantized_from(output: Path, source: Path, *, era: str | Era | None = None) -> None:
    """``output`` is what an era's ``quantize`` makes of ``source`` (or a migration of it).

    Args:
        era: whose; by default any whose container it is.

    Raises:
        AssertionError: it is not; says what was done instead, if that is known.
        FormatError: one of them can't be read.
    """
    __tracebackhide__ = True
    assert_right(verify_files(output, source, era=era))


def assert_right(report: OutputReport) -> None:
    """A verdict of ``verify`` is that the output is right.

    Raises:
        AssertionError: it is not; the sentence, the causes and the first tensors.
    """
    __tracebackhide__ = True
    if report.exit_code == 0:
        return
    lines = [f"{report.output} is not the {report.step} of {report.source}: {report.sentence()}"]
    lines += [f"likely cause: {cause}" for cause in report.causes]
    lines += [f"{tensor.name} {tensor.status}" for tensor in report.differing[:SHOWN]]
    raise AssertionError("\n".join(lines))
