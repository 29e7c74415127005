"""Is an output what it should be, and if not, what was done instead?

The expected output is recomputed a few rows at a time and compared while it passes; nothing is written and no tensor is
held whole. What differs is explained by trying: each *deviation* is a known mistake (or another era) that says what it
would have written for a tensor, and it is named if that is exactly what stands there.

:func:`verify_model` is the engine: an :class:`Expected` model against a file. :func:`verify_quantization` and
:func:`verify_migration` make what they expect from a GGML source; conversions and merges, which know checkpoints, do
the same in ``llama_ref`` and ``lora``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.containers import CONTAINERS, Container, Hparams
from ggmlpy.formats.fields import write
from ggmlpy.formats.model_file import ModelFile
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.row_reader import RowFiles, RowSource
from ggmlpy.formats.tensor_types import TensorType

from .compare import BlockView, TensorDifference, block_view, ulp_distance

__all__ = [
    "Cause",
    "Deviation",
    "Expected",
    "Found",
    "Report",
    "compare_tensor",
    "explain",
    "junit",
    "row_chunks",
    "same_bytes",
    "settle",
    "verify_model",
]

Progress = Callable[[int], object]
IDENTICAL, CONTENT, OTHER_ERA, DIFFERS = "identical bytes", "identical content", "identical to another era", "differs"
MAX_SAMPLED = 1 << 20  # distances kept for the median


@dataclass(frozen=True)
class Deviation:
    """A known way to get it wrong (or another era's way to get it right).

    Attributes:
        name: what was done, in words that follow "because".
        make: what it would have written for a tensor of this name; None where it changes nothing.
        era: the date, if this is another era's way.
    """

    name: str
    make: Callable[[str], OutTensor | None] = field(repr=False)
    era: str | None = None


@dataclass(frozen=True)
class Cause:
    """A deviation that explains differing tensors exactly."""

    name: str
    explains: int
    of: int
    example: str = ""
    era: str | None = None

    def __str__(self) -> str:
        return f"{self.name} (explains {self.explains} of {self.of} differing tensors, {self.example} among them)"


@dataclass(frozen=True)
class Expected:
    """What an output should be.

    Attributes:
        step: "quantize", "convert" …: what lies between source and output.
        container, version, hparams, vocab, tensors: the arguments of :func:`ggmlpy.write_model`.
        deviations: what to try where it differs.
    """

    step: str
    container: str
    version: int
    hparams: Hparams
    vocab: Sequence[tuple[bytes, float]]
    tensors: Sequence[OutTensor]
    deviations: Sequence[Deviation] = ()


@dataclass(frozen=True)
class Found:
    """A tensor of the output.

    Attributes:
        row_of: ``row_of(start, stop)`` gives the bytes of these rows: uint8 [rows, row_bytes].
        offset: of its data in its file, if it lies there in one piece.
    """

    name: str
    type: TensorType
    shape: tuple[int, ...]
    row_of: Callable[[int, int], NDArray[np.uint8]] = field(repr=False)
    offset: int | None = None
    path: str = ""

    @classmethod
    def of(cls, source: RowSource, path: str) -> Found:
        """A tensor of a model file."""
        tensor = source.tensor
        offset = tensor.offset if len(tensor.pieces) == 1 else None
        return cls(tensor.name, tensor.type, tensor.shape, source.raw, offset, path)


@dataclass
class Report:
    """The verdict.

    Attributes:
        verdict: "identical bytes", "identical content", "identical to another era" or "differs".
        container: how header, vocabulary or layout differ, in words.
        tensors: one entry a tensor.
        causes: deviations that explain differing tensors, the most telling first.
        unexplained: differing tensors that no single deviation explains.
        era: the era whose way it is, if not the expected one's.
    """

    output: str
    source: str
    step: str
    verdict: str = IDENTICAL
    container: list[str] = field(default_factory=list)
    tensors: list[TensorDifference] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    era: str | None = None

    @property
    def differing(self) -> list[TensorDifference]:
        return [tensor for tensor in self.tensors if tensor.status != "same"]

    @property
    def exit_code(self) -> int:
        """0 if it is what it should be, in whatever container; 1 if not."""
        return 1 if self.verdict == DIFFERS else 0

    def sentence(self) -> str:
        """The verdict in words."""
        if self.verdict == OTHER_ERA:
            return f"identical to what era {self.era} would write"
        if self.verdict == CONTENT:
            return "identical content, other container: " + "; ".join(self.container)
        if self.verdict == IDENTICAL:
            return IDENTICAL
        values = sum(tensor.n_different for tensor in self.differing)
        farthest = max((tensor.max_ulp for tensor in self.differing), default=0)
        words = [f"{len(self.differing)} of {len(self.tensors)} tensors, {values:,} values, at most {farthest:,} ulp"]
        return "differs: " + "; ".join((words if self.differing else []) + self.container)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"sentence": self.sentence(), **asdict(self)}

    def markdown(self) -> str:
        """A summary for a CI job: the verdict, the causes, and a table of the tensors that differ."""
        lines = [f"**{self.output}** against {self.source} ({self.step}): {self.sentence()}", ""]
        lines += [f"- likely cause: {cause}" for cause in self.causes]
        lines += [f"- no known mistake explains {name}" for name in self.unexplained[:5]]
        if self.differing:
            lines += ["", "| tensor | status | values | different | median ulp | max ulp | max error |"]
            lines += ["|---|---|--:|--:|--:|--:|--:|"]
        for t in self.differing:
            figures = f"{t.n_values:,} | {t.n_different:,} | {t.median_ulp:g} | {t.max_ulp:,} | {t.max_error:.3g}"
            lines.append(f"| {t.name} | {t.status} | {figures} |")
        return "\n".join(lines) + "\n"

    def junit(self) -> str:
        """JUnit XML for a CI server: a test case a tensor, and one for the container."""
        because = "; ".join(map(str, self.causes)) or "no known mistake explains it"
        words = f"{self.sentence()}\nlikely cause: {because}"
        wrong = self.verdict == DIFFERS
        cases = {"container": "; ".join(self.container) if wrong else ""}
        for t in self.tensors:
            figures = f"{t.status}: {t.n_different:,} of {t.n_values:,} values, at most {t.max_ulp:,} ulp\n{words}"
            cases[t.name] = figures if wrong and t.status != "same" else ""
        return junit(f"{self.step} of {self.source}", cases)


def junit(suite: str, cases: Mapping[str, str]) -> str:
    """JUnit XML of test cases by name, each with what is wrong with it ("" if nothing is).

    >>> print(junit("convert", {"wq": "", "wk": "3 values differ"}))
    <?xml version="1.0" encoding="UTF-8"?>
    <testsuite name="convert" tests="2" failures="1">
      <testcase classname="convert" name="wq"/>
      <testcase classname="convert" name="wk"><failure message="3 values differ">3 values differ</failure></testcase>
    </testsuite>
    <BLANKLINE>
    """
    from xml.sax.saxutils import escape, quoteattr

    name, failures = quoteattr(_legal(suite)), sum(map(bool, cases.values()))
    lines = ['<?xml version="1.0" encoding="UTF-8"?>']
    lines.append(f'<testsuite name={name} tests="{len(cases)}" failures="{failures}">')
    for case, problem in cases.items():
        head = f"  <testcase classname={name} name={quoteattr(_legal(case))}"
        text = _legal(problem)
        failure = f"<failure message={quoteattr(text.partition(chr(10))[0])}>{escape(text)}</failure>"
        lines.append(f"{head}>{failure}</testcase>" if problem else f"{head}/>")
    return "\n".join([*lines, "</testsuite>", ""])


def _legal(text: str) -> str:
    """XML 1.0 knows no control characters, not even escaped."""
    return "".join(c if c in "\n\t" or (c >= " " and not "\ud800" <= c <= "\udfff") else "\ufffd" for c in text)


def verify_model(output: ModelFile, expected: Expected, source: str, progress: Progress | None = None) -> Report:
    """Compare an output with what it should be.

    Arguments:
        source: what to call the source in the report.
        progress: called with the number of expected bytes after each piece, and with 0 while a cause is looked for.
    """
    report = Report(str(output.path), source, expected.step)
    report.container = list(container_differences(output, expected))
    with RowFiles(output) as files:
        found = {name: Found.of(files.source(tensor), str(output.path)) for name, tensor in output.tensors.items()}
        report.tensors = [compare_tensor(tensor, found.get(tensor.name), progress) for tensor in expected.tensors]
        known = {tensor.name for tensor in expected.tensors}
        report.tensors += [TensorDifference(name, "not expected") for name in output.tensors if name not in known]
        if report.differing:
            explain(report, found, expected.deviations, progress)
    return settle(report)


def settle(report: Report) -> Report:
    """Draw the verdict from what was found."""
    report.verdict = _verdict(report)
    return report


def _verdict(report: Report) -> str:
    if not report.differing:
        return CONTENT if report.container else IDENTICAL
    if report.era and not report.unexplained and not report.container:
        return OTHER_ERA
    return DIFFERS


# ---- one tensor


def compare_tensor(expected: OutTensor, found: Found | None, progress: Progress | None = None) -> TensorDifference:
    """One tensor as it is against how it should be, a few rows at a time."""
    if found is None:
        return TensorDifference(expected.name, "missing")
    result = TensorDifference(expected.name, "same", (expected.type.layout, found.type.layout))
    if found.shape != expected.shape:
        result.status = f"has shape {list(found.shape)} instead of {list(expected.shape)}"
        return result
    if found.type.layout != expected.type.layout:
        result.status = f"is {found.type.layout} instead of {expected.type.layout}"
    distances: list[NDArray[np.int64]] = []
    start = 0
    for rows in row_chunks(expected):
        there = found.row_of(start, start + len(rows))
        if found.type.layout != expected.type.layout or not same_bytes(rows, there):
            _measure(result, distances, expected, found, rows, there, start)
        start += len(rows)
        result.n_values += len(rows) * expected.shape[-1]
        if progress:
            progress(rows.nbytes)
    if distances:
        result.median_ulp = float(np.median(np.concatenate(distances)[:MAX_SAMPLED]))
    return result


def row_chunks(tensor: OutTensor) -> Iterator[NDArray[np.uint8]]:
    """A tensor's bytes as whole rows, however they were chunked: uint8 [rows, row_bytes]."""
    width = tensor.type.row_bytes(tensor.shape[-1])
    rest = np.zeros(0, np.uint8)
    for chunk in tensor.chunks():
        flat = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8) if isinstance(chunk, np.ndarray) else None
        data = np.frombuffer(chunk, np.uint8) if flat is None else flat
        data = np.concatenate([rest, data]) if len(rest) else data
        whole = len(data) // width * width
        if whole:
            yield data[:whole].reshape(-1, width)
        rest = data[whole:]


