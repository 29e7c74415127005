"""What each type of quantization costs and saves: the table that people publish beside the files of a release.

Every model reads the same text, cut as ``perplexity`` cuts it. Beside its own perplexity, each is compared with the
model that it was quantized from, at every scored position: by the divergence of its probabilities from the source's
(Kullback-Leibler, in nats: 0 if they are the same) and by how often both hold the same token for the most likely one.

A long text and many types take hours, so everything that is known is kept in a directory and a run that was
interrupted goes on where it stopped:

==================  ================================================================================================
quality.json        of what these figures are, how far the source has read, and the rows that are finished
source.npy          float32 [positions, n_vocab], the source's logits at the scored positions
==================  ================================================================================================
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ggmlpy.files.atomic import atomic_write, require_space
from ggmlpy.files.errors import OutputError, ShapeError, UnsupportedError, UsageError
from ggmlpy.files.json_files import read_json
from ggmlpy.files.processors import checked_threads
from ggmlpy.formats.eras import DEFAULT_ERA, TODAY, quantizing_era
from ggmlpy.formats.file_types import FILE_TYPES, file_type_of
from ggmlpy.formats.opening import is_gguf, open_model
from ggmlpy.quantizers.gguf_plan import GgufOptions
from ggmlpy.quantizers.whole_file import quantize_file
from llama_ref.vocabulary.gguf_tokenizer import file_tokenizer

from .bench import measure
from .model import Model
from .perplexity import chunk_count, scored_chunks, surprises

__all__ = ["Quality", "Study", "markdown", "usual_types"]

FORMAT = "ggmlpy quality 1"
# Of the types that GGUF has today, those that are published most.
RELEASED = (
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_K_S",
    "Q5_0",
    "Q4_K_M",
    "Q4_K_S",
    "IQ4_NL",
    "IQ4_XS",
    "Q4_0",
    "Q3_K_M",
    "Q2_K",
)
ROWS_AT_ONCE = 64  # of logits, whose probabilities are compared in double precision
ROUNDS, TOKENS_A_ROUND = 3, 4  # of measuring the speed

F32 = npt.NDArray[np.float32]
Progress = Callable[[str, float, int], object]  # what is being done, how many chunks are done, of how many


@dataclass(frozen=True)
class Quality:
    """A row of the table.

    Attributes:
        type: of the file, as ``quantize`` takes it.
        n_bytes: of the file.
        bits_per_weight: of its tensors.
        perplexity, perplexity_error: over the scored tokens, and the standard error of that mean.
        divergence: of its probabilities from the source's, the mean over the positions, in nats.
        agreement: how often its most likely token is the source's, 0 to 1.
        tokens_per_second: generated one at a time.
        notes: what the user should know of the file.
    """

    type: str
    n_bytes: int
    bits_per_weight: float
    perplexity: float
    perplexity_error: float
    divergence: float
    agreement: float
    tokens_per_second: float
    notes: list[str] = field(default_factory=list)


@dataclass
class Study:
    """A model, a text, and the types to be compared.

    Args:
        source: an f32, f16 or bf16 model.
        text: what the models read.
        directory: where everything is kept; it is made if need be.
        types: as ``quantize`` takes them; None means :func:`usual_types`, less those that the model's shape excludes.
        n_ctx: tokens per chunk.
        chunks: read at most so many.
        threads: None means one per processor.
        era: whose quantizer.
        options: what GGUF's quantizer takes besides, such as an importance matrix.
        keep: whether the quantized files stay in the directory.
        progress: called with what is being done, how many chunks are done, and how many there are.
        left_out: called with a usual type and why the model cannot have it.
    """

    source: Path
    text: bytes
    directory: Path
    types: Sequence[str] | None = None
    n_ctx: int = 512
    chunks: int | None = None
    threads: int | None = None
    era: str | None = None
    options: GgufOptions = field(default_factory=GgufOptions)
    keep: bool = False
    progress: Progress = lambda what, done, total: None
    left_out: Callable[[str, Exception], object] = lambda name, error: None

    def rows(self) -> Iterator[Quality]:
        """The source's row, then one of each type; those that are known already come at once.

        Raises:
            UsageError: the text is too short, a type does not exist, or the source is quantized itself.
            OutputError: the directory cannot be written, or has too little room.
        """
        moment = quantizing_era(self.era or (TODAY if is_gguf(self.source) else DEFAULT_ERA))
        names = [file_type_of(name, moment).name for name in self.types or usual_types(self.source, self.era)]
        _make(self.directory)
        tokens, notes = self._tokens(), Notes.of(self.directory / "quality.json", self._facts())
        logits = self._source_logits(tokens, notes)
        own = source_type(self.source)
        yield notes.row(own, partial(self._measured, self.source, own, tokens, logits, logits))
        for name in names:
            try:
                yield notes.row(name, partial(self._quantized, name, tokens, logits))
            except (ShapeError, UnsupportedError) as error:
                if self.types is not None:
                    raise
                self.left_out(name, error)

    def _facts(self) -> dict[str, Any]:
        """What the figures depend on: with others, they are found anew."""
        status, options = self.source.stat(), asdict(self.options)
        return {
            "source": [str(self.source.resolve()), status.st_size, status.st_mtime_ns],
            "text": hashlib.sha256(self.text).hexdigest(),
            "n_ctx": self.n_ctx, "chunks": self.chunks, "era": self.era, "options": json.loads(json.dumps(options)),
            "threads": checked_threads(self.threads),
        }  # fmt: skip

    def _tokens(self) -> list[int]:
        with open_model(self.source) as file:
            tokens = file_tokenizer(file, self.era).encode_raw(self.text.removesuffix(b"\n"))
        n = min(chunk_count(len(tokens), self.n_ctx), self.chunks or len(tokens))
        return [int(token) for token in tokens[: n * self.n_ctx]]

    def _model(self, path: Path) -> Model:
        return Model.from_file(path, n_ctx=self.n_ctx, n_threads=self.threads)

    def _source_logits(self, tokens: Sequence[int], notes: Notes) -> F32:
        """The source's logits [chunks * scored, n_vocab], in a file; those of earlier runs are there."""
        path, total = self.directory / "source.npy", len(tokens) // self.n_ctx
        with self._model(self.source) as model:
            shape = (total * scored_of(self.n_ctx), model.n_vocab)
            if notes.chunks == 0:
                path.unlink(missing_ok=True)
                require_space(path, 4 * math.prod(shape))
            logits = np.lib.format.open_memmap(path, "r+" if notes.chunks else "w+", np.float32, shape)
            step = self._step("source", total)
            for rows, _ in scored_chunks(model, tokens, step, first=notes.chunks):
                logits[self._places(notes.chunks)] = rows
                logits.flush()
                notes.read_chunk()
        return logits

    def _places(self, chunk: int) -> slice:
        return slice(chunk * scored_of(self.n_ctx), (chunk + 1) * scored_of(self.n_ctx))

    def _step(self, what: str, total: int) -> Callable[[float], object]:
        return lambda done: self.progress(what, done, total)

    def _quantized(self, name: str, tokens: Sequence[int], logits: F32) -> Quality:
        """Quantize to a type, and measure."""
        path = self.directory / f"{self.source.stem}-{name}{self.source.suffix}"
        self.progress(f"quantize {name}", 0, len(tokens) // self.n_ctx)
        options = None if self.options == GgufOptions() else self.options
        report = quantize_file(self.source, path, name, self.era, threads=self.threads, options=options)
        row = replace(self._measured(path, name, tokens, logits), notes=report.notes)
        if not self.keep:
            path.unlink()
        return row

    def _known_chunks(self, tokens: Sequence[int], logits: F32) -> Iterator[tuple[F32, Sequence[int]]]:
        for chunk in range(len(tokens) // self.n_ctx):
            stop = (chunk + 1) * self.n_ctx
            yield logits[self._places(chunk)], tokens[stop - scored_of(self.n_ctx) : stop]

    def _measured(
        self, path: Path, name: str, tokens: Sequence[int], expected: F32, known: F32 | None = None
    ) -> Quality:
        """A model's row; its logits are known if it is the source."""
        sums, total = Sums(), len(tokens) // self.n_ctx
        with open_model(path) as file:
            n_bytes, tensors = file.size, list(file.tensors.values())
        bits = 8 * sum(t.nbytes for t in tensors) / sum(math.prod(t.shape) for t in tensors)
        with self._model(path) as model:
            step = self._step(name, total)
            given = scored_chunks(model, tokens, step) if known is None else self._known_chunks(tokens, known)
            for chunk, (rows, scored) in enumerate(given):
                sums.add(expected[self._places(chunk)], rows, scored)
        speed = measure(path, checked_threads(self.threads), 0, ROUNDS, TOKENS_A_ROUND).generate
        return replace(sums.quality(), type=name, n_bytes=n_bytes, bits_per_weight=bits, tokens_per_second=speed)


@dataclass
class Sums:
    """What is added up over the scored positions of all chunks."""

    surprises: list[float] = field(default_factory=list)
    divergence: float = 0.0
    agreed: int = 0

    def add(self, expected: F32, rows: F32, scored: Sequence[int]) -> None:
        """The source's logits, a model's own [positions, n_vocab], and the tokens that the text has there."""
        self.surprises += surprises(rows, scored).tolist()
        self.agreed += int((expected.argmax(axis=1) == rows.argmax(axis=1)).sum())
        for start in range(0, len(rows), ROWS_AT_ONCE):
            here = slice(start, start + ROWS_AT_ONCE)
            self.divergence += float(divergences(expected[here], rows[here]).sum())

    def quality(self) -> Quality:
        """The figures of the text, without those of the file."""
        values, n = np.array(self.surprises), len(self.surprises)
        perplexity, error = math.exp(values.mean()), values.std(ddof=1) / math.sqrt(n)
        return Quality("", 0, 0.0, perplexity, perplexity * error, self.divergence / n, self.agreed / n, 0.0)


@dataclass
class Notes:
    """What is known, in a file that is written anew with each step."""

    path: Path
    facts: dict[str, Any]
    chunks: int = 0
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, facts: dict[str, Any]) -> Notes:
        """Those of an earlier run with the same facts, or empty ones."""
        found = read_json(path) if path.exists() else {}
        if found.get("format") == FORMAT and found.get("of") == facts:
            return cls(path, facts, int(found["chunks"]), dict(found["rows"]))
        return cls(path, facts)

    def row(self, name: str, find: Callable[[], Quality]) -> Quality:
        """The row of a type, found if it is not known."""
        if name not in self.rows:
            self.rows[name] = asdict(find())
            self._write()
        return Quality(**self.rows[name])

    def read_chunk(self) -> None:
        """The source has read another chunk."""
        self.chunks += 1
        self._write()

    def _write(self) -> None:
        state = {"format": FORMAT, "of": self.facts, "chunks": self.chunks, "rows": self.rows}
        with atomic_write(self.path) as stream:
            stream.write(json.dumps(state, indent=1).encode())


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the directory: {error.strerror}", path=directory) from error


def scored_of(n_ctx: int) -> int:
    """How many tokens of a chunk are scored."""
    return n_ctx - n_ctx // 2 - 1


def source_type(path: Path) -> str:
    """The type of a model that is not quantized yet.

    Raises:
        UsageError: it is.
    """
    with open_model(path) as file:
        kinds = {tensor.type for tensor in file.tensors.values() if len(tensor.shape) == 2}
    if any(kind.quantized for kind in kinds):
        raise UsageError(f"{path} is quantized itself; name the f16, bf16 or f32 model that it was made from")
    return min(kinds, key=lambda kind: kind.type_size).name.upper()


def usual_types(path: Path, era: str | None = None) -> list[str]:
    """The types that are compared where none are named: what the era's quantizer makes, or what is published today."""
    moment = quantizing_era(era or (TODAY if is_gguf(path) else DEFAULT_ERA))
    targets = {record.name: record for record in FILE_TYPES.values() if record.is_target_of(moment)}
    if moment.is_of_gguf:
        return [name for name in RELEASED if name in targets]
    return [name for name, record in targets.items() if record.type not in ("f32", "f16")]


def divergences(expected: F32, rows: F32) -> npt.NDArray[np.float64]:
    """The Kullback-Leibler divergence, in nats, of each row of logits from what was expected: float64 [rows].

    >>> divergences(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32)).tolist()
    [0.0]
    """
    p, q = _log_softmax(expected), _log_softmax(rows)
    return np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0)


