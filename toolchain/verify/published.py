"""Is this file the one that was published? By SHA256, by the lists that travel with a model, and by content.

A digest says only *whether* two files are the same bytes. What people want to know when it differs is *why*
(Chinese-LLaMA-Alpaca issues 528, 598, 617, 709, 816): another container around the same tensors, another layout for
which nothing was published, JSON written by another version, or really other content. So where a digest is not in the
table, the tensors are looked at:

* A model of a published shape is written once more, into a digest instead of a file, as torch 1.13 would have written
  it in Meta's layout; if that digest is in the table, the tensors are those of the published model.
* Where several things were given, their content fingerprints are compared.

Files are read in one pass, four megabytes at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ggmlpy.files.checksums import LIST_NAMES, Listed, digests, read_list, same_json_meaning
from ggmlpy.files.errors import FormatError, IntegrityError, MissingFileError
from ggmlpy.files.npy import ZIP_TROUBLE
from ggmlpy.verify.verdict import Table, Verdict
from llama_ref.checkpoint import known_files, open_checkpoint
from llama_ref.checkpoint.known_files import KnownFile, files_of
from llama_ref.checkpoint.params import read_params_json
from toolchain.look.values import warnings_of

from .fingerprint import content_fingerprint
from .published_tensors import published_model_of, published_shard_of, structure_of, weight_files

__all__ = ["FileVerdict", "PublishedReport", "bytes_to_read", "verify"]

Status = Literal[
    "published", "listed", "same content", "same meaning", "no reference", "unknown", "differs", "missing", "bad"
]
GOOD: tuple[Status, ...] = ("published", "listed", "same content", "same meaning", "no reference")
SUFFIXES = (".pth", ".bin", ".safetensors", ".zip", ".model", ".pt")
DEEPEST = 3
MOST_UNPACKED = 1 << 37  # 128 GiB: larger than any published archive

Progress = Callable[[int], object]


@dataclass
class FileVerdict:
    """What is known about one file.

    Attributes:
        path: the file (for a member of a zip: archive and member).
        size: its bytes.
        sha256: its digest; "" where it could not be read.
        status: see :data:`Status`; the first five are good news.
        words: the verdict in a sentence.
        known: the published file that it is, or has the tensors of.
    """

    path: Path
    size: int
    sha256: str
    status: Status
    words: str
    known: KnownFile | None = None


@dataclass(repr=False)
class PublishedReport(Verdict):
    """All verdicts, and what they say together.

    Attributes:
        verdicts: one per file.
        notes: complete and incomplete models, pairs with the same content.
    """

    verdicts: list[FileVerdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: everything is verified; 1: something differs or is not known; 3: something is bad or missing."""
        statuses = {verdict.status for verdict in self.verdicts}
        if statuses & {"bad", "missing"}:
            return 3
        return 1 if statuses & {"unknown", "differs"} else 0

    def sentence(self) -> str:
        """How many files have which status."""
        counts = Counter(verdict.status for verdict in self.verdicts)
        return ", ".join(f"{count} {status}" for status, count in counts.items()) or "nothing to verify"

    def lines(self, *, verbose: bool = False) -> Iterator[str]:
        """Each file's verdict, with its digest where somebody will want to look for it; the notes."""
        for verdict in self.verdicts:
            yield f"{verdict.status:<13} {verdict.path}"
            yield f"{'':<13} {verdict.words}"
            if verbose or verdict.status in ("unknown", "differs", "no reference"):
                yield f"{'':<13} sha256 {verdict.sha256}, {verdict.size:,} bytes"
        yield from self.notes

    def closing(self) -> str:
        """Nothing: each file has its own verdict."""
        return ""

    def cases(self) -> dict[str, str]:
        """One test case per file."""
        return {str(v.path): "" if v.status in GOOD else f"{v.status}: {v.words}" for v in self.verdicts}

    def table(self) -> Table:
        """Each file's verdict."""
        return ["file", "status", "verdict"], [[str(v.path), v.status, v.words] for v in self.verdicts]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"files": [asdict(verdict) for verdict in self.verdicts], "notes": self.notes}


def bytes_to_read(paths: Iterable[str | os.PathLike[str]]) -> int:
    """How much the first pass of :func:`verify` will read: the total of its progress."""
    return sum(path.stat().st_size for path in _files(paths) if path.is_file())


