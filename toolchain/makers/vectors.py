"""Golden vectors for other programs: a family of tiny files made from a seed, and what each step must make of them.

:func:`make_vectors` fills a directory::

    manifest.json          every file: its digest, its size, how it was made, and the command that makes it again
    base/…                 checkpoints in Meta's layout: f16, f32, bf16, two shards, one wide enough for k-quants
    adapters/…             LoRA adapters in several spellings, one that grows the vocabulary, one as a ZIP
    to-hf/… merge/…        what these steps make of them
    convert/… quantize/…   GGML files in every container, type and era
    migrate/…
    logits/… text/…        what a model computes and writes, by era and build

:func:`check_vectors` runs another program over the inputs of a step and verifies each output, with its cause where it
is wrong. A *case* is one such output.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import FormatError, IntegrityError, MissingFileError, UsageError
from ggmlpy.files.paths import stays_inside
from ggmlpy.formats.containers import container_named
from ggmlpy.formats.eras import AUGUST_21, DEFAULT_ERA, ERAS, GGUF_ERA
from ggmlpy.formats.file_types import file_type_of, file_types
from ggmlpy.formats.migrate import migrate
from ggmlpy.formats.opening import open_model
from ggmlpy.quantizers.whole_file import quantize_file
from ggmlpy.verify.verdict import Table, Verdict
from llama_ref.arithmetic.exact.backend import SUPPORTED
from llama_ref.conversion.checkpoints import plan_to_hf
from llama_ref.conversion.ggml import plan_conversion
from llama_ref.text.conversation import Conversation
from llama_ref.text.logits import logits, write_logits
from llama_ref.text.main_loop import MainLoop, MainOptions
from llama_ref.text.model import Model
from llama_ref.text.sampling import SamplingOptions
from lora.merging.merge import merge
from toolchain.terminal.console import TerminalConsole, lines_of
from toolchain.terminal.program import SOURCE_TREE
from toolchain.verify.logits import verify_logits
from toolchain.verify.step import verify_output
from toolchain.verify.text import TextRequest, verify_text

from .tiny_models import SHAPES, write_adapter, write_checkpoint, zip_directory

__all__ = ["KINDS", "Case", "CaseResult", "CheckReport", "cases", "check_vectors", "make_vectors", "read_manifest"]

KINDS = ("convert", "quantize", "migrate", "merge", "to-hf", "logits", "text")
MANIFEST = "manifest.json"
TOKENS = (1, *range(259, 283))
PROMPT, SEED, N_PREDICT = "hello world", 2, 100
TEMP, TOP_K, PENALTY = 1.5, 200, 1.1  # hot enough for the builds' texts to part
TIMEOUT = 600.0
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Case:
    """One output that a step must make.

    Attributes:
        kind: the step, one of :data:`KINDS`.
        output, source: paths below the directory; a file or a directory each.
        options: what the step is asked for: era, type, container, outtype, build, batch, memory_f32 …
        adapters: of a merge, in order.
        files: digest and size of each file of the output, once it is made.
    """

    kind: str
    output: str
    source: str
    options: dict[str, Any] = field(default_factory=dict)
    adapters: tuple[str, ...] = ()
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """The command of ours that makes it, to be run in the directory."""
        return f"{SOURCE_TREE} " + shlex.join(_COMMANDS[self.kind](self))

    def placeholders(self) -> dict[str, str]:
        """What a check's command may name in braces, beside {in} and {out}."""
        words = {name: str(value) for name, value in self.options.items() if name != "memory_f32"}
        if self.kind == "logits":
            words["batch"] = str(self.options["batch"] or len(TOKENS))
            words["kv"] = "32" if self.options["memory_f32"] else "16"
        if self.kind == "quantize":
            words["ftype"] = str(file_type_of(words["type"], words["era"]).id)
        return words


def _era_words(case: Case) -> list[str]:
    return ["--era", case.options["era"]]


def _arithmetic_words(case: Case) -> list[str]:
    cache = ["--memory-f32"] if case.options["memory_f32"] else []
    return [*_era_words(case), "--numerics", "exact", "--build", case.options["build"], *cache]


def _logits_words(case: Case) -> list[str]:
    batch = ["--batch", str(case.options["batch"])] if case.options["batch"] else []
    return ["logits", "-m", case.source, "--tokens", case.options["tokens"], "--out", case.output, *batch,
            *_arithmetic_words(case), "-t", "1"]  # fmt: skip


