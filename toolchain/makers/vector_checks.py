"""Checking another program: run it over the inputs of the golden vectors and verify each output, with its cause.

:func:`check_vectors` takes a directory that :func:`toolchain.makers.vectors.make_vectors` filled.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.formats.opening import open_model
from ggmlpy.verify.verdict import Table, Verdict
from llama_ref.text.main_loop import MainOptions
from toolchain.verify.logits import verify_logits
from toolchain.verify.outputs import verify_output
from toolchain.verify.programs import run_program, words_of
from toolchain.verify.text import TextRequest, verify_text

from .vector_cases import KINDS, Case
from .vectors import Progress, digests_below, read_manifest

__all__ = ["CaseResult", "CheckReport", "check_vectors"]

TIMEOUT = 600.0


@dataclass(frozen=True)
class CaseResult:
    """What another program made of one case.

    Attributes:
        status: "identical bytes", "identical content", "differs", "failed", "timed out", "too much" or "no output".
        words: the verdict, or what the program said last.
        causes: what verify found out.
    """

    case: Case
    status: str
    words: str = ""
    causes: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        return self.status.startswith("identical")

    def __str__(self) -> str:
        lines = [f"{self.status:<17} {self.case.output}" + (f": {self.words}" if self.words else "")]
        return "\n".join(lines + [f"{'':<17} likely cause: {cause}" for cause in self.causes])


@dataclass(repr=False)
class CheckReport(Verdict):
    """The results of :func:`check_vectors`."""

    directory: str
    command: str
    results: list[CaseResult] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 if every output is right, 1 if one is not."""
        return 0 if all(result.right for result in self.results) else 1

    def sentence(self) -> str:
        """How many are right."""
        right = sum(result.right for result in self.results)
        identical = sum(result.status == "identical bytes" for result in self.results)
        return f"{right} of {len(self.results)} right, {identical} of them byte for byte"

    def lines(self, *, verbose: bool = False) -> Iterator[str]:
        """The cases that are not right."""
        yield from (str(result) for result in self.results if verbose or not result.right)

    def suite(self) -> str:
        """The command that was run."""
        return self.command

    def cases(self) -> dict[str, str]:
        """One test case per case."""
        return {result.case.output: "" if result.right else str(result) for result in self.results}

    def table(self) -> Table:
        """Each case."""
        return ["case", "status", "verdict"], [[r.case.output, r.status, r.words] for r in self.results]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        results = [
            {
                **asdict(r),
                "case": r.case.output,
                "kind": r.case.kind,
                "options": r.case.options,
            }
            for r in self.results
        ]
        return {"directory": self.directory, "command": self.command, "sentence": self.sentence(), "results": results}


def check_vectors(
    directory: str | os.PathLike[str],
    command: str,
    *,
    kind: str = "quantize",
    era: str | None = None,
    match: str = "*",
    timeout: float = TIMEOUT,
    shell: bool = False,
    progress: Progress | None = None,
) -> CheckReport:
    """Run another program over all cases of a step and verify what it makes.

    Args:
        command: with {in} and {out} where the paths go (without {out}, stdout is the output), and what the case asks
            for: {type} {ftype} {era} (quantize), {outtype} {container} {era} (convert), {container} (migrate), {lora}
            {output_type} (merge), {tokens} {build} {batch} {kv} (logits), {prompt} {seed} {n_predict} {temp}
            {top_k} {repeat_penalty} {build} (text).
        kind: the step, one of :data:`KINDS`.
        era: only cases of this era.
        match: only cases whose output's name fits this pattern, such as ``quantize/*/q4_0.bin``.
        timeout: seconds for each case.
        shell: hand the command to the shell (for pipes and redirections); else its words are taken as they are.
        progress: called with the cases done so far and their number.

    Raises:
        UsageError: no such kind, no such case, or a name in braces that these cases don't have.
        FormatError: something is wrong with the directory.
    """
    if kind not in KINDS:
        raise UsageError(f"no step called {kind!r}; there are {', '.join(KINDS)}")
    chosen = [case for case in read_manifest(directory) if case.kind == kind and _matches(case, era, match)]
    if not chosen:
        raise UsageError(f"no {kind} cases" + (f" of era {era}" if era else "") + f" named {match}")
    root = Path(directory).resolve()
    report = CheckReport(os.fspath(directory), command)
    for case in chosen:
        words_of(command, _values(root, case, Path("out")), shell)  # refuses unknown names before anything runs
    for done, case in enumerate(chosen, 1):
        with tempfile.TemporaryDirectory(prefix="vectors-") as folder:
            out = Path(folder) / Path(case.output).name
            report.results.append(_checked(root, case, out, command, timeout, shell))
        if progress:
            progress(done, len(chosen))
    return report


