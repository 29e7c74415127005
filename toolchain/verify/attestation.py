"""Statements that an output is what a step makes of its source, which another machine can check again.

The form is an in-toto Statement (v1) with a SLSA provenance predicate (v1), as JSON, so that existing tools sign and
store it unchanged. Its subjects are the output's files, its dependencies those of the source, of adapters and of an
importance matrix, each with its SHA256; its parameters are what :func:`~toolchain.verify.outputs.verify_output` needs
to derive the output anew. Names are relative to the statement's directory, with ``/``.

A statement is made only of an output that was verified, and :func:`verify_statement` believes nothing: it compares the
digests, derives the output again, and compares the verdict.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggmlpy import __version__
from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.checksums import digests
from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.files.json_files import RepeatedKey, each_key_once
from ggmlpy.files.paths import relative_to
from ggmlpy.formats.opening import open_model
from ggmlpy.verify.judge import OutputReport, Progress
from ggmlpy.verify.verdict import Verdict

from .outputs import verify_output

__all__ = ["StatementReport", "verify_statement", "write_statement"]

STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
BUILD_TYPE, BUILDER = "urn:ggmlpy:step:v1", "urn:ggmlpy"
LARGEST = 1 << 24  # bytes of a statement


@dataclass(repr=False)
class StatementReport(Verdict):
    """Whether a statement holds.

    Attributes:
        path: the statement.
        step: what it states.
        n_files: files whose digests were compared.
        wrong: what is not as it states.
        report: the output derived anew; None where the files are others already.
    """

    path: str
    step: str
    n_files: int
    wrong: list[str] = field(default_factory=list)
    report: OutputReport | None = None

    @property
    def exit_code(self) -> int:
        return 1 if self.wrong else 0

    def sentence(self) -> str:
        """The verdict in words."""
        if self.wrong:
            return f"does not hold: {self.wrong[0]}" + (f", and {len(self.wrong) - 1} more" if self.wrong[1:] else "")
        derived = self.report.sentence() if self.report else ""
        return f"holds: {self.n_files} files have the stated SHA256, and {self.step} was derived anew: {derived}"

    def lines(self, *, verbose: bool = False) -> Iterator[str]:
        """What is wrong, and the details of the output that was derived anew."""
        yield from self.wrong
        if self.report is not None and self.report.exit_code:
            yield from self.report.lines(verbose=verbose)

    def closing(self) -> str:
        """The statement and the verdict."""
        return f"{self.path}: {self.sentence()}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        derived = self.report.as_dict() if self.report else None
        facts = {"path": self.path, "step": self.step, "files": self.n_files, "wrong": self.wrong, "derived": derived}
        return {"sentence": self.sentence(), **facts}


def write_statement(
    path: str | os.PathLike[str],
    report: OutputReport,
    *,
    adapters: Sequence[str] = (),
    era: str | None = None,
    tokenizer: str | None = None,
    importance: str | None = None,
) -> None:
    """State what was verified, in the words that :func:`verify_statement` reads.

    Args:
        path: the statement to write.
        report: of :func:`~toolchain.verify.outputs.verify_output`, with these same arguments.

    Raises:
        UsageError: the output is not what it should be, so there is nothing to state.
        OutputError: it could not be written.
    """
    if report.exit_code:
        raise UsageError(f"nothing is attested of an output that {report.sentence()}")
    home = Path(path).resolve().parent
    inputs = [report.source, *adapters, *(each for each in (tokenizer, importance) if each)]
    parameters = {
        "step": report.step,
        "verdict": report.verdict,
        "era": era,
        "output": relative_to(report.output, home),
        "source": relative_to(report.source, home),
        "adapters": [relative_to(each, home) for each in adapters],
        "tokenizer": relative_to(tokenizer, home) if tokenizer else None,
        "importance": relative_to(importance, home) if importance else None,
    }
    if report.made_by:
        parameters["madeBy"] = report.made_by
    statement = {
        "_type": STATEMENT,
        "subject": _described([report.output], home),
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": parameters,
                "resolvedDependencies": _described(inputs, home),
            },
            "runDetails": {"builder": {"id": BUILDER, "version": {"ggmlpy": __version__}}},
        },
    }
    with atomic_write(path) as stream:
        stream.write(json.dumps(statement, indent=2, ensure_ascii=False).encode() + b"\n")


def _described(paths: Sequence[str], home: Path) -> list[dict[str, Any]]:
    """The files behind some paths, by name and digest."""
    files = {file.resolve(): None for path in paths for file in _files(Path(path))}
    return [{"name": relative_to(file, home), "digest": digests(file)} for file in files]


def _files(path: Path) -> list[Path]:
    """All files of a directory, of a model of several parts, or the file itself."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    try:
        with open_model(path, any_architecture=True) as model:
            return list(model.paths)
    except FormatError:
        return [path]