def _text_words(case: Case) -> list[str]:
    asked = case.options
    sampling = [word for name in ("seed", "n_predict", "temp", "top_k", "repeat_penalty")
                for word in (f"--{name}", str(asked[name]))]  # fmt: skip
    return ["generate", "-m", case.source, "-p", asked["prompt"], *sampling, *_arithmetic_words(case),
            "--memory-f16", "-t", "1", "-q"]  # fmt: skip


_COMMANDS: dict[str, Callable[[Case], list[str]]] = {
    "convert": lambda case: ["convert", case.source, "--outfile", case.output, *_era_words(case),
                             "--outtype", case.options["outtype"], "--container", case.options["container"]],
    "quantize": lambda case: ["quantize", case.source, case.output, case.options["type"], *_era_words(case)],
    "migrate": lambda case: ["migrate", case.source, case.output, "--container", case.options["container"]],
    "merge": lambda case: ["merge", "--base", case.source, "--lora", ",".join(case.adapters), "--output", case.output,
                           "--output-type", case.options["output_type"]],
    "to-hf": lambda case: ["to-hf", case.source, case.output],
    "logits": _logits_words,
    "text": _text_words,
}  # fmt: skip


# ── which cases there are ────────────────────────────────────────────────────────────────────────────────────────────

CHECKPOINTS: dict[str, dict[str, Any]] = {
    "base/f16": {"shape": "tiny"},
    "base/f32": {"shape": "tiny", "dtype": "float32"},
    "base/bf16": {"shape": "tiny", "dtype": "bfloat16"},
    "base/two-shards": {"shape": "tiny", "shards": 2},
    "base/wide": {"shape": "wide"},
}
ADAPTERS: dict[str, dict[str, Any]] = {
    "adapters/peft": {},
    "adapters/by-hand": {"spelling": "by-hand", "weights": "safetensors", "dtype": "float32", "alpha": 6},
    "adapters/bare": {"spelling": "bare", "rank": 3},
    "adapters/grown": {"grown": True},
}
ZIPPED = "adapters/peft.zip"


def cases() -> list[Case]:
    """Every case, in an order in which each source is made before it is used."""
    return [*_conversions(), *_quantizations(), *_migrations(), *_merges(), *_logits(), *_texts()]


def _conversions() -> Iterator[Case]:
    yield Case("to-hf", "to-hf/f16", "base/f16")
    for era in ERAS.values():
        container = {"ggml": "ggml", "ggmf": "ggmf1"}.get(era.container, "ggjt1")  # convert.py never wrote ggjt v2, v3
        yield _conversion(f"convert/{era.date}/f16.bin", "base/f16", era.date, container)
    yield _conversion("convert/gguf/f16.gguf", "base/f16", GGUF_ERA, "gguf")
    yield _conversion("convert/2023-08-21/wide-f16.bin", "base/wide", AUGUST_21.date, "ggjt1")
    for name in ("f32", "bf16", "two-shards"):
        yield _conversion(f"convert/{DEFAULT_ERA}/from-{name}.bin", f"base/{name}", DEFAULT_ERA, "ggjt1")
    yield _conversion(f"convert/{DEFAULT_ERA}/from-hf.bin", "to-hf/f16", DEFAULT_ERA, "ggjt1")
    yield _conversion(f"convert/{DEFAULT_ERA}/f32.bin", "base/f32", DEFAULT_ERA, "ggjt1", "f32")


def _conversion(output: str, source: str, era: str, container: str, outtype: str = "f16") -> Case:
    return Case("convert", output, source, {"era": era, "container": container, "outtype": outtype})


def _quantizations() -> Iterator[Case]:
    for era in ERAS:
        for record in file_types(era).values():
            source = f"convert/{era}/{'wide-' if record.is_k_quant else ''}f16.bin"
            if record.name not in ("F32", "F16"):
                name = record.name.lower()
                yield Case("quantize", f"quantize/{era}/{name}.bin", source, {"era": era, "type": name})
    for name in ("q4_0", "q5_1", "q8_0"):
        asked = {"era": AUGUST_21.date, "type": name}
        yield Case("quantize", f"quantize/gguf/{name}.gguf", "convert/gguf/f16.gguf", asked)


def _migrations() -> Iterator[Case]:
    for container in ("ggmf1", "ggjt1"):
        yield Case("migrate", f"migrate/{container}.bin", "quantize/2023-03-19/q4_0.bin", {"container": container})
    yield Case("migrate", "migrate/gguf.gguf", "quantize/2023-08-21/q4_0.bin", {"container": "gguf"})