def same_bytes(x: NDArray[np.uint8], y: NDArray[np.uint8]) -> bool:
    """Whether two arrays of bytes are equal, compared eight at a time where that is possible."""
    if x.shape != y.shape:
        return False
    if x.nbytes % 8 == 0 and x.flags.c_contiguous and y.flags.c_contiguous:
        x, y = (array.reshape(-1).view(np.uint64) for array in (x, y))  # type: ignore[assignment]
    return bool(np.array_equal(x, y))


def _measure(
    result: TensorDifference,
    distances: list[NDArray[np.int64]],
    expected: OutTensor,
    found: Found,
    rows: NDArray[np.uint8],
    there: NDArray[np.uint8],
    start: int,
) -> None:
    """Count and measure the values that differ; decode the first block that does."""
    x, y = decoded(rows, expected.type), decoded(there, found.type)  # [rows, columns]
    same = same_bytes(rows, there)
    distance = ulp_distance(x, y)
    different = distance > 0
    if different.any():
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(x.astype(np.float64) - y)[different]
        result.n_different += int(different.sum())
        result.max_ulp = max(result.max_ulp, int(distance[different].max()))
        result.max_error = max(result.max_error, float(np.nan_to_num(error, nan=0.0).max()))
        if sum(map(len, distances)) < MAX_SAMPLED:
            distances.append(distance[different])
    if not same and result.status == "same":
        result.status = "differs"
    if result.row is None and not same:
        row, column = _first_difference(different, rows, there, expected.type)
        result.row, result.column = start + row, column
        result.a = _block(expected.type, rows[row], column, None, "expected")
        result.b = _block(found.type, there[row], column, _row_offset(found, start + row), found.path)


