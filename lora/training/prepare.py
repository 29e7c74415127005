"""Texts or records become one file of prepared data (:mod:`lora.training.prepared`), in a stream.

The rules of the original: each file's lines are dealt to ``n_workers`` contiguous shards, within a shard every thousand
lines are joined and cut, and all blocks of all files are split into training and evaluation. How many threads encode
does not change the result. What is done is noted in ``OUTPUT.part`` every few batches, and a run that was interrupted
goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy.files.atomic import atomic_write, writing
from ggmlpy.files.errors import FormatError, MissingFileError, UsageError
from ggmlpy.files.ordered import Workers
from llama_ref.checkpoint import LazyTensor
from llama_ref.checkpoint.safetensors_file import write_safetensors
from llama_ref.vocabulary.sentencepiece_model import read_sentencepiece

from .order import split_order
from .prepared import KIND, targets_of
from .recipe import load_recipe
from .tokens import TrainingTokenizer, cut_lines

__all__ = ["Preparation", "prepare_data"]

Progress = Callable[[int], object]  # is told of bytes that were read
NOTE_EVERY = 64  # batches between two notes of what is done
RECORDS_PER_BATCH = 1000
DRAFTED = ("ids", "lengths")  # the two files of a draft


@dataclass(frozen=True)
class Preparation:
    """How data is prepared.

    Attributes:
        kind: "texts" or "records".
        recipe: whose rules hold.
        length: tokens of a row.
        n_workers: processes that the original's ``--preprocessing_num_workers`` had; decides where lines are cut.
        validation: the share of rows that is held out of texts.
        seed: of the split.
        n_threads: that encode.
    """

    kind: str = "texts"
    recipe: str = "original"
    length: int = 512
    n_workers: int = 1
    validation: float = 0.001
    seed: int = 0
    n_threads: int = 1

    def __post_init__(self) -> None:
        if self.length < 2 or self.n_workers < 1 or not 0 <= self.validation < 1:
            raise UsageError("a row has 2 tokens or more, there is a worker, and less than all rows are held out")
        if not 0 <= self.seed < 1 << 32:
            raise UsageError(f"the seed must be between 0 and {(1 << 32) - 1:,}, not {self.seed}")
        if load_recipe(self.recipe).lines_per_cut is None:
            raise UsageError(f"the recipe {self.recipe} packs whole texts as it trains; nothing is prepared for it")


def prepare_data(
    files: Sequence[str | os.PathLike[str]],
    tokenizer: str | os.PathLike[str],
    output: str | os.PathLike[str],
    how: Preparation | None = None,
    progress: Progress = lambda n: None,
) -> dict[str, int]:
    """Prepare data, or go on with what an interrupted run left.

    Returns:
        How many rows, tokens and targets there are, and how many rows are held out.

    Raises:
        MissingFileError, FormatError: a file is missing, or not what ``kind`` says.
        UsageError: there is nothing to train on.
        OutputError: the output, or what is prepared so far, cannot be written.
    """
    how, model = how or Preparation(), read_sentencepiece(tokenizer)
    encoder = TrainingTokenizer(model, os.fspath(tokenizer))
    metadata = {
        "kind": KIND,
        "what": how.kind,
        "recipe": how.recipe,
        "length": str(how.length),
        "workers": str(how.n_workers),
        "validation": repr(how.validation),
        "seed": str(how.seed),
        "n_vocab": str(len(model)),
        "tokenizer": hashlib.sha256(model.to_bytes()).hexdigest(),
        "files": json.dumps([[Path(file).name, _size(file)] for file in files], ensure_ascii=False),
    }
    dtype = np.dtype("<u2" if len(model) <= 1 << 16 else "<i4")
    arrays = partial(_arrays, encoder, how, dtype)
    with _Draft(Path(f"{os.fspath(output)}.part"), metadata, dtype) as draft, Workers(how.n_threads) as workers:
        for ids, lengths in workers.ordered(arrays, islice(_batches(files, how, progress), draft.n_batches, None)):
            draft.add(ids, lengths)
        counts = _publish(output, draft, metadata, how)
    shutil.rmtree(draft.folder)
    return counts


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _size(file: str | os.PathLike[str]) -> int:
    try:
        return os.path.getsize(file)
    except OSError as error:
        raise MissingFileError(f"cannot read the data: {error.strerror}", path=file) from error


def _batches(files: Sequence[str | os.PathLike[str]], how: Preparation, progress: Progress) -> Iterator[list[Any]]:
    """What is encoded and cut at once: at most a thousand lines, or records."""
    for file in files:
        if how.kind == "records":
            records = _read_records(file)
            yield from (records[at : at + RECORDS_PER_BATCH] for at in range(0, len(records), RECORDS_PER_BATCH))
            progress(_size(file))
            continue
        n_lines, lines = load_recipe(how.recipe).lines_per_cut, _lines(file, progress)
        for size in _shards(file, how.n_workers):
            shard = lines if size is None else islice(lines, size)
            while batch := list(islice(shard, n_lines)):
                yield batch


def _lines(file: str | os.PathLike[str], progress: Progress) -> Iterator[str]:
    """The lines of a text: "\\r\\n" and "\\r" count as "\\n", and nothing else ends a line."""
    number = told = 0
    try:
        with open(file, "rb") as raw, io.TextIOWrapper(raw, encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                yield line.removesuffix("\n")
                if number % 1000 == 0:
                    progress(raw.tell() - told)
                    told = raw.tell()
            progress(raw.tell() - told)
    except OSError as error:
        raise MissingFileError(f"cannot read the texts: {error.strerror}", path=file) from error
    except UnicodeDecodeError as error:
        raise FormatError(
            "is not UTF-8 text",
            path=file,
            field=f"after line {number:,}",
            found=f"byte 0x{error.object[error.start]:02x}",
            cause="another encoding (GB18030, UTF-16), or no text at all",
            next_step="save it as UTF-8",
        ) from error


def _shards(file: str | os.PathLike[str], n_workers: int) -> list[int | None]:
    """How many lines each worker gets; None: all, for one worker."""
    if n_workers == 1:
        return [None]
    n = sum(1 for _ in _lines(file, lambda done: None))
    each, more = divmod(n, min(n_workers, n) or 1)
    return [each + (i < more) for i in range(min(n_workers, n))]


def _read_records(file: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The records of a file, as they are: nothing is repaired, stripped or dropped."""
    try:
        records = json.loads(Path(file).read_text("utf-8"))
    except OSError as error:
        raise MissingFileError(f"cannot read the records: {error.strerror}", path=file) from error
    except (ValueError, RecursionError) as error:
        raise _no_records(file, str(error)[:100]) from error
    if not isinstance(records, list) or not records:
        raise _no_records(file, "no array of records")
    for at, record in enumerate(records):
        said = isinstance(record, dict) and [record.get("instruction"), record.get("output"), record.get("input") or ""]
        if not said or not all(isinstance(text, str) for text in said):
            raise _no_records(file, f"record {at + 1} has no instruction or no output")
    return records