def _merges() -> Iterator[Case]:
    for name in (*ADAPTERS, ZIPPED):
        short = name.partition("/")[2].replace(".", "-")
        yield Case("merge", f"merge/{short}", "base/f16", {"output_type": "pth", "era": DEFAULT_ERA}, (name,))
    both = ("adapters/by-hand", "adapters/grown")
    yield Case("merge", "merge/two-adapters", "base/f16", {"output_type": "pth", "era": DEFAULT_ERA}, both)
    yield Case("merge", "merge/huggingface", "base/f16", {"output_type": "huggingface", "era": DEFAULT_ERA}, both)
    q4_0 = {"output_type": "ggml-q4_0", "era": DEFAULT_ERA}
    yield Case("merge", "merge/q4_0.bin", "base/f16", q4_0, ("adapters/grown",))


def _logits() -> Iterator[Case]:
    for era, builds in SUPPORTED.items():
        for build in builds:
            for memory_f32 in (False, True):
                for batch in (1, None) if build != "scalar" else (None,):
                    cache, how = "kv32" if memory_f32 else "kv16", "loop" if batch else "batch"
                    asked = {"era": era, "build": build, "memory_f32": memory_f32, "batch": batch}
                    asked["tokens"] = ",".join(map(str, TOKENS))
                    yield Case("logits", f"logits/{era}-{build}-{cache}-{how}.npy", f"quantize/{era}/q4_0.bin", asked)


def _texts() -> Iterator[Case]:
    for era, builds in SUPPORTED.items():
        for build in builds if era == DEFAULT_ERA else builds[:1]:
            asked = {"era": era, "build": build, "memory_f32": False, "prompt": PROMPT, "seed": SEED}
            asked |= {"n_predict": N_PREDICT, "temp": TEMP, "top_k": TOP_K, "repeat_penalty": PENALTY}
            yield Case("text", f"text/{era}-{build}.txt", f"quantize/{era}/q4_0.bin", asked)


# ── making them ──────────────────────────────────────────────────────────────────────────────────────────────────────