def _first_difference(
    different: NDArray[np.bool_], rows: NDArray[np.uint8], there: NDArray[np.uint8], record: TensorType
) -> tuple[int, int]:
    """Row and column of the first value that differs, or of the first byte if all values decode alike."""
    if different.any():
        row, column = np.argwhere(different)[0]
        return int(row), int(column)
    if rows.shape != there.shape:
        return 0, 0
    row, byte = np.argwhere(rows != there)[0]
    return int(row), int(byte) // record.type_size * record.blck_size


def _row_offset(found: Found, row: int) -> int | None:
    return None if found.offset is None else found.offset + row * found.type.row_bytes(found.shape[-1])


def _block(record: TensorType, row: NDArray[np.uint8], column: int, offset: int | None, path: str) -> BlockView:
    index, size = column // record.blck_size, record.type_size
    start = None if offset is None else offset + index * size
    return block_view(record, row[index * size : (index + 1) * size], start, path)


def decoded(rows: NDArray[np.uint8], record: TensorType) -> NDArray[np.float32]:
    """The numbers of rows of bytes: float32 [rows, columns]."""
    from ggmlpy.formats.dequantize import dequantize

    return dequantize(np.ascontiguousarray(rows).view(record.block), record)


# ---- the container


def container_differences(output: ModelFile, expected: Expected) -> Iterator[str]:
    """How header, vocabulary, order of tensors and file structure differ from the expected file's, in words."""
    if (output.container, output.version) != (expected.container, expected.version):
        name = f"{expected.container} v{expected.version}" if expected.version else expected.container
        yield f"container {output.format_name} instead of {name}"
    ours, theirs = expected.hparams.as_dict(), output.hparams.as_dict()
    yield from (f"header: {key} {theirs[key]} instead of {ours[key]}" for key in ours if ours[key] != theirs[key])
    yield from vocabulary_differences(output, expected.vocab)
    names = [tensor.name for tensor in expected.tensors]
    there = list(output.tensors)
    if there != names and set(there) == set(names):
        first = next(i for i, (x, y) in enumerate(zip(there, names, strict=True)) if x != y)
        yield f"order of tensors: number {first} is {there[first]} instead of {names[first]}"
    if expected.container in CONTAINERS and len(output.parts) == 1 and output.container == expected.container:
        yield from _structure(output, CONTAINERS[expected.container])