def _log_softmax(rows: F32) -> npt.NDArray[np.float64]:
    x = rows - rows.max(axis=1, keepdims=True).astype(np.float64)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


COLUMNS: dict[str, Callable[[Quality], str]] = {
    "type": lambda row: row.type,
    "size": lambda row: f"{row.n_bytes / 1e9:.2f} GB" if row.n_bytes >= 1e9 else f"{row.n_bytes / 1e6:.2f} MB",
    "bits per weight": lambda row: f"{row.bits_per_weight:.2f}",
    "perplexity": lambda row: f"{row.perplexity:.4f} ± {row.perplexity_error:.4f}",
    "KL divergence": lambda row: f"{row.divergence:.6f}",
    "same top token": lambda row: f"{100 * row.agreement:.2f} %",
    "tokens/s": lambda row: f"{row.tokens_per_second:.2f}",
}


def markdown(rows: Sequence[Quality]) -> str:
    """The table in Markdown, its columns aligned.

    >>> print(markdown([Quality("Q8_0", 7_160_799_872, 8.5, 5.9, 0.03, 0.0011, 0.98, 9.31)]))
    | type | size    | bits per weight | perplexity      | KL divergence | same top token | tokens/s |
    |------|--------:|----------------:|----------------:|--------------:|---------------:|---------:|
    | Q8_0 | 7.16 GB |            8.50 | 5.9000 ± 0.0300 |      0.001100 |        98.00 % |     9.31 |
    """
    cells = [list(COLUMNS), *([cell(row) for cell in COLUMNS.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    head = [name.ljust(width) for name, width in zip(cells[0], widths, strict=True)]
    rule = ["-" * (width + 2) if i == 0 else "-" * (width + 1) + ":" for i, width in enumerate(widths)]
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|"]
    for first, *rest in cells[1:]:
        aligned = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append(f"| {' | '.join([first.ljust(widths[0]), *aligned])} |")
    return "\n".join(lines)