def make_vectors(
    directory: str | os.PathLike[str], seed: int = 0, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Fill a new or empty directory and return its manifest.

    Args:
        progress: called with the cases made so far and their number.

    Raises:
        UsageError: the directory has something in it.
    """
    root = Path(directory)
    if root.exists() and any(root.iterdir()):
        raise UsageError(f"{root} is not empty: name a new directory")
    for name, how in CHECKPOINTS.items():
        write_checkpoint(root / name, SHAPES[how["shape"]], seed, how.get("dtype", "float16"), how.get("shards", 1))
    for index, (name, options) in enumerate(ADAPTERS.items()):
        write_adapter(root / name, SHAPES["tiny"], seed + 1 + index, **options)
    zip_directory(root / "adapters/peft", root / ZIPPED)
    inputs = _digests(root, [root / "base", root / "adapters"])
    todo, made = cases(), []
    for done, case in enumerate(todo, 1):
        (root / case.output).parent.mkdir(parents=True, exist_ok=True)
        _MAKERS[case.kind](root, case)
        made.append({**asdict(case), "files": _digests(root, [root / case.output]), "command": case.command})
        if progress:
            progress(done, len(todo))
    manifest = {"made_by": f"{SOURCE_TREE} vectors make {root.name} --seed {seed}", "inputs": inputs, "cases": made}
    with atomic_write(root / MANIFEST) as stream:
        stream.write((json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())
    return manifest


def _digests(root: Path, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Digest and size of each file, by its name below ``root``."""
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                data = file.read_bytes()
                found[file.relative_to(root).as_posix()] = {"sha256": sha256(data).hexdigest(), "size": len(data)}
    return found


def _make_conversion(root: Path, case: Case) -> None:
    with plan_conversion(root / case.source, root / case.output, **case.options) as plan:
        plan.write()


def _make_migration(root: Path, case: Case) -> None:
    container, version = container_named(case.options["container"])
    with open_model(root / case.source) as model:
        migrate(model, root / case.output, container.name, version)


def _make_merge(root: Path, case: Case) -> None:
    merge(root / case.source, [root / name for name in case.adapters], root / case.output, **case.options)


def _make_export(root: Path, case: Case) -> None:
    with plan_to_hf(root / case.source, root / case.output) as plan:
        plan.write()


def _opened(root: Path, case: Case) -> Model:
    how = {name: case.options[name] for name in ("era", "build", "memory_f32")}
    return Model.from_file(root / case.source, numerics="exact", n_threads=1, **how)


def _make_logits(root: Path, case: Case) -> None:
    with _opened(root, case) as model:
        write_logits(root / case.output, logits(model, TOKENS, batch=case.options["batch"]))


def _make_text(root: Path, case: Case) -> None:
    out = io.BytesIO()
    with _opened(root, case) as model:
        conversation = Conversation(model, _sampling(case), case.options["era"])
        options = MainOptions(prompt=PROMPT.encode(), n_predict=N_PREDICT)
        MainLoop(conversation, options, TerminalConsole(out, lines_of(io.BytesIO(), out))).run()
    with atomic_write(root / case.output) as stream:
        stream.write(out.getvalue())


def _sampling(case: Case) -> SamplingOptions:
    return SamplingOptions(**{name: case.options[name] for name in ("seed", "temp", "top_k", "repeat_penalty")})


_MAKERS: dict[str, Callable[[Path, Case], object]] = {
    "convert": _make_conversion,
    "quantize": lambda root, case: quantize_file(root / case.source, root / case.output, **case.options),
    "migrate": _make_migration,
    "merge": _make_merge,
    "to-hf": _make_export,
    "logits": _make_logits,
    "text": _make_text,
}


# ── checking another program ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class CaseResult:
    """What another program made of one case.

    Attributes:
        status: "identical bytes", "identical content", "differs", "failed", "timed out" or "no output".
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


def read_manifest(directory: str | os.PathLike[str]) -> list[Case]:
    """The cases of a directory that :func:`make_vectors` filled.

    Raises:
        FormatError: no manifest, or not one of these.
        IntegrityError: a file is not what was made.
    """
    root = Path(directory)
    path = root / MANIFEST
    if not path.is_file():
        raise MissingFileError("no manifest", path=path, next_step=f"`vectors make {root}`")
    try:
        manifest = json.loads(path.read_text("utf-8"))
        entries = [{key: value for key, value in entry.items() if key != "command"} for entry in manifest["cases"]]
        found = [_checked_case(Case(**{**entry, "adapters": tuple(entry["adapters"])})) for entry in entries]
        files = {**manifest["inputs"], **{name: it for case in found for name, it in case.files.items()}}
        wanted = {_inside(name): it["sha256"] for name, it in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError("not a manifest of vectors", path=path, cause=str(error)) from error
    for name, digest in wanted.items():
        if not (root / name).is_file() or sha256((root / name).read_bytes()).hexdigest() != digest:
            raise IntegrityError(
                "not the file that was made",
                path=root / name,
                cause="it was changed or removed since",
                next_step=f"{manifest.get('made_by')}, in a new directory",
            )
    return found


def _checked_case(case: Case) -> Case:
    """A case whose texts are texts, and whose files lie in the manifest's directory."""
    if case.kind not in KINDS or not isinstance(case.options, dict) or not isinstance(case.files, dict):
        raise ValueError(f"a case of the kind {case.kind!r:.40}")
    for name in (case.output, case.source, *case.adapters):
        _inside(name)
    return case


def _inside(name: str) -> str:
    """A name that leads nowhere else."""
    if not stays_inside(name):
        raise ValueError(f"{name[:80]!r} is no file of this directory")
    return name


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
        _words(command, _values(root, case, Path("out")), shell)  # refuses unknown names before anything runs
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


def _words(command: str, values: dict[str, str], shell: bool) -> list[str] | str:
    """The command with everything in braces replaced: words, or one line for the shell."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise UsageError(f"these cases have no {match[0]}; they have {{{'}, {'.join(sorted(values))}}}")
        return shlex.quote(values[match[1]]) if shell else values[match[1]]

    def filled(text: str) -> str:
        return re.sub(r"\{(\w+)\}", value, text)

    return filled(command) if shell else [filled(word) for word in shlex.split(command)]


def _checked(root: Path, case: Case, out: Path, command: str, timeout: float, shell: bool) -> CaseResult:
    words = _words(command, _values(root, case, out), shell)
    try:
        done = subprocess.run(
            words, shell=shell, capture_output=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return CaseResult(case, "timed out", f"after {timeout:g} s")
    except OSError as error:
        return CaseResult(case, "failed", str(error))
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        return CaseResult(case, "failed", f"exit code {done.returncode}" + "".join(f": {line}" for line in last))
    if "{out}" not in command:
        out.write_bytes(done.stdout)
    if not out.exists():
        return CaseResult(case, "no output", f"{out.name} was not written")
    return _judged(root, case, out)


def _judged(root: Path, case: Case, out: Path) -> CaseResult:
    wanted = {name: it["sha256"] for name, it in case.files.items()}
    found = _digests(out.parent, [out])
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
        request = TextRequest(options, _sampling(case), asked["repeat_penalty"], memory_f32=asked["memory_f32"])
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
