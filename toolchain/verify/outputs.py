"""Finding out which step lies between two files, and verifying it.

:func:`verify_output` looks at an output and its source and calls the verifier of that step: quantize and migrate are in
:mod:`ggmlpy.verify.quantization`, convert in :mod:`.conversion`, to-hf and from-hf in :mod:`.weights`, merge in
:mod:`.merge`. Each is imported only when it is needed, since a quantized file needs nothing of the others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.verify.judge import OutputReport, Progress
from toolchain.look.values import warnings_of

__all__ = ["verify_output"]


def verify_output(
    output: str | os.PathLike[str],
    source: str | os.PathLike[str],
    adapters: Sequence[str | os.PathLike[str]] = (),
    *,
    era: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    importance: str | None = None,
    progress: Progress | None = None,
) -> OutputReport:
    """Is ``output`` what should come out of ``source`` (and ``adapters``), and if not, what was done instead?

    Args:
        output: a GGML or GGUF file, or a checkpoint's directory.
        source: likewise.
        adapters: PEFT directories or ZIPs in their order, if the step is a merge.
        era: whose tools; by default whose fit the output's container.
        tokenizer: the tokenizer.model, if it is not found beside the source.
        importance: the importance matrix that a quantized GGUF file was made with.
        progress: called with the number of bytes compared, and with 0 while the cause of a difference is looked for.

    Raises:
        FormatError: a file can't be read, or no step leads from source to output.
    """
    output, source = Path(output), Path(source)
    for path in (output, source):
        if not path.exists():
            raise FormatError("no such file or directory", path=path, next_step="check the name")
    report = _verified(output, source, adapters, era, tokenizer, importance, progress)
    report.warnings += warnings_of(output)
    return report


def _verified(
    output: Path,
    source: Path,
    adapters: Sequence[str | os.PathLike[str]],
    era: str | None,
    tokenizer: str | os.PathLike[str] | None,
    importance: str | None,
    progress: Progress | None,
) -> OutputReport:
    """The verdict of the step that lies between the two."""
    if importance is not None and (adapters or output.is_dir()):
        raise UsageError("an importance matrix goes with a quantized GGUF file and the model it was made of")
    if adapters:
        from .merge import verify_merge

        return verify_merge(output, source, adapters, era=era, tokenizer=tokenizer, progress=progress)
    if output.is_dir():
        from .weights import verify_export

        return verify_export(output, source, progress=progress)
    if source.is_dir():
        from .through_gguf import used_importance, verify_through_gguf

        if importance is not None or used_importance(output):
            return verify_through_gguf(
                output, source, era=era, tokenizer=tokenizer, importance=importance, progress=progress
            )
        from .conversion import verify_conversion

        return verify_conversion(output, source, era=era, tokenizer=tokenizer, progress=progress)
    from ggmlpy.verify.quantization import verify_files

    return verify_files(output, source, era=era, importance=importance, progress=progress)