def _matches(case: Case, era: str | None, match: str) -> bool:
    return era in (None, case.options.get("era")) and fnmatch(case.output, match)


def _values(root: Path, case: Case, out: Path) -> dict[str, str]:
    lora = ",".join(str(root / name) for name in case.adapters)
    return {**case.placeholders(), "in": str(root / case.source), "out": str(out), "lora": lora}


def _checked(root: Path, case: Case, out: Path, command: str, timeout: float, shell: bool) -> CaseResult:
    ended = run_program(words_of(command, _values(root, case, out), shell), timeout, out)
    if ended.status:
        return CaseResult(case, ended.status, ended.problem)
    if "{out}" not in command:
        out.write_bytes(ended.stdout)
    if not out.exists():
        return CaseResult(case, "no output", f"{out.name} was not written")
    return _judged(root, case, out)


def _judged(root: Path, case: Case, out: Path) -> CaseResult:
    wanted = {name: it["sha256"] for name, it in case.files.items()}
    found = digests_below(out.parent, [out])
    renamed = {case.output + name.removeprefix(out.name): it["sha256"] for name, it in found.items()}
    if renamed == wanted:
        return CaseResult(case, "identical bytes")
    try:
        return _verified(root, case, out)
    except (FormatError, UsageError) as error:
        return CaseResult(case, "differs", str(error).replace(str(out), out.name))


def _verified(root: Path, case: Case, out: Path) -> CaseResult:
    """What verify says of an output that is not the same bytes."""
    asked, source = case.options, root / case.source
    if case.kind == "logits":
        how = {name: asked[name] for name in ("era", "build", "memory_f32")}
        tokens = list(map(int, asked["tokens"].split(",")))
        found = verify_logits(out, source, tokens, batch=asked["batch"] or len(tokens), **how)
        return _result(case, found.exit_code, found.sentence(), found.causes)
    if case.kind == "text":
        options = MainOptions(prompt=asked["prompt"].encode(), n_predict=asked["n_predict"])
        request = TextRequest(options, case.sampling(), asked["repeat_penalty"], memory_f32=asked["memory_f32"])
        text = verify_text(out, source, request, era=asked["era"], build=asked["build"])
        return _result(case, text.exit_code, text.sentence(), [])
    other = "; ".join(_not_as_asked(root / case.output, out))
    if other:
        return CaseResult(case, "differs", other)
    adapters: Sequence[Path] = [root / name for name in case.adapters]
    era = asked.get("era") if case.kind in ("convert", "quantize", "merge") else None
    report = verify_output(out, source, adapters, era=era)
    return _result(case, report.exit_code, report.sentence(), [str(cause) for cause in report.causes])


def _not_as_asked(wanted: Path, out: Path) -> Iterator[str]:
    """How container and types differ from what the step was asked for; verify takes them as they come."""
    if wanted.is_dir() or out.is_dir():
        yield from ["a file instead of a directory"] if out.is_file() else []
        yield from ["a directory instead of a file"] if wanted.is_file() else []
        return
    with open_model(wanted) as ours, open_model(out) as theirs:
        if ours.format_name != theirs.format_name:
            yield f"container {theirs.format_name} instead of {ours.format_name}"
        for name, tensor in ours.tensors.items():
            found = theirs.tensors.get(name, tensor)
            if found.type.layout != tensor.type.layout:
                yield f"{name} is {found.type.layout} instead of {tensor.type.layout}"
                return


def _result(case: Case, exit_code: int, words: str, causes: Sequence[str]) -> CaseResult:
    """``exit_code`` 0: right, though some file beside it, or its container, is not the same."""
    status = "differs" if exit_code else "identical content"
    return CaseResult(case, status, "" if words.startswith("identical bytes") else words, tuple(causes))