def verify(paths: Sequence[str | os.PathLike[str]], progress: Progress | None = None) -> PublishedReport:
    """Verify files, directories (three levels deep) and zip archives.

    Args:
        paths: what to look at.
        progress: called with the number of bytes after each piece.

    Raises:
        MissingFileError: a path that was named does not exist.
    """
    files = _files(paths)
    listed, problems = _promises(files, paths)
    files += _only_listed(files, listed)
    report = PublishedReport(problems)
    for path in files:
        if not LIST_NAMES.fullmatch(path.name):
            report.verdicts += _verdicts(path, listed.get(_key(path), []), progress, named=_is_named(path, paths))
    for promise in itertools.chain.from_iterable(listed.values()):
        if not promise.path.exists():
            report.verdicts.append(_absent(promise))
    _look_at_content(report, progress)
    _compare_each_other(report, paths, progress)
    report.notes += _completeness(report.verdicts)
    report.notes += _unsound_values(report.verdicts)
    return report


def _unsound_values(verdicts: Iterable[FileVerdict]) -> Iterator[str]:
    """What is to be said of the values of files that nobody published."""
    for verdict in verdicts:
        if verdict.status in ("unknown", "no reference", "differs") and verdict.path.is_file():
            with contextlib.suppress(FormatError):  # no weights, or a file whose verdict says what is wrong
                yield from warnings_of(verdict.path)


# ------------------------------------------------------------------------------------------------------ which files


