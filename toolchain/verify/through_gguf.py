"""Verifying a quantized GGUF file against a checkpoint's directory where an importance matrix took part.

The checkpoint is converted into a temporary file first, as whoever quantized it did, and llama-quantize's step is
verified against that. It takes room on the disk for a model in half precision.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from ggmlpy.files.errors import FormatError
from ggmlpy.formats.gguf import open_gguf
from ggmlpy.formats.opening import is_gguf
from ggmlpy.verify.judge import OutputReport, Progress
from ggmlpy.verify.quantization import verify_files
from llama_ref.conversion.converting import plan_conversion

__all__ = ["used_importance", "verify_through_gguf"]

OUTTYPES = ("f16", "bf16", "f32")  # what a converter was asked for, the most usual first


def used_importance(output: Path) -> bool:
    """Whether a GGUF file says that it was quantized with an importance matrix."""
    try:
        return is_gguf(output) and any(key.startswith("quantize.imatrix.") for key in open_gguf(output).metadata)
    except FormatError:
        return False  # whoever opens it next says what is wrong


def verify_through_gguf(
    output: Path,
    source: Path,
    *,
    era: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    importance: str | None = None,
    progress: Progress | None = None,
) -> OutputReport:
    """Is a file what llama-quantize makes of a converted checkpoint? Each type that a converter writes is tried.

    Raises:
        FormatError: a file can't be read, or the checkpoint can't be converted.
    """
    rules = open_gguf(output).metadata.get("tokenizer.ggml.pre")
    found = []
    with TemporaryDirectory(prefix="ggmlpy-") as folder:
        for outtype in OUTTYPES:
            converted = Path(folder) / f"{outtype}.gguf"
            pre = rules.text() if rules is not None and rules.type == "string" else None
            options = {"outtype": outtype, "container": "gguf", "tokenizer": tokenizer, "pre_tokenizer": pre}
            with plan_conversion(source, converted, **options) as plan:  # type: ignore[arg-type]
                plan.write()
            found.append(verify_files(output, converted, era=era, importance=importance, progress=progress))
            converted.unlink()
            if not found[-1].exit_code:
                break
    best = min(found, key=lambda report: (report.exit_code, len(report.differing)))
    best.source, best.step = str(source), "convert, quantize"
    return best