def verify_statement(path: str | os.PathLike[str], progress: Progress | None = None) -> StatementReport:
    """Derive a stated output anew, and compare.

    Raises:
        FormatError: it is not a statement of this program, or a file that it names can't be read.
    """
    path = Path(path)
    statement = _read(path)
    definition = statement["predicate"]["buildDefinition"]
    asked = definition["externalParameters"]
    described = [*statement["subject"], *definition["resolvedDependencies"]]
    report = StatementReport(str(path), asked["step"], len(described))
    home = path.resolve().parent
    for file in described:
        name, wanted = file["name"], file["digest"]["sha256"]
        if not (home / name).is_file():
            report.wrong.append(f"{name} is missing")
        elif digests(home / name)["sha256"] != wanted:
            report.wrong.append(f"{name} is another file: its SHA256 is not {wanted}")
    if report.wrong:
        return report
    report.report = _derived(asked, home, progress)
    stated = {_resolved(file, home) for file in statement["subject"]}
    if stated != {str(file.resolve()) for file in _files(home / asked["output"])}:
        report.wrong.append("the output has other files than those that are stated")
    if report.report.exit_code or report.report.verdict != asked["verdict"]:
        report.wrong.append(f"derived anew, the output is {report.report.sentence()}; stated: {asked['verdict']}")
    elif report.report.made_by != asked.get("madeBy", ""):
        report.wrong.append(f"it is what {report.report.made_by} makes; stated: {asked.get('madeBy', 'nothing')}")
    return report


def _resolved(file: Mapping[str, Any], home: Path) -> str:
    return str((home / file["name"]).resolve())


def _derived(asked: Mapping[str, Any], home: Path, progress: Progress | None) -> OutputReport:
    tokenizer, importance = (str(home / asked[key]) if asked[key] else None for key in ("tokenizer", "importance"))
    return verify_output(
        home / asked["output"],
        home / asked["source"],
        [home / each for each in asked["adapters"]],
        era=asked["era"],
        tokenizer=tokenizer,
        importance=importance,
        progress=progress,
    )


def _read(path: Path) -> dict[str, Any]:
    """A statement of the form that is written here.

    Raises:
        FormatError: it is not.
    """

    def no(what: str) -> FormatError:
        return FormatError(
            f"is not a statement of this program: {what}", path=path,
            cause="another tool's attestation, or a signed envelope that still has to be opened",
            next_step="`verify OUTPUT --source SOURCE --attest S.json`",
        )  # fmt: skip

    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= LARGEST else b""
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", path=path) from error
    try:
        statement = json.loads(data, object_pairs_hook=each_key_once)
    except RepeatedKey as error:
        raise no(f"its key {error.args[0]!r} has two values") from None
    except (ValueError, RecursionError):
        raise no("it is not JSON") from None
    if not _has_form(statement):
        raise no(f"it has not the form of {STATEMENT} with {BUILD_TYPE}")
    return dict(statement)


def _has_form(statement: Any) -> bool:
    try:
        definition = statement["predicate"]["buildDefinition"]
        asked, files = definition["externalParameters"], [*statement["subject"], *definition["resolvedDependencies"]]
        kinds = (statement["_type"], statement["predicateType"], definition["buildType"])
        texts = [asked["step"], asked["verdict"], asked["output"], asked["source"], *asked["adapters"]]
        texts += [text for file in files for text in (file["name"], file["digest"]["sha256"])]
        texts += [asked[key] for key in ("era", "tokenizer", "importance") if asked[key] is not None]
    except (KeyError, TypeError, IndexError):
        return False
    fine = all(isinstance(text, str) and "\0" not in text for text in texts) and bool(statement["subject"])
    return fine and kinds == (STATEMENT, PREDICATE, BUILD_TYPE)