def vocabulary_differences(output: ModelFile, vocab: Sequence[tuple[bytes, float]]) -> Iterator[str]:
    """How the vocabulary differs, with the cause where it is one that is known."""
    if len(output.vocab) != len(vocab):
        yield f"vocabulary of {len(output.vocab)} pieces instead of {len(vocab)}"
        return
    pairs = list(zip(output.vocab, (text for text, _ in vocab), strict=True))
    differ = [index for index, (there, ours) in enumerate(pairs) if there != ours]
    if differ:
        there, ours = pairs[differ[0]]
        underlined = all(pairs[i][0].replace("▁".encode(), b" ") == pairs[i][1] for i in differ)
        cause = ": ▁ was not replaced by a space" if underlined else ""
        yield f"vocabulary: {len(differ)} pieces differ, the first is {differ[0]}: {there!r} instead of {ours!r}{cause}"
    scores = np.array([score for _, score in vocab], np.float32)
    if output.container != "ggml" and output.vocab.scores.tobytes() != scores.tobytes():
        count = int((output.vocab.scores.view(np.uint32) != scores.view(np.uint32)).sum())
        yield f"vocabulary: {count} scores differ" + (", all of them zero" if not output.vocab.scores.any() else "")


def _structure(output: ModelFile, container: Container) -> Iterator[str]:
    """Bytes between the tensors that differ from what our writer puts there."""
    part = output.parts[0]
    values = {"magic": container.magic, "version": output.version}
    for name, (record, piece) in part.tensors.items():
        ours = write(
            container.tensor,
            {**values, "type": record.id, "dims": piece.shape[::-1], "name": name.encode()},
            piece.header,
        )
        if part.cursor.buffer[piece.header : piece.offset] != ours:
            yield f"padding before the data of {name} is not zero"
            return


# ---- causes


def explain(
    report: Report, found: Mapping[str, Found], deviations: Iterable[Deviation], progress: Progress | None = None
) -> None:
    """Name the deviations that wrote exactly what stands there; what none explains is left as unexplained.

    Arguments:
        progress: called with 0 after each tensor that a deviation was tried on, as a sign of life.
    """
    differing = [tensor.name for tensor in report.differing if tensor.name in found]
    explained: dict[Deviation, list[str]] = {}
    for deviation in deviations:
        names = [name for name in differing if _writes_exactly(deviation, found[name], progress)]
        if names:
            explained[deviation] = names
        if len(names) == len(differing):
            break
    report.unexplained = [t.name for t in report.differing]
    for deviation, names in sorted(explained.items(), key=lambda item: -len(item[1])):
        new = [name for name in names if name in report.unexplained]
        if new:
            report.causes.append(Cause(deviation.name, len(names), len(report.differing), names[0], deviation.era))
            report.unexplained = [name for name in report.unexplained if name not in new]
    if len(report.causes) == 1 and not report.unexplained:
        (deviation,) = [item for item in explained if item.name == report.causes[0].name]
        same = [tensor.name for tensor in report.tensors if tensor.status == "same"]
        if deviation.era and all(_would_write(deviation, found[name]) for name in same):
            report.era = deviation.era


def _would_write(deviation: Deviation, found: Found) -> bool:
    """Whether a tensor that is as expected is also what the deviation gives."""
    return deviation.make(found.name) is None or _writes_exactly(deviation, found)


def _writes_exactly(deviation: Deviation, found: Found, progress: Progress | None = None) -> bool:
    if progress:
        progress(0)
    made = deviation.make(found.name)
    if made is None or made.shape != found.shape or made.type.layout != found.type.layout:
        return False
    start = 0
    for rows in row_chunks(made):
        if not same_bytes(rows, found.row_of(start, start + len(rows))):
            return False
        start += len(rows)
    return True
