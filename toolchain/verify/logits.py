"""Whose logits are these? Another program's numbers against every arithmetic that can run the model.

llama.cpp has no one result: it depends on the commit, on the instruction set, on the precision of the key/value cache
and on how many tokens are evaluated together (``docs/numerics.md``). :func:`verify_logits` recomputes the logits in
each such *way* and names all that are identical bit for bit. Where none is, it names the closest, says from which token
on the two part, and then tries one operation after the other as another arithmetic does it.

A file of logits is a ``.npy`` of float32 [n_tokens, n_vocab], or the same numbers raw, little-endian; a file with one
row holds the last token's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ggmlpy import open_model
from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.files.npy import MAGIC, parse_npy
from ggmlpy.formats.model_file import ModelFile

from .logits_report import Distance, LogitsReport
from .recomputing import OPERATIONS, Recomputed, rms_of
from .ways import Way, ways_of

__all__ = ["read_logits", "verify_logits"]

F32 = npt.NDArray[np.float32]
OTHER_BATCHES = (2, 4, 16, 32, 64, 128, 256, 512)


def verify_logits(
    path: str | os.PathLike[str],
    model: str | os.PathLike[str],
    tokens: Sequence[int],
    *,
    era: str | None = None,
    build: str | None = None,
    memory_f32: bool | None = None,
    batch: int | None = None,
    explain: bool = True,
    known: dict[Way, F32] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> LogitsReport:
    """Find out whose arithmetic gives the logits in a file.

    Args:
        path: a .npy or raw file, float32 [n_tokens, n_vocab] or [n_vocab] of the last token.
        model: the GGML file that they were computed with.
        tokens: what was evaluated, from position 0.
        era, build, memory_f32, batch: look only at these; by default at all.
        explain: look for the cause where nothing is identical.
        known: results to reuse, and to add to, when several files come from one model and the same tokens.
        progress: called with the ways computed so far and their number.

    Raises:
        FormatError: a file can't be read, or the numbers are not this many.
        UsageError: no era and build can run this model, or a token is outside the vocabulary.
    """
    with open_model(model) as file:
        theirs = read_logits(path, len(tokens), file.hparams.n_vocab)
        n_rows = len(theirs)
        narrowed = {"era": era, "build": build, "memory_f32": memory_f32, "batch": batch}
        ways = _ways(file, len(tokens), narrowed)
        recomputed = Recomputed(file, tokens, theirs, {} if known is None else known)
        report = LogitsReport(os.fspath(path), os.fspath(model), (n_rows, file.hparams.n_vocab))
        found = []
        for done, way in enumerate(ways, 1):
            found.append(recomputed.distance(way))
            if progress:
                progress(done, len(ways))
        report.tried = len(found)
        report.identical = [distance for distance in found if distance.identical]
        if not report.identical:
            report.truths = {who: rms_of(theirs, logits) for who, logits in recomputed.truths().items()}
            report.reference_rms = report.truths["llama.cpp"]
        if found and not report.identical:
            report.closest = min(found, key=_nearness)
            if explain:
                _explain(report, recomputed, report.closest, free_batch=batch is None)
            reference = recomputed.reference()
            report.usual_rms = max(rms_of(recomputed.logits(way), reference) for way in ways)
    return report


def _ways(file: ModelFile, n_tokens: int, narrowed: Mapping[str, Any]) -> list[Way]:
    """The ways to compute bit for bit; none for a model that no era on offer knew, if none was asked for."""
    try:
        return list(ways_of(file, n_tokens, **narrowed))
    except UsageError:
        if any(value is not None for value in narrowed.values()):
            raise
        return []


def read_logits(path: str | os.PathLike[str], n_tokens: int, n_vocab: int) -> F32:
    """The logits in a .npy or raw file, whatever its name: float32 [n_tokens, n_vocab], or [1, n_vocab], the last.

    Raises:
        FormatError: missing, not float32, or another number of values.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        if data.startswith(MAGIC):
            values = parse_npy(data, path)
        else:
            values = np.frombuffer(data, "<f4" if len(data) % 4 == 0 else np.uint8)
    except (OSError, FormatError) as error:
        raise FormatError("the logits cannot be read", path=path, cause=str(error)) from error
    if values.dtype.kind != "f" or values.dtype.itemsize != 4:
        raise FormatError("these are not float32 numbers", path=path, field="dtype", found=str(values.dtype))
    if values.size not in (n_tokens * n_vocab, n_vocab):
        raise FormatError(
            "another number of logits than model and tokens have",
            path=path,
            field="shape",
            expected=f"[{n_tokens}, {n_vocab}] or [{n_vocab}]",
            found=list(values.shape),
            cause="other tokens (with or without the leading 1?), or another model's vocabulary",
        )
    return np.ascontiguousarray(values, np.float32).reshape(-1, n_vocab)


# ── causes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _nearness(distance: Distance) -> tuple[int, float, float]:
    """Smaller is nearer: tokens that are identical count first."""
    return -distance.same_tokens, distance.rms, distance.median_ulp


def _explain(report: LogitsReport, recomputed: Recomputed, closest: Distance, free_batch: bool) -> None:
    """Try what else may have been done, and say what it was."""
    if closest.way.build != "scalar" and free_batch:
        sizes = [size for size in OTHER_BATCHES if size < len(recomputed.tokens)]
        others = [recomputed.distance(replace(closest.way, batch=size)) for size in sizes]
        report.tried += len(others)
        exact = [distance for distance in others if distance.identical]
        if exact:
            report.identical, report.closest = exact, None
            report.causes.append(f"tokens were evaluated {exact[0].way.batch} at a time")
            return
        closest = report.closest = min([closest, *others], key=_nearness)
    report.causes.append(_where(closest, recomputed.tokens))
    report.causes += _operations(recomputed, closest)


def _where(closest: Distance, tokens: Sequence[int]) -> str:
    """In words, which tokens differ."""
    first, rows = closest.first_token or 0, len(closest.tokens)
    number = len(tokens) - rows + first
    if rows == 1:
        return "only the last token is there, and it differs"
    last = max(i for i, token in enumerate(closest.tokens) if token.different)
    if first == last:
        return f"only token {number} (id {tokens[number]}) differs"
    if first == 0:
        return (
            "it differs from the first token on, which sees only itself at position 0: not the rotary embedding alone"
        )
    before = f"tokens 0 to {number - 1} are" if number > 1 else "token 0 is"
    return f"{before} identical; it differs from token {number} (id {tokens[number]}) on"


def _operations(recomputed: Recomputed, closest: Distance) -> list[str]:
    """Operations which, done otherwise, give these bits; or else the one that brings them nearest."""
    found = []
    for words, backend in recomputed.others(closest.way):
        found += [recomputed.changed(closest.way, name, backend, f"{name} {words}") for name in OPERATIONS]
        backend.close()
    exact = [distance for distance in found if distance.identical]
    if exact:
        return [f"{distance.changed}: identical then" for distance in exact]
    nearest = min(found, key=lambda distance: distance.rms)
    if nearest.rms < closest.rms / 2:
        return [f"{nearest.changed}: {closest.rms / nearest.rms:.1f} times nearer then"]
    return ["no single operation of another era, build or of plain arithmetic explains it"]