def _no_records(file: str | os.PathLike[str], found: str) -> FormatError:
    return FormatError(
        "holds no instruction data",
        path=file,
        expected="an array of records with instruction, input and output",
        found=found,
        next_step="`instructions FILE --output clean.json`",
    )


def _arrays(
    encoder: TrainingTokenizer, how: Preparation, dtype: np.dtype, batch: list[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """A batch's rows: all their ids, and length and first target of each [rows, 2]."""
    recipe = load_recipe(how.recipe)
    if how.kind == "records":
        rows = list(encoder.records(batch, recipe.prompt, how.length))
    else:
        rows = list(cut_lines(encoder.lines(batch, end=recipe.end_of_line), how.length))
    lengths = np.array([(len(row.ids), row.first_target) for row in rows], "<i4").reshape(-1, 2)
    return np.fromiter(chain.from_iterable(row.ids for row in rows), dtype), lengths


# ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Draft:
    """What is prepared so far: ids and lengths as they come, and a note of how much of both is whole."""

    def __init__(self, folder: Path, identity: dict[str, str], dtype: np.dtype) -> None:
        self.folder, self.identity, self.dtype = folder, identity, dtype
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._whole = self._noted()
            _, sizes = self._whole
            self._streams = [open(folder / name, "r+b" if sizes[name] else "wb") for name in sizes]  # noqa: SIM115
            for stream, size in zip(self._streams, sizes.values()):
                stream.truncate(size)
                stream.seek(size)

    def __enter__(self) -> _Draft:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._note()
        finally:
            for stream in self._streams:
                with contextlib.suppress(OSError):  # of what could not be written, which was told
                    stream.close()

    @property
    def n_batches(self) -> int:
        """Whole batches."""
        return self._whole[0]

    def add(self, *arrays: np.ndarray) -> None:
        """Append the rows of one batch: ids, and lengths and first targets."""
        with writing(self.folder):
            for stream, array in zip(self._streams, arrays):
                stream.write(array.tobytes())
        # one assignment: whatever stops the run before it, the note tells of the batches before
        self._whole = self.n_batches + 1, {name: stream.tell() for name, stream in zip(DRAFTED, self._streams)}
        if self.n_batches % NOTE_EVERY == 0:
            self._note()

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All ids, mapped, and lengths and first targets [rows, 2]."""
        self._note()
        ids, lengths = (self.folder / name for name in DRAFTED)
        mapped = np.memmap(ids, self.dtype, "r") if ids.stat().st_size else np.empty(0, self.dtype)
        return mapped, np.fromfile(lengths, "<i4").reshape(-1, 2)

    def _note(self) -> None:
        with writing(self.folder):
            for stream in self._streams:
                stream.flush()
        n_batches, sizes = self._whole
        with atomic_write(self.folder / "note.json") as note:
            note.write(json.dumps({"what": self.identity, "batches": n_batches, "sizes": sizes}).encode())

    def _noted(self) -> tuple[int, dict[str, int]]:
        """How many batches of these data are whole, and the sizes of both files then; 0 where there are none."""
        try:
            note = json.loads((self.folder / "note.json").read_bytes())
            sizes = {name: int(note["sizes"][name]) for name in DRAFTED}
            whole = all((self.folder / name).stat().st_size >= size for name, size in sizes.items())
            if note["what"] == self.identity and whole:
                return int(note["batches"]), sizes
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return 0, dict.fromkeys(DRAFTED, 0)


def _publish(
    output: str | os.PathLike[str], draft: _Draft, metadata: dict[str, str], how: Preparation
) -> dict[str, int]:
    ids, lengths = draft.arrays()
    n_rows = len(lengths)
    if not n_rows:
        raise UsageError("there is nothing to train on: the files hold no line and no record")
    train, held = (np.arange(n_rows), np.empty(0, np.int64))
    if how.kind == "texts" and how.validation:
        train, held = split_order(n_rows, how.validation, how.seed)
    arrays = {
        "ids": ids,
        "starts": np.concatenate([[0], np.cumsum(lengths[:, 0], dtype=np.int64)]),
        "first_targets": np.ascontiguousarray(lengths[:, 1]),
        "train": train,
        "validation": held,
    }
    write_safetensors(output, [LazyTensor.of_array(name, array) for name, array in arrays.items()], metadata)
    targets = targets_of(lengths[:, 0], lengths[:, 1])
    counts = {"rows": n_rows, "tokens": len(ids), "targets": int(targets.sum()), "held out": len(held)}
    without = int((targets == 0).sum())
    return counts | ({"rows without a target": without} if without else {})