def _files(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files to look at, each once, in order."""
    found: dict[str, Path] = {}
    for given in map(Path, paths):
        if not given.exists():
            raise MissingFileError("no such file or directory", path=given, next_step=f"ls {given.parent}")
        for path in _walk(given) if given.is_dir() else [given]:
            found.setdefault(_key(path), path)
    return list(found.values())


def _walk(directory: Path, depth: int = 0) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.is_dir() and not path.is_symlink():
            if depth < DEEPEST:
                yield from _walk(path, depth + 1)
        elif path.is_file() and (_is_weight(path) or path.name == "params.json" or LIST_NAMES.fullmatch(path.name)):
            yield path


def _is_weight(path: Path) -> bool:
    is_part = path.suffix[1:].isdigit() and path.stem.endswith(".bin")  # ggml-model-f16.bin.1
    return (path.suffix in SUFFIXES or is_part) and path.stat().st_size > 0


def _key(path: Path) -> str:
    return os.path.realpath(path)


def _is_named(path: Path, paths: Iterable[str | os.PathLike[str]]) -> bool:
    return any(_key(path) == _key(Path(given)) for given in paths)


def _promises(
    files: Iterable[Path], paths: Iterable[str | os.PathLike[str]]
) -> tuple[dict[str, list[Listed]], list[FileVerdict]]:
    """The digests that lists promise, by file; lists beside a named file count too."""
    lists = {_key(path): path for path in files if LIST_NAMES.fullmatch(path.name)}
    for given in map(Path, paths):
        if given.is_file():
            lists.update({_key(p): p for p in given.parent.iterdir() if p.is_file() and LIST_NAMES.fullmatch(p.name)})
    promised: dict[str, list[Listed]] = {}
    bad = []
    wanted = {_key(path) for path in files}
    for path in lists.values():
        try:
            for promise in read_list(path):
                if _key(promise.path) in wanted or _covers(path, paths):
                    promised.setdefault(_key(promise.path), []).append(promise)
        except FormatError as error:
            bad.append(FileVerdict(path, path.stat().st_size, "", "bad", str(error)))
    return promised, bad


def _only_listed(files: Iterable[Path], listed: dict[str, list[Listed]]) -> list[Path]:
    """Files that a list names and that are there, but that are nothing of a model by their names."""
    seen = {_key(path) for path in files}
    return [promises[0].path for key, promises in listed.items() if key not in seen and promises[0].path.is_file()]


def _covers(path: Path, paths: Iterable[str | os.PathLike[str]]) -> bool:
    """Whether a list was given itself or lies in a given directory; then all that it lists must be there."""
    return any(_key(path) == _key(Path(p)) or (Path(p).is_dir() and _is_inside(path, Path(p))) for p in paths)


def _is_inside(path: Path, directory: Path) -> bool:
    return Path(_key(path)).is_relative_to(_key(directory))


# --------------------------------------------------------------------------------------------------- by the digest


def _verdicts(path: Path, promises: list[Listed], progress: Progress | None, *, named: bool) -> list[FileVerdict]:
    """The verdict on a file; on the members of a zip too, where the archive itself is not a published one."""
    algorithms = tuple({"sha256", *(promise.algorithm for promise in promises)})
    size = path.stat().st_size
    try:
        found = digests(path, algorithms, progress)
    except FormatError as error:
        return [FileVerdict(path, size, "", "bad", str(error))]
    sha256 = found["sha256"]
    known = known_files.BY_SHA256.get(sha256)
    if known:
        return [FileVerdict(path, size, sha256, "published", _published(known), known)]
    if promises:
        return [_by_list(path, size, found, promise) for promise in promises]
    if path.name == "params.json":
        return _params_verdict(path, size, sha256, named)
    if path.suffix == ".zip":
        return [_unknown(path, size, sha256), *_members(path)]
    return [_unknown(path, size, sha256)]


def _published(known: KnownFile) -> str:
    shards = files_of(known.model)
    words = known.model
    if len(shards) > 1:
        words += f", file {[k.sha256 for k in shards].index(known.sha256) + 1} of {len(shards)}"
    return f"{words} (listed by {known.listed_by})" if known.listed_by else words


def _by_list(path: Path, size: int, found: dict[str, str], promise: Listed) -> FileVerdict:
    sha256 = found["sha256"]
    if found[promise.algorithm] == promise.digest:
        return FileVerdict(path, size, sha256, "listed", f"as {promise.source.name} says ({promise.algorithm})")
    if path.suffix == ".json" and same_json_meaning(path, promise.algorithm, promise.digest):
        words = f"the same values as {promise.source.name} promises, formatted otherwise"
        return FileVerdict(path, size, sha256, "same meaning", words)
    words = (
        f"{promise.source.name} promises {promise.algorithm} {promise.digest}, found {found[promise.algorithm]}: "
        "the file was changed or the download is broken; fetch it again"
    )
    return FileVerdict(path, size, sha256, "differs", words)


def _params_verdict(path: Path, size: int, sha256: str, named: bool) -> list[FileVerdict]:
    """params.json by its meaning; nothing is published of its bytes."""
    try:
        params = read_params_json(path)
    except FormatError as error:
        return [FileVerdict(path, size, sha256, "bad", str(error))]
    published = params.size
    if published and (params.n_mult, params.eps) == (published.n_mult, published.norm_eps) and params.n_vocab == -1:
        return [FileVerdict(path, size, sha256, "same meaning", f"the values of LLaMA-{published.name}")]
    return [FileVerdict(path, size, sha256, "no reference", "not the values of a published model")] if named else []


def _absent(promise: Listed) -> FileVerdict:
    return FileVerdict(promise.path, 0, "", "missing", f"{promise.source.name} lists it, and it is not there; fetch it")


def _unknown(path: Path, size: int, sha256: str) -> FileVerdict:
    return FileVerdict(path, size, sha256, "unknown", "no published file has this SHA256")


def _members(path: Path) -> list[FileVerdict]:
    """The members of an archive that could be published files."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if Path(info.filename).suffix in SUFFIXES]
            if sum(info.file_size for info in members) > MOST_UNPACKED:
                raise IntegrityError("the archive claims to hold more than 128 GiB", path=path)
            return [_member(path, archive, info) for info in members]
    except FormatError as error:
        return [FileVerdict(path, path.stat().st_size, "", "bad", str(error))]
    except ZIP_TROUBLE as error:
        return [FileVerdict(path, path.stat().st_size, "", "bad", f"the zip archive is damaged: {error}")]


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> FileVerdict:
    sha = hashlib.sha256()
    left = info.file_size
    with archive.open(info) as stream:
        while chunk := stream.read(1 << 22):
            left -= len(chunk)
            if left < 0:
                raise IntegrityError(f"{info.filename} unpacks to more than it says", path=path)
            sha.update(chunk)
    inside = path / info.filename
    known = known_files.BY_SHA256.get(sha.hexdigest())
    if known:
        return FileVerdict(inside, info.file_size, sha.hexdigest(), "published", _published(known), known)
    return _unknown(inside, info.file_size, sha.hexdigest())


# -------------------------------------------------------------------------------------------------- by the content


def _look_at_content(report: PublishedReport, progress: Progress | None) -> None:
    """For weights that the table does not have: whole or damaged, and are the tensors those of a published model?"""
    candidates = [verdict for verdict in report.verdicts if verdict.status == "unknown" and verdict.path.is_file()]
    for directory in sorted({verdict.path.parent for verdict in candidates}):
        unknown = [verdict for verdict in candidates if verdict.path.parent == directory]
        weights = weight_files(directory)
        parts = [verdict for verdict in unknown if verdict.path in weights and verdict.path.suffix != ".pth"]
        if parts and len(parts) == len(weights):
            _judge_huggingface(directory, parts, progress)
        for verdict in unknown:
            if verdict.status == "unknown":
                _judge_file(verdict, progress)


def _judge_huggingface(directory: Path, verdicts: list[FileVerdict], progress: Progress | None) -> None:
    """A model in Hugging Face's layout: nothing is published of its files, but perhaps of its tensors."""
    try:
        with open_checkpoint(directory) as checkpoint:
            known = published_model_of(checkpoint, progress)
    except MissingFileError:
        return
    except FormatError as error:
        for verdict in verdicts:
            verdict.status, verdict.words = "bad", str(error)
        return
    words = "no reference published for this layout"
    for verdict in verdicts:
        if known:
            verdict.status, verdict.known = "same content", known[0]
            verdict.words = f"{words}; same tensors as {known[0].model}"
        else:
            _judge_file(verdict, progress)
    for verdict in verdicts:
        if verdict.status == "unknown":
            published = "the published SHA256 are those of Meta's .pth and of the originals' pytorch_model-*.bin"
            verdict.status, verdict.words = "no reference", f"{words}: {published}"


def _judge_file(verdict: FileVerdict, progress: Progress | None) -> None:
    """One file: the tensors of a published one, or at least whole?"""
    try:
        known = published_shard_of(verdict.path, progress)
        whole = "" if known else structure_of(verdict.path)
    except FormatError as error:
        verdict.status, verdict.words = "bad", str(error)
        return
    if known:
        verdict.status, verdict.known = "same content", known
        verdict.words = f"same tensors as {_published(known)}, other container: another torch.save wrote this file"
    elif whole:
        verdict.words += f"; the file itself is whole ({whole})"


# ------------------------------------------------------------------------------------------------- with each other


def _compare_each_other(
    report: PublishedReport, paths: Sequence[str | os.PathLike[str]], progress: Progress | None
) -> None:
    """Two or more things given, some of them not verified: which have the same content?"""
    given = [Path(path) for path in paths]
    if len(given) < 2 or all(verdict.status in GOOD[:2] for verdict in report.verdicts):
        return
    prints: dict[str, list[Path]] = {}
    for path in given:
        try:
            prints.setdefault(content_fingerprint(path, progress), []).append(path)
        except (FormatError, OSError):
            continue
    for same in prints.values():
        if len(same) > 1:
            what = "same tensors, other container" if _digests(report, same) != 1 else "identical bytes"
            report.notes.append(f"{what}: {' and '.join(map(str, same))}")
            _mark_same(report, same)
    if len(prints) > 1:
        one_of_each = [str(same[0]) for same in prints.values()]
        report.notes.append(f"different tensors: {' and '.join(one_of_each)} (`compare` shows where)")


def _mark_same(report: PublishedReport, same: Sequence[Path]) -> None:
    """Unpublished weights get the words, and a good status only if one of their like is published."""
    for verdict in report.verdicts:
        home = next((path for path in same if _belongs(verdict.path, path)), None)
        if home is None or verdict.status != "unknown" or verdict.path.suffix in (".model", ".zip"):
            continue
        others = ", ".join(str(path) for path in same if path != home)
        alike = _digests(report, same) == 1
        verdict.words = f"identical bytes: {others}" if alike else f"same tensors as {others}, other container"
        if _has_reference(report, same):
            verdict.status = "same content"


def _digests(report: PublishedReport, given: Sequence[Path]) -> int:
    """How many different files these are; directories are as many as they are."""
    known = {_key(verdict.path): verdict.sha256 for verdict in report.verdicts}
    return len({known.get(_key(path)) or _key(path) for path in given})


def _belongs(path: Path, given: Path) -> bool:
    return _key(path) == _key(given) or (given.is_dir() and _is_inside(path, given))


def _has_reference(report: PublishedReport, same: Sequence[Path]) -> bool:
    """Whether the weights of one of those with the same content are published ones."""
    weights = [v for v in report.verdicts if v.known and v.known.kind != "tokenizer"]
    return any(_belongs(verdict.path, path) for verdict in weights for path in same)


def _completeness(verdicts: Sequence[FileVerdict]) -> list[str]:
    """One line a published model of several files: all there, or which are missing."""
    notes = []
    present: dict[str, set[str]] = {}
    for verdict in verdicts:
        if verdict.known and verdict.status == "published":
            present.setdefault(verdict.known.model, set()).add(verdict.known.name)
    for model, names in present.items():
        wanted = [known.name for known in files_of(model)]
        missing = [name for name in wanted if name not in names]
        if len(wanted) > 1:
            notes.append(f"{model}: {', '.join(missing)} missing" if missing else f"{model}: all {len(wanted)} files")
    return notes
