#!/usr/bin/env python3
"""The command line: one sub-command a task. It parses, calls the library, prints, and chooses the exit code.

Exit codes: 0 fine; 1 the compared things differ; 2 wrong usage; 3 a file is bad or missing. Data goes to stdout, talk
and progress to stderr. Options may be spelled with dashes or underscores. Each sub-command is a pair of functions,
``add_NAME`` (its options) and ``run_NAME`` (its work); packages are imported inside ``run_NAME``, so that ``--help``
is instant.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

PROGRAM = "python cli.py"
VERSION = "1.1.0"
DEPENDENCIES = ("llvmlite", "ml_dtypes", "numba", "numpy", "safetensors", "sentencepiece", "tqdm")
INSTALL = "python -m pip install . (in the folder that holds cli.py)"
Commands = Any  # argparse's sub-parser action has no public name


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    gc.set_threshold(50_000)  # looking for garbage while packages are imported takes 20 ms and finds none
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        pass
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name in DEPENDENCIES:
            print(f"error: the package {error.name} is not installed. Next: {INSTALL}", file=sys.stderr)
            return 3
        if not isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            raise  # else Ctrl-C came while a compiled module was being loaded
    print("interrupted", file=sys.stderr)
    return 130


def _run(arguments: Sequence[str]) -> int:
    _speak_utf8()
    if not arguments:
        build_parser().print_help(sys.stderr)
        return 2
    args = build_parser(arguments[0]).parse_args([_dashed(argument) for argument in arguments])
    for name, value in getattr(args, "environment", {}).items():
        os.environ.setdefault(name, value)  # numpy's BLAS looks at it when it is first imported, below
    from ggmlpy.files.errors import FormatError, UsageError
    from ggmlpy.machine.compiling import announce_with

    if sys.stderr.isatty() and not getattr(args, "quiet", False):
        announce_with(_say_compiling)
    began = time.perf_counter()
    try:
        code: int = args.run(args)
        if getattr(args, "verbose", False):
            print(f"{time.perf_counter() - began:.2f} s{_memory_used()}", file=sys.stderr)
        return code
    except UsageError as error:
        print(f"error: {error}\nsee: {PROGRAM} {args.command} --help", file=sys.stderr)
        return 2
    except FormatError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nothing more to say to it
        return 0


class HelpFormatter(argparse.HelpFormatter):
    """Examples stay lines, for they are pasted; everything else is filled."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("example:") else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """One line says what is wrong, with the name that was probably meant; the next one where help is."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\nsee: {self.prog} --help\n")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            option = unknown[0].partition("=")[0]
            parser = getattr(found, "parser", self)
            known = parser._option_string_actions if option.startswith("-") else ()
            parser.error(f"no option or argument {option!r} here{_meant(option, known)}")
        return found

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            self.error(
                f"no command {value!r}" + (_meant(value, action.choices) or f"; there are {', '.join(action.choices)}")
            )
        super()._check_value(action, value)


def _meant(name: str, known: Iterable[str]) -> str:
    """ "; did you mean --temp?", or nothing."""
    from difflib import get_close_matches

    near = get_close_matches(name, [*known], n=1)
    return f"; did you mean {near[0]}?" if near else ""


def build_parser(wanted: str = "") -> argparse.ArgumentParser:
    """All commands with their options; only the one that is wanted, if there is one of that name."""
    parser = Parser(
        prog=PROGRAM,
        description="The Chinese-LLaMA-Alpaca toolchain in pure Python: merge, convert, quantize, verify, generate.",
        epilog=f"{PROGRAM} COMMAND --help explains a command and shows examples; those with files/ work as they stand "
        f"after: {PROGRAM} demo --output files",
    )
    parser.add_argument("--version", action="version", version=f"ggmlpy {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    named = [add for add in COMMANDS if add.__name__.removeprefix("add_").replace("_", "-") == wanted]
    for add in named or COMMANDS:
        add(commands)
    return parser


def command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str, **more: Any
) -> argparse.ArgumentParser:
    """A sub-parser with what all commands share: ``-q``, ``-v`` and an example in its help."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog="example:\n" + "\n".join(f"  {PROGRAM} {line}" for line in example.splitlines()),
        formatter_class=HelpFormatter,
        **more,
    )
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("-q", "--quiet", action="store_true", help="no talk, no progress bar")
    volume.add_argument("-v", "--verbose", action="store_true", help="more talk; at the end time and memory")
    parser.set_defaults(run=run, parser=parser)
    return parser


def group(commands: Commands, name: str, summary: str, action: str) -> argparse.ArgumentParser:
    """A sub-parser of sub-parsers; its help leads to theirs."""
    more = f"{PROGRAM} {name} {action} --help explains {action} and shows an example; so for the others."
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary, epilog=more)
    return parser


def progress_bar(args: argparse.Namespace, total: int | None, what: str, unit: str = "B") -> Any:
    """A tqdm bar on stderr: silent with ``-q`` and when stderr is not a terminal. Use it with ``with``; call
    ``.update(n)``."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        unit_scale=True,
        unit_divisor=1024 if unit == "B" else 1000,
        disable=args.quiet or not sys.stderr.isatty(),
        miniters=0,  # left to itself, tqdm goes silent for seconds where work becomes slower
        file=sys.stderr,
        dynamic_ncols=True,
        leave=False,
    )


def searching(bar: Any, what: str) -> Callable[[int], object]:
    """A ``progress`` that fills the bar up to its end; called with 0, it shows that ``what`` is being done."""

    def progress(n: int) -> None:
        if bar.disable:
            return
        if not n and not bar.desc.startswith(what):
            bar.set_description(what, refresh=False)
        bar.update(max(0, min(n, bar.total - bar.n)))

    return progress


def say(args: argparse.Namespace, *words: object) -> None:
    """Talk on stderr, unless ``-q``."""
    if not args.quiet:
        print(*words, file=sys.stderr)


def _say_compiling() -> None:
    from tqdm import tqdm

    tqdm.write("compiling for this processor: some seconds, the first time only", file=sys.stderr)  # above any bar


def _memory_used() -> str:
    """ ", at most 120 MB of memory", where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return ""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f", at most {most / 1e6:,.0f} MB of memory, mapped files included"


def print_json(value: object) -> None:
    """One JSON document on stdout; Chinese text stays readable."""
    import json

    print(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def _dashed(argument: str) -> str:
    """``--top_k`` is ``--top-k``; values after ``=`` stay as they are."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def _speak_utf8() -> None:
    """Chinese text must survive consoles that speak another encoding."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace" if stream is sys.stderr else "replace")
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")


# ---------------------------------------------------------------------------------------------------- GGML files


def add_identify(commands: Commands) -> None:
    parser = command(
        commands,
        "identify",
        run_identify,
        "Say what a file is, which era wrote it, whether it is whole, what can read it, and what to do next.",
        "identify files/ggml-model-q4_0.bin\nidentify --json models/*.bin",
    )
    parser.add_argument("files", metavar="FILE", nargs="+")
    parser.add_argument("--json", action="store_true", help="as JSON on stdout")


def run_identify(args: argparse.Namespace) -> int:
    from ggmlpy.files.errors import FormatError

    found, failed = [], []
    for file in args.files:
        try:
            found.append(_identify_any(file))
        except FormatError as error:
            failed.append(error)
    if args.json:
        unknown = [{"path": item.path, "problems": [str(item)], "next_step": item.next_step} for item in failed]
        print_json([item.as_dict() for item in found] + unknown)
    for item in [] if args.json else found:
        _print_identification(item)
    for failure in [] if args.json else failed:
        print(f"error: {failure}", file=sys.stderr)
    return 3 if failed or any(item.problems for item in found) else 0


def _identify_any(file: str) -> Any:
    """A GGML file, or else a checkpoint, an adapter, a tokenizer, an archive."""
    from ggmlpy.files.errors import BadMagicError
    from ggmlpy.look.identify import identify

    try:
        return identify(file)
    except BadMagicError as bad:
        from toolchain.look.identify_checkpoint import identify_other

        other = identify_other(file)
        if other is not None:
            return other
        if str(bad.next_step).startswith("python cli.py identify"):
            bad.next_step = "compare its size and SHA256 with its source, and fetch it again"
        raise bad


def _print_identification(item: Any) -> None:
    types = ", ".join(f"{count} {name}" for name, count in item.types.items())
    whole = f"{item.size:,} bytes" + ("" if item.size == item.expected_size else f", expected {item.expected_size:,}")
    rows = (
        ("format", item.what),
        ("written", item.era),
        ("model", item.model),
        ("vocabulary", item.vocabulary),
        ("tensors", types),
        ("size", whole),
        ("readers", item.readers),
        *(("problem", problem) for problem in item.problems),
        ("next", item.next_step),
    )
    print(item.path)
    for name, value in rows:
        if value:
            print(f"  {name:<11} {value}")


def add_inspect(commands: Commands) -> None:
    parser = command(
        commands,
        "inspect",
        run_inspect,
        "Show a model file: header, a sample of the vocabulary, the table of tensors.",
        "inspect files/ggml-model-q4_0.bin --tensors",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--tensors", action="store_true", help="the table of tensors too")
    parser.add_argument("--vocab", type=int, default=5, metavar="N", help="entries from each end (default 5)")
    parser.add_argument("--json", action="store_true", help="everything as JSON on stdout")


def run_inspect(args: argparse.Namespace) -> int:
    from ggmlpy import open_model
    from ggmlpy.look.summary import summarize

    with open_model(args.file) as model:
        summary = summarize(model, tensors=args.tensors or args.json, sample=args.vocab)
    if args.json:
        print_json(summary)
        return 0
    print(f"{', '.join(summary['files'])}: {summary['format']}, {summary['size']:,} bytes")
    print("header      " + "  ".join(f"{name} {value}" for name, value in summary["header"].items()))
    print(f"ftype       {summary['ftype']}")
    print(f"vocabulary  {summary['vocabulary']['size']:,} entries")
    for entry in summary["vocabulary"]["sample"]:
        print(f"  {entry['id']:>6}  {entry['score']:>12g}  {entry['text']!r}")
    print(f"tensors     {summary['n_tensors']}")
    for row in summary.get("tensors", ()):
        shape = " x ".join(map(str, row["shape"]))
        print(f"  {row['name']:<40} {row['type']:<5} {shape:>15} at {row['offset']:>13,} {row['bytes']:>13,} bytes")
    return 0


def add_hexdump(commands: Commands) -> None:
    parser = command(
        commands,
        "hexdump",
        run_hexdump,
        "Show a model file's bytes with the meaning of each field beside them.",
        "hexdump files/ggml-model-q4_0.bin\nhexdump files/ggml-model-q4_0.bin --field n_vocab",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--field", metavar="NAME", help="only this: n_vocab, vocabulary[278], tensor[norm.weight]")
    parser.add_argument("--all", action="store_true", help="fold nothing")
    parser.add_argument("--json", action="store_true", help="as JSON on stdout")


def run_hexdump(args: argparse.Namespace) -> int:
    from ggmlpy.files.errors import UsageError
    from ggmlpy.look.hexdump import dump, matches

    lines = dump(args.file, fold=not (args.all or args.field))
    shown = (line for line in lines if not args.field or matches(line, args.field))
    if args.json:
        print_json([line.as_dict() for line in shown])
        return 0
    found = False
    for line in shown:
        print(_hexdump_line(line, sys.stdout.isatty()))
        found = True
    if not found:
        raise UsageError(f"{args.file} has no field {args.field!r}; the names stand in the last column of the dump")
    return 0


def _hexdump_line(line: Any, colour: bool) -> str:
    if not line.size:
        return f"{'':>12}  {line.value}"
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line.data)
    more = "…" if line.size > len(line.data) else " "
    dim, bold, green, reset = ("\033[2m", "\033[1m", "\033[32m", "\033[0m") if colour else ("",) * 4
    place = f"{line.offset:>12,}  {line.data.hex(' '):<47}{more} {dim}{text:<16}{reset}"
    return f"{place}  {bold}{line.path}{reset} = {green}{line.value}{reset}"


def add_report(commands: Commands) -> None:
    parser = command(
        commands,
        "report",
        run_report,
        "Write a self-contained HTML page: bytes beside fields, tensors, quantization errors, a block explorer.",
        "report files/ggml-model-q4_0.bin --html q4_0.html --source files/ggml-model-f16.bin",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--html", metavar="OUT", required=True, help="the page to write")
    parser.add_argument("--source", metavar="F16", help="the unquantized model, to measure errors against")


def run_report(args: argparse.Namespace) -> int:
    from ggmlpy import open_model
    from ggmlpy.look.report import write_report

    with open_model(args.file, strict=False) as model:
        total = sum(tensor.n_rows * tensor.n_cols for tensor in model.tensors.values())
    with progress_bar(args, total, "report", "values") as bar:
        size = write_report(args.file, args.html, args.source, bar.update)
    say(args, f"{args.html}: {size:,} bytes")
    return 0


def add_compare(commands: Commands) -> None:
    parser = command(
        commands,
        "compare",
        run_compare,
        "Compare two model files independently of their containers, down to the first differing block.",
        "compare files/ggml-model-f16.bin files/ggml-model-q4_0.bin\n"
        "compare mine-q4_0.bin theirs-q4_0.bin --source model-f16.bin",
    )
    parser.add_argument("a", metavar="A")
    parser.add_argument("b", metavar="B")
    parser.add_argument("--tolerance", type=float, default=0.0, metavar="X", help="differences up to X are equal")
    parser.add_argument("--source", metavar="F16", help="the unquantized model: say which era's quantizer explains B")
    parser.add_argument("--json", action="store_true", help="everything as JSON on stdout")


def run_compare(args: argparse.Namespace) -> int:
    from ggmlpy import open_model
    from ggmlpy.verify.compare import compare, explain

    with open_model(args.a) as a, open_model(args.b) as b:
        total = sum(tensor.n_rows * tensor.n_cols for tensor in a.tensors.values())
        explained = {}
        with progress_bar(args, total, "compare", "values") as bar:
            result = compare(a, b, tolerance=args.tolerance, progress=bar.update)
            if args.source and result.differing:
                with open_model(args.source) as source:
                    names = [item.name for item in result.differing if item.status == "differs"]
                    for side, model in (("A", a), ("B", b)):
                        progress = searching(bar, f"whose quantizer wrote {side}?")
                        explained[side] = explain([model.tensors[n] for n in names], source.tensors, progress)
    if args.json:
        print_json({**result.as_dict(), "explained": explained})
    else:
        _print_comparison(args, result, explained)
    return 0 if result.verdict == "same content" else 1


def _print_comparison(args: argparse.Namespace, result: Any, explained: dict[str, dict[str, int]]) -> None:
    if result.differing:
        print(f"{'tensor':<40} {'types':<28} {'different':>12} {'of':>12} {'max ulp':>14} {'max error':>12}")
    for item in result.tensors if args.verbose else result.differing:
        types = " / ".join(dict.fromkeys(item.types))
        if item.status in ("same", "differs"):
            figures = f"{item.n_different:>12,} {item.n_values:>12,} {item.max_ulp:>14,} {item.max_error:>12.3g}"
        else:
            figures = item.status
        print(f"{item.name:<40} {types:<28} {figures}")
    first = next((item for item in result.differing if item.row is not None), None)
    if first:
        print(f"first difference: {first.name} row {first.row} column {first.column}")
        for side, view in (("A", first.a), ("B", first.b)):
            place = f" at offset {view.offset}" if view.offset is not None else ""
            print(f"  {side} {view.layout}{place}  " + "  ".join(f"{n} {v!r}" for n, v in view.fields.items()))
            print(f"    codes  {' '.join(map(str, view.codes)) or '-'}")
            print(f"    values {' '.join(f'{value:.6g}' for value in view.values)}")
        if any(first.signs):
            print(f"  A looks like the {first.signs[0]}\n  B looks like the {first.signs[1]}")
    count = sum(item.status == "differs" for item in result.differing)
    for side, eras in explained.items():
        most = max(eras.values(), default=0)
        names = ", ".join(era for era, explains in eras.items() if explains == most)
        told = f"the quantizer of {names} explains {most}" if most else "no era's quantizer explains any"
        print(f"  {side}: {told} of {count} differing tensors")
    for note in result.header:
        print(f"header: {note}")
    print(result.sentence())


def add_fingerprint(commands: Commands) -> None:
    parser = command(
        commands,
        "fingerprint",
        run_fingerprint,
        "One digest of a model's tensors, the same in every container that holds the same bytes.",
        "fingerprint files/ggml-model-q4_0.bin\nfingerprint files/merged files/ggml-model-f16.bin",
    )
    parser.add_argument("files", metavar="FILE|DIR", nargs="+")
    parser.add_argument("--json", action="store_true", help="as JSON on stdout")


def run_fingerprint(args: argparse.Namespace) -> int:
    from toolchain.verify.published_tensors import content_fingerprint

    digests = {}
    for file in args.files:
        with progress_bar(args, _bytes_of(file), "fingerprint") as bar:
            digests[file] = content_fingerprint(file, bar.update)
    if args.json:
        print_json(digests)
    else:
        for file, digest in digests.items():
            print(f"{digest}  {file}")
    return 0


def _bytes_of(path: str) -> int:
    """What there is to read in a file, or about so in a directory of weights."""
    if not os.path.isdir(path):
        return os.path.getsize(path) if os.path.exists(path) else 0
    entries = [entry for entry in os.scandir(path) if entry.is_file() and not entry.name.startswith("ggml")]
    return sum(entry.stat().st_size for entry in entries)


def add_migrate(commands: Commands) -> None:
    parser = command(
        commands,
        "migrate",
        run_migrate,
        "Carry a model into another container; parts are joined, tensor bytes stay as they are.",
        "migrate files/ggml-model-f16.bin model.gguf --container gguf\n"
        "migrate old.bin new.bin --container ggjt3 --requantize",
    )
    parser.add_argument("input", metavar="IN", help="the model, or the first file of a multi-part one")
    parser.add_argument("output", metavar="OUT", help="the file to write; it may be IN")
    parser.add_argument(
        "--container",
        metavar="C",
        help="ggml, ggmf1, ggjt1, ggjt2, ggjt3, gguf (default: gguf where OUT is named so, else ggjt1)",
    )
    parser.add_argument(
        "--requantize",
        nargs="?",
        const=True,
        default=False,
        metavar="TYPE",
        help="let quantized bytes change where the layouts differ; with TYPE, quantize anew to it",
    )
    parser.add_argument("--tokenizer", metavar="FILE", help="tokenizer.model with the scores an unversioned file lacks")
    parser.add_argument("--parts", type=int, default=1, metavar="N", help="spread over N files (ggml and ggmf only)")
    parser.add_argument("--json", action="store_true", help="the report as JSON on stdout")


def run_migrate(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from ggmlpy import open_model
    from ggmlpy.formats.containers import container_named
    from ggmlpy.formats.migrate import migrate

    named = "gguf" if args.output.lower().endswith(".gguf") else "ggjt1"
    container, version = container_named(args.container or named)
    scores = _scores_of(args.tokenizer) if args.tokenizer else None
    with open_model(args.input) as model, progress_bar(args, model.size, "migrate") as bar:
        report = migrate(
            model,
            args.output,
            container.name,
            version,
            requantize=args.requantize,
            scores=scores,
            n_parts=args.parts,
            progress=bar.update,
        )
        source = model.format_name
    if report.derived_scores:
        say(args, "note: the file has no scores; they were derived from the order of the pieces (exact for LLaMA's)")
    for loss in report.losses:
        say(
            args,
            f"{loss.name:<40} {loss.source} -> {loss.target}  RMSE {loss.rmse:.6g}  max error {loss.max_error:.6g}",
        )
    say(args, f"{source} -> {container.title(version)}: {', '.join(map(str, report.paths))}, {report.size:,} bytes")
    if args.json:
        losses = [{**asdict(loss), "rmse": loss.rmse} for loss in report.losses]
        print_json({"files": report.paths, "size": report.size, "losses": losses})
    return 0


def _scores_of(tokenizer: str) -> list[float]:
    from llama_ref.vocabulary.tokenizer_file import load_vocabulary

    return [score for _, score in load_vocabulary(tokenizer)]


def add_quantize(commands: Commands) -> None:
    parser = command(
        commands,
        "quantize",
        run_quantize,
        "Quantize an f32 or f16 model, byte for byte as llama.cpp's quantize of an era did.",
        "quantize files/ggml-model-f16.bin q4_0.bin q4_0\n"
        "quantize ggml-model-f16.bin ggml-model-q4_0.bin 2\n"
        "quantize model-f16.bin model-q4_k_m.bin q4_k_m --era 2023-08-21",
    )
    parser.add_argument("input", metavar="IN", help="the model, or the first file of a multi-part one")
    parser.add_argument("output", metavar="OUT", help="the file to write; it may be IN")
    parser.add_argument("type", metavar="TYPE", help="as llama.cpp takes it (2, 3) or by name (q4_0, q4_k_m)")
    parser.add_argument(
        "--era", default=None, help="whose: 2023-03-19 … 2023-08-21 (default 2023-03-31; GGUF the last)"
    )
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="workers (default: one a processor)")
    parser.add_argument("--allow-requantize", action="store_true", help="accept a model that is quantized already")
    parser.add_argument("--leave-output-tensor", action="store_true", help="keep output.weight as it is")
    parser.add_argument("--json", action="store_true", help="the report as JSON on stdout")


def run_quantize(args: argparse.Namespace) -> int:
    from ggmlpy.quantizers.whole_file import quantize_file

    start = time.perf_counter()

    with progress_bar(args, 0, "quantize") as bar:

        def advanced(size: int, total: int) -> None:
            bar.total = total
            bar.update(size)

        def finished(report: Any, index: int) -> None:
            if not (args.json or args.quiet):
                bar.write(report.tensor_line(index))

        report = quantize_file(
            args.input,
            args.output,
            args.type,
            args.era,
            threads=args.threads,
            progress=advanced,
            on_tensor=finished,
            allow_requantize=args.allow_requantize,
            leave_output=args.leave_output_tensor,
        )
    if args.json:
        print_json(report.as_dict())
    elif not args.quiet:
        print(*report.closing_lines(), sep="\n")
    say(args, f"quantize time = {1000 * (time.perf_counter() - start):8.2f} ms")
    return 0


# ---------------------------------------------------------------------------------------------------- checkpoints


def add_convert(commands: Commands) -> None:
    parser = command(
        commands,
        "convert",
        run_convert,
        "Turn a checkpoint (Meta's layout or Hugging Face's) into a GGML file of f16 or f32.",
        "convert files/merged --outfile f16.bin\nconvert models/7B\n"
        "convert models/7B --vocab-only --outfile ggml-vocab.bin",
    )
    parser.add_argument("model", metavar="MODEL_DIR", help="holds consolidated.*.pth, *.safetensors or *.bin")
    parser.add_argument("--outtype", default="f16", metavar="TYPE", help="f16 (default) or f32")
    parser.add_argument("--outfile", metavar="FILE", help="default: ggml-model-TYPE.bin in MODEL_DIR")
    parser.add_argument("--container", metavar="C", help="ggml, ggmf1, ggjt1, ggjt2, ggjt3, gguf (default: the era's)")
    parser.add_argument("--era", default="2023-03-31", help="whose container and order of tensors (default 2023-03-31)")
    parser.add_argument("--tokenizer", metavar="FILE", help="tokenizer.model, if not in MODEL_DIR or its parent")
    parser.add_argument("--vocab-only", action="store_true", help="header and vocabulary only; needs no weights")
    parser.add_argument("--params", metavar="7B", help="with --vocab-only: the model's size, in place of params.json")
    parser.add_argument("--pad-vocab", action="store_true", help="fill missing pieces with <dummy00001> and so on")
    parser.add_argument(
        "--guess-params", action="store_true", help="n_mult and n_head as converters of spring 2023 guessed them"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, say what would be written, stop")
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout")


def run_convert(args: argparse.Namespace) -> int:
    from llama_ref.convert.ggml import plan_conversion, plan_vocabulary, vocabulary_counts

    common = {
        "outtype": args.outtype,
        "era": args.era,
        "container": args.container,
        "tokenizer": args.tokenizer,
    }
    if args.vocab_only:
        plan = plan_vocabulary(args.model, args.outfile, model=args.params, **common)
    else:
        plan = plan_conversion(
            args.model, args.outfile, pad_vocab=args.pad_vocab, guess_params=args.guess_params, **common
        )
    with plan:
        for path, size in plan.files.items():
            say(args, f"{path}: {plan.container.title(plan.version)}, {size:,} bytes")
        for count in vocabulary_counts(plan.checkpoint, plan.vocab) if args.verbose and plan.checkpoint else ():
            say(args, f"  {count.what:<14} {count.size:>6}  {count.path}")
        if not args.dry_run:
            with progress_bar(args, plan.tensor_bytes, "convert") as bar:
                plan.write(bar.update)
        for note in plan.notes:
            say(args, f"note: {note}")
        if args.json:
            files = [{"path": str(path), "size": size} for path, size in plan.files.items()]
            print_json({"files": files, "container": plan.container.title(plan.version), "notes": plan.notes})
        return 0


def add_to_hf(commands: Commands) -> None:
    parser = command(
        commands,
        "to-hf",
        run_to_hf,
        "Write a Meta checkpoint in Hugging Face's layout: weights, config.json, tokenizer files.",
        "to-hf files/merged merged-hf\nto-hf models/13B llama-13b-hf --bin --shard-size 5GB",
    )
    parser.add_argument("source", metavar="META_DIR")
    parser.add_argument("output", metavar="OUT", help="a directory of its own")
    parser.add_argument("--bin", action="store_true", help="pytorch_model.bin rather than model.safetensors")
    parser.add_argument("--shard-size", default="10GB", metavar="SIZE", help="largest weight file (default 10GB)")
    parser.add_argument(
        "--inv-freq", action=argparse.BooleanOptionalAction, help="rotary frequencies (default: with --bin only)"
    )
    _add_export_options(parser)


def add_from_hf(commands: Commands) -> None:
    parser = command(
        commands,
        "from-hf",
        run_from_hf,
        "Write a Hugging Face model in Meta's layout: consolidated.NN.pth and params.json.",
        "to-hf files/merged merged-hf\nfrom-hf merged-hf merged-meta\nfrom-hf llama-13b-hf models/13B --params 13B",
    )
    parser.add_argument("source", metavar="HF_DIR")
    parser.add_argument("output", metavar="OUT", help="a directory of its own")
    parser.add_argument("--shards", type=int, metavar="N", help="weight files (default: as Meta had for the width)")
    parser.add_argument("--params", metavar="7B", help="a model's size or a params.json (default: derived)")
    _add_export_options(parser)


def _add_export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", choices=("float16", "float32"), help="round the weights (default: keep)")
    parser.add_argument("--tokenizer", metavar="FILE", help="tokenizer.model, if not with the model or in its parent")
    parser.add_argument("--weights-only", action="store_true", help="leave the tokenizer out")
    parser.add_argument("--torch-format", default="1.13", metavar="V", help="whose torch.save (default 1.13)")
    parser.add_argument("--dry-run", action="store_true", help="check everything, say what would be written, stop")
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout")


def run_to_hf(args: argparse.Namespace) -> int:
    from llama_ref.convert.checkpoints import plan_to_hf

    plan = plan_to_hf(
        args.source,
        args.output,
        weights="bin" if args.bin else "safetensors",
        shard_size=args.shard_size,
        inv_freq=args.inv_freq,
        dtype=args.dtype,
        tokenizer=args.tokenizer,
        weights_only=args.weights_only,
        torch_format=args.torch_format,
    )
    return _run_export(args, plan)


def run_from_hf(args: argparse.Namespace) -> int:
    from llama_ref.checkpoint.params import model_named, read_params_json
    from llama_ref.convert.checkpoints import plan_from_hf

    params = args.params
    if params:
        params = read_params_json(params) if os.path.isfile(params) else model_named(params)
    plan = plan_from_hf(
        args.source,
        args.output,
        shards=args.shards,
        dtype=args.dtype,
        params=params,
        tokenizer=args.tokenizer,
        weights_only=args.weights_only,
        torch_format=args.torch_format,
    )
    return _run_export(args, plan)


def _run_export(args: argparse.Namespace, plan: Any) -> int:
    with plan:
        for name, size in plan.sizes.items():
            say(args, f"{plan.directory / name}: {size:,} bytes")
        paths = []
        if not args.dry_run:
            with progress_bar(args, plan.tensor_bytes, args.command) as bar:
                paths = plan.write(bar.update)
        for note in plan.notes:
            say(args, f"note: {note}")
        if args.json:
            print_json({"files": [str(path) for path in paths], "sizes": plan.sizes, "notes": plan.notes})
        return 0


# ------------------------------------------------------------------------------------------ adapters, vocabularies


def add_merge(commands: Commands) -> None:
    parser = command(
        commands,
        "merge",
        run_merge,
        "Merge LoRA adapters, in order, into a base model: the original scripts' files to the byte, in a stream.",
        "merge --base files/base --lora files/chinese-llama-lora,files/chinese-alpaca-lora --output merged\n"
        "merge --base models/7B --lora chinese_alpaca_lora_7b.zip --output merged\n"
        "merge --base models/13B --lora llama-plus-lora,alpaca-plus-lora --output merged --dry-run\n"
        "merge --base models/7B --lora alpaca-lora --output alpaca-q4_0.bin --output-type ggml-q4_0",
    )
    parser.add_argument("--base", "--base-model", required=True, metavar="DIR", help="Meta's or Hugging Face's layout")
    parser.add_argument(
        "--lora", "--lora-model", required=True, action="append", metavar="DIR|ZIP[,…]", help="adapters in order"
    )
    parser.add_argument("--output", "--output-dir", required=True, metavar="DIR|FILE", help="a file for GGML types")
    parser.add_argument(
        "--output-type",
        default="pth",
        metavar="TYPE",
        help="pth (default), huggingface, ggml-f16, ggml-q4_0, gguf-q4_0 … (any type of the era)",
    )
    parser.add_argument("--torch-format", default="1.13", metavar="V", help="whose torch.save bytes: 1.13, 2.0, 2.6, …")
    parser.add_argument("--shards", type=int, metavar="N", help="number of .pth files (default: as Meta's)")
    parser.add_argument(
        "--weights", choices=("bin", "safetensors"), help="for huggingface (default: as the base, or bin)"
    )
    parser.add_argument("--shard-size", metavar="SIZE", help="for huggingface (default: as the base's files, or 10GB)")
    parser.add_argument("--era", default="2023-03-31", help="for GGML types (default 2023-03-31)")
    parser.add_argument("--tokenizer", metavar="FILE", help="tokenizer.model of the result, if no adapter has it")
    parser.add_argument(
        "--init-embeddings",
        choices=("pieces", "mean", "normal", "zeros"),
        help="fill rows of new tokens that no adapter brings (untrained!)",
    )
    parser.add_argument("--seed", type=int, default=0, help="for --init-embeddings normal (default 0)")
    parser.add_argument(
        "--check-base", action="store_true", help="first say whether the base is an original, by SHA256"
    )
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="default: one a processor")
    parser.add_argument("--dry-run", action="store_true", help="check everything, say what would be done, stop")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted merge")
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout")


def run_merge(args: argparse.Namespace) -> int:
    from pathlib import Path

    from lora.merging.merge import plan_merge

    adapters = [path.strip() for group in args.lora for path in group.split(",") if path.strip()]
    options = {
        "output_type": args.output_type,
        "torch_format": args.torch_format,
        "n_shards": args.shards,
        "weights": args.weights,
        "shard_size": args.shard_size,
        "era": args.era,
        "tokenizer": Path(args.tokenizer) if args.tokenizer else None,
        "init": args.init_embeddings,
        "seed": args.seed,
        "check_base": args.check_base,
        "n_threads": args.threads,
    }
    with progress_bar(args, sum(map(_bytes_of, [*adapters, *[args.base] * args.check_base])), "checking") as bar:
        plan = plan_merge(args.base, adapters, args.output, searching(bar, "checking"), **options)
    with plan:
        say(args, plan.describe() if args.dry_run or args.verbose else plan.summary())
        if args.dry_run:
            return 0
        with progress_bar(args, plan.nbytes, "merge") as bar:
            report = plan.run(force=args.force, resume=args.resume, progress=bar.update)
    say(args, report)
    if args.json:
        print_json(report.as_dict())
    return 0


def add_tokenizer(commands: Commands) -> None:
    parser = group(commands, "tokenizer", "Merge, train and compare SentencePiece vocabularies.", "stats")
    inner = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    merge = command(
        inner,
        "merge",
        run_tokenizer_merge,
        "Append to BASE the pieces of EXTRA that it lacks: LLaMA + Chinese gives the published tokenizer to the byte.",
        "tokenizer merge files/base/tokenizer.model files/chinese-llama-lora/tokenizer.model grown.model\n"
        "tokenizer merge llama/tokenizer.model chinese_sp.model merged/tokenizer.model\n"
        "tokenizer merge llama/tokenizer.model chinese_sp.model alpaca_tokenizer_dir --pad-token '[PAD]'",
    )
    merge.add_argument("base", metavar="BASE")
    merge.add_argument("extra", metavar="EXTRA")
    merge.add_argument("out", metavar="OUT", help="a .model file, or a directory for all of a LlamaTokenizer's files")
    merge.add_argument("--pad-token", metavar="PIECE", help="one more piece at the end, as Chinese-Alpaca has [PAD]")
    train = command(
        inner,
        "train",
        run_tokenizer_train,
        "Train a SentencePiece model by the recipe of the published 20,000 Chinese pieces.",
        "tokenizer train files/held-out/chinese.txt --output sp.model --vocab-size 1200\n"
        "tokenizer train corpus.txt --output chinese_sp.model",
    )
    train.add_argument("corpus", nargs="+", metavar="TEXT_FILE", help="UTF-8, one sentence a line")
    train.add_argument("-o", "--output", required=True, metavar="OUT", help="as for tokenizer merge")
    train.add_argument("--vocab-size", type=int, default=20000, metavar="N", help="at most (default 20000)")
    train.add_argument("--character-coverage", type=float, default=0.9995, metavar="X", help="default 0.9995")
    train.add_argument(
        "--max-sentences", type=int, default=10_000_000, metavar="N", help="sample a larger corpus (default 10,000,000)"
    )
    train.add_argument("--no-byte-fallback", action="store_true", help="leave the 256 byte pieces out")
    stats = command(
        inner,
        "stats",
        run_tokenizer_stats,
        "Cut the same text with several tokenizers: tokens a character, and the tokens side by side.",
        "tokenizer stats files/base/tokenizer.model files/merged/tokenizer.model 北京是中国的首都。\n"
        "tokenizer stats llama/tokenizer.model merged/tokenizer.model -f text.txt --json",
    )
    stats.add_argument("first", metavar="A")
    stats.add_argument("second", metavar="B")
    stats.add_argument("text", nargs="*", metavar="TEXT", help="words, the name of a file, or - for stdin")
    stats.add_argument("-f", "--file", metavar="FILE", help="read the text from a file")
    stats.add_argument("--no-colour", "--no-color", action="store_true", help="bars between tokens instead of colours")
    stats.add_argument("--json", action="store_true", help="as JSON on stdout")


def run_tokenizer_merge(args: argparse.Namespace) -> int:
    from lora.vocabulary import merge_vocabularies, read_sentencepiece, write_tokenizer

    merged, growth = merge_vocabularies(read_sentencepiece(args.base), read_sentencepiece(args.extra), args.pad_token)
    for path in write_tokenizer(args.out, merged, args.pad_token):
        say(args, path)
    padded = f" + {args.pad_token}" if growth.padded else ""
    say(args, f"{growth.base} + {growth.added}{padded} = {growth.total} pieces; {growth.skipped} were there already")
    return 0


def run_tokenizer_train(args: argparse.Namespace) -> int:
    from lora.vocabulary import train_vocabulary, write_tokenizer

    say(args, "training" if args.verbose else "training; with -v SentencePiece shows how far it is")
    model = train_vocabulary(
        args.corpus,
        minloglevel=0 if args.verbose else 2,
        vocab_size=args.vocab_size,
        byte_fallback=not args.no_byte_fallback,
        max_sentences=args.max_sentences,
        character_coverage=args.character_coverage,
    )
    for path in write_tokenizer(args.output, model):
        say(args, path)
    say(args, f"{len(model)} pieces")
    return 0


def run_tokenizer_stats(args: argparse.Namespace) -> int:
    from lora.vocabulary import compare_tokenizers, side_by_side

    results = compare_tokenizers([args.first, args.second], _text_argument(args.file, args.text))
    if args.json:
        print_json([item.as_dict() for item in results])
        return 0
    print(side_by_side(results, colour=sys.stdout.isatty() and not args.no_colour))
    return 0


def _text_argument(file: str | None, words: list[str]) -> str:
    """The text of ``-f FILE``, of a single word that names a file, of stdin for ``-``, or the words themselves."""
    from ggmlpy.files.errors import MissingFileError, UsageError

    if file is None and not words:
        raise UsageError("give a text, the name of a file, or - for stdin")
    name = file or (words[0] if len(words) == 1 else "")
    if name == "-":
        return sys.stdin.read()
    if file is None and not os.path.isfile(name):
        return " ".join(words)
    try:
        with open(name, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError as error:
        raise MissingFileError(f"cannot be read: {error.strerror}", path=name) from error


# -------------------------------------------------------------------------------------------------- logits, perplexity


def _add_arithmetic(parser: argparse.ArgumentParser) -> None:
    """The model and how to compute with it."""
    parser.add_argument("-m", "--model", required=True, metavar="MODEL", help="a GGML or GGUF file")
    parser.add_argument("--numerics", default="fast", metavar="HOW", help="fast (default), reference or exact")
    parser.add_argument(
        "--era", metavar="DATE", help="exact: whose arithmetic (default: of the era that wrote the file)"
    )
    parser.add_argument("--build", metavar="B", help="exact: scalar (default), avx2, avx512 or cmake-avx2")
    parser.add_argument("--memory-f32", action="store_true", help="keep keys and values in f32, not f16")
    parser.add_argument("--norm-eps", type=float, default=1e-6, metavar="E", help="added in every norm (default 1e-6)")
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="threads (default: one a processor)")


def _open_for_arithmetic(args: argparse.Namespace, n_ctx: int) -> Any:
    from llama_ref.text.model import Model

    return Model.from_file(
        args.model,
        numerics=args.numerics,
        era=args.era,
        build=args.build,
        n_ctx=n_ctx,
        memory_f32=args.memory_f32,
        n_threads=args.threads,
        norm_eps=args.norm_eps,
    )


def add_logits(commands: Commands) -> None:
    parser = command(
        commands,
        "logits",
        run_logits,
        "Write the logits of a sequence of tokens as a .npy file: float32 [n_tokens, n_vocab].",
        "logits -m files/ggml-model-q4_0.bin --tokens 1,300,400 --out logits.npy\n"
        "logits -m model.bin --tokens 1,15043,3186 --out logits.npy --numerics exact --build avx2 --batch 8",
    )
    _add_arithmetic(parser)
    parser.add_argument("--tokens", required=True, metavar="IDS", help="token ids, separated by commas")
    parser.add_argument("--out", required=True, metavar="F.npy", help="the file to write")
    parser.add_argument("--batch", type=int, metavar="N", help="tokens evaluated at a time (default: all at once)")


def run_logits(args: argparse.Namespace) -> int:
    from llama_ref.text.logits import logits, parse_tokens, write_logits

    tokens = parse_tokens(args.tokens)
    with _open_for_arithmetic(args, len(tokens)) as model, progress_bar(args, len(tokens), "logits", "token") as bar:
        values = logits(model, tokens, batch=args.batch, progress=lambda done: bar.update(done - bar.n))
    write_logits(args.out, values)
    say(args, f"{args.out}: float32 {list(values.shape)}")
    return 0


def add_perplexity(commands: Commands) -> None:
    parser = command(
        commands,
        "perplexity",
        run_perplexity,
        "Perplexity of a text, as llama.cpp's perplexity of 2023-03-31 computes it; also bits per byte and character.",
        "perplexity -m files/ggml-model-q4_0.bin -f files/held-out/chinese.txt\n"
        "perplexity -m model.bin -f text.txt -c 256 --numerics exact",
    )
    _add_arithmetic(parser)
    parser.add_argument("-f", "--file", required=True, metavar="TEXT", help="the text (- is standard input)")
    parser.add_argument("-c", "--ctx-size", type=int, default=512, metavar="N", help="tokens a chunk (default 512)")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the running figures")


def run_perplexity(args: argparse.Namespace) -> int:
    from ggmlpy.formats.eras import DEFAULT_ERA
    from llama_ref.text.perplexity import perplexity, read_text
    from llama_ref.vocabulary.tokenizer import tokenizer_for

    text = sys.stdin.buffer.read() if args.file == "-" else read_text(args.file)
    with _open_for_arithmetic(args, args.ctx_size) as model:
        tokenizer = tokenizer_for(model.vocab, model.vocab.scores, args.era or DEFAULT_ERA)
        tokens = tokenizer.encode(text.removesuffix(b"\n"), bos=True)
        values: list[float] = []
        with progress_bar(args, len(tokens) // args.ctx_size, "perplexity", "chunk") as bar:
            shown = not args.json and (bar.disable or not sys.stdout.isatty())  # else the bar stands in their line
            for state in perplexity(model, tokens, lambda part: bar.update(len(values) + part - bar.n)):
                values.append(state.value)
                bar.set_postfix_str(f"perplexity {state.value:.4f}", refresh=False)
                if shown:
                    print(f"[{state.chunk}]{state.value:.4f},", end="", flush=True)
    if args.json:
        print_json({**state.as_dict(), "running": values})
        return 0
    print("" if shown else "".join(f"[{i}]{value:.4f}," for i, value in enumerate(values, 1)))
    say(args, f"perplexity {state.value:.4f} over {state.n_tokens} tokens")
    say(args, f"{state.bits_per_byte:.4f} bits per byte, {state.bits_per_character:.4f} bits per character")
    return 0


def add_verify(commands: Commands) -> None:
    parser = command(
        commands,
        "verify",
        run_verify,
        "Compare files with what was published (SHA256), an output with what its source should give, or another "
        "program's logits or text with every era and build.",
        "verify files/ggml-model-q4_0.bin --source files/ggml-model-f16.bin\n"
        "verify files/merged --source files/base --lora files/chinese-llama-lora,files/chinese-alpaca-lora\n"
        "verify models/13B\nverify adapter.zip\nverify mine/consolidated.00.pth theirs/consolidated.00.pth\n"
        "verify --logits theirs.npy --model ggml-model-q4_0.bin --tokens 1,15043,3186\n"
        'verify --text theirs.txt --model ggml-model-q4_0.bin --prompt "Hello World" -n 40 --seed 42',
    )
    parser.add_argument("paths", metavar="DIR|ZIP|FILE", nargs="*")
    parser.add_argument("--source", metavar="DIR|FILE", help="recompute what should come out of this, and compare")
    parser.add_argument("--lora", action="append", default=[], metavar="DIR|ZIP[,…]", help="the adapters of a merge")
    parser.add_argument("--tokenizer", metavar="FILE", help="tokenizer.model, if it is not beside the source")
    parser.add_argument("--markdown", action="store_true", help="with --source: a summary as Markdown")
    parser.add_argument("--junit", metavar="FILE", help="write the verdict as JUnit XML too, for a CI server")
    parser.add_argument("--logits", metavar="F.npy|F.bin", help="whose float32 [n_tokens, n_vocab] are these?")
    parser.add_argument("--tokens", metavar="IDS", help="with --logits: what was evaluated, separated by commas")
    parser.add_argument("--batch", type=int, metavar="N", help="with --logits: only N tokens at a time (default: any)")
    parser.add_argument("--text", metavar="FILE", help="whose text is this? With the options of generate, below")
    parser.add_argument("--stdin", metavar="FILE", help="with --text: what was typed")
    _add_main_options(parser)  # --era, --build, --memory-f32 and --json among them


def run_verify(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    if args.logits:
        return _verify_logits(args)
    if args.text:
        return _verify_text(args)
    if not args.paths:
        from ggmlpy.files.errors import UsageError

        raise UsageError("verify what? Name files or directories, or --logits FILE, or --text FILE")
    if args.source:
        return _verify_step(args)

    from toolchain.verify.published import bytes_to_read, verify

    with progress_bar(args, bytes_to_read(args.paths), "verify") as bar:
        report = verify(args.paths, bar.update)
    if args.json:
        print_json({"files": [asdict(verdict) for verdict in report.verdicts], "notes": report.notes})
    else:
        for verdict in report.verdicts:
            print(f"{verdict.status:<13} {verdict.path}\n{'':<13} {verdict.words}")
            if args.verbose or verdict.status in ("unknown", "differs", "no reference"):
                print(f"{'':<13} sha256 {verdict.sha256}, {verdict.size:,} bytes")
        for note in report.notes:
            print(note)
    if not report.verdicts:
        say(args, "nothing to verify here: no weights, adapters, tokenizers, archives or checklists")
    return report.exit_code


def _verify_step(args: argparse.Namespace) -> int:
    from ggmlpy.files.errors import UsageError
    from toolchain.verify.step import verify_output

    if len(args.paths) != 1:
        raise UsageError("--source goes with one output")
    adapters = [path for paths in args.lora for path in paths.split(",")]
    with progress_bar(args, _bytes_of(args.paths[0]), "verify") as bar:
        report = verify_output(
            args.paths[0],
            args.source,
            adapters,
            era=args.era,
            tokenizer=args.tokenizer,
            progress=searching(bar, "looking for the cause"),
        )
    _write_junit(args, report.junit)
    if args.json:
        print_json(report.as_dict())
    elif args.markdown:
        print(report.markdown(), end="")
    else:
        _print_report(args, report)
    return report.exit_code


def _write_junit(args: argparse.Namespace, text: Callable[[], str]) -> None:
    """``--junit``."""
    if args.junit:
        from ggmlpy.files.atomic import atomic_write

        with atomic_write(args.junit) as stream:
            stream.write(text().encode())


def _needs(args: argparse.Namespace, what: str, *names: str) -> None:
    from ggmlpy.files.errors import UsageError

    missing = [name for name in names if getattr(args, name) is None]
    if missing:
        raise UsageError(f"{what} needs --{' and --'.join(missing)}")
    if args.paths:
        raise UsageError(f"{what} takes no other file: {args.paths[0]}")


def _verify_logits(args: argparse.Namespace) -> int:
    from llama_ref.text.logits import parse_tokens
    from toolchain.verify.logits import verify_logits

    _needs(args, "--logits", "model", "tokens")
    with progress_bar(args, 0, "verify", "way") as bar:
        report = verify_logits(
            args.logits,
            args.model,
            parse_tokens(args.tokens),
            era=args.era,
            build=args.build,
            memory_f32=args.memory_f32 or None,
            batch=args.batch,
            progress=lambda done, total: _advance(bar, done, total),
        )
    return _show_finding(args, "logits", report)


def _verify_text(args: argparse.Namespace) -> int:
    from pathlib import Path

    from ggmlpy import open_model
    from ggmlpy.files.errors import UsageError
    from llama_ref.text.generate import real_seed
    from llama_ref.text.sampling import SamplingOptions
    from toolchain.verify.text import TextRequest, verify_text

    _needs(args, "--text", "model")
    if args.seed <= 0 and args.temp != 0:
        raise UsageError("--text needs the --seed that it was made with (main prints it)")
    interactive = args.interactive or args.interactive_first or args.instruct or bool(args.reverse_prompt)
    given = argparse.Namespace(**vars(args))
    given.json = False
    with open_model(args.model) as given.opened:
        options = _main_options(given, interactive or not args.prompt_parts)  # settles what depends on the file's era
    request = TextRequest(
        options,
        SamplingOptions(
            top_k=args.top_k,
            top_p=args.top_p,
            temp=args.temp,
            repeat_last_n=args.repeat_last_n,
            seed=real_seed(args.seed, given.era),
        ),
        args.repeat_penalty,
        stdin=Path(args.stdin).read_bytes() if args.stdin else b"",
        color=args.color,
        n_ctx=args.ctx_size,
        n_batch=args.batch_size or 8,
        ignore_eos=args.ignore_eos,
        memory_f32=True if args.memory_f32 else False if args.memory_f16 else None,
    )
    with progress_bar(args, 0, "verify", "way") as bar:
        report = verify_text(
            args.text,
            args.model,
            request,
            era=args.era,
            build=args.build,
            progress=lambda done, total: _advance(bar, done, total),
        )
    return _show_finding(args, "text", report)


def _advance(bar: Any, done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)


def _show_finding(args: argparse.Namespace, step: str, report: Any) -> int:
    from ggmlpy.verify.judge import junit

    _write_junit(args, lambda: junit(f"{step} of {report.model}", {report.path: _problem(report)}))
    if args.json:
        print_json(report.as_dict())
    else:
        for line in report.lines():
            print(line)
        print(f"{step}: {report.sentence()}")
    return int(report.exit_code)


def _problem(report: Any) -> str:
    return "" if report.exit_code == 0 else "\n".join([report.sentence(), *report.lines()])


def _print_report(args: argparse.Namespace, report: Any) -> None:
    if report.differing:
        print(f"{'tensor':<44} {'different':>12} {'of':>12} {'median ulp':>11} {'max ulp':>14} {'max error':>11}")
    for item in report.tensors if args.verbose else report.differing:
        figures = f"{item.n_different:>12,} {item.n_values:>12,} {item.median_ulp:>11g} {item.max_ulp:>14,}"
        print(f"{item.name:<44} {figures} {item.max_error:>11.3g}" + _odd_status(item.status))
    first = next((item for item in report.differing if item.a and item.b), None)
    if first:
        print(f"first difference: {first.name} row {first.row} column {first.column}")
        for side, view in (("expected", first.a), ("found", first.b)):
            place = f" at offset {view.offset}" if view.offset is not None else ""
            print(f"  {side} {view.layout}{place}  " + "  ".join(f"{n} {v!r}" for n, v in view.fields.items()))
            if view.codes:
                print(f"    codes  {' '.join(map(str, view.codes))}")
            print(f"    values {' '.join(f'{value:.6g}' for value in view.values)}")
    for cause in report.causes:
        print(f"likely cause: {cause}")
    if report.unexplained:
        print(f"unexplained: {len(report.unexplained)} tensors, {report.unexplained[0]} among them")
    print(f"{report.step}: {report.sentence()}")


def _odd_status(status: str) -> str:
    return "" if status in ("same", "differs") else f"  {status}"


def add_vectors(commands: Commands) -> None:
    words = "Golden vectors: make a family of tiny files, or check another program with them."
    parser = group(commands, "vectors", words, "check")
    inner = parser.add_subparsers(dest="vectors_command", metavar="make|check", required=True)
    make = command(
        inner,
        "make",
        run_vectors_make,
        "Write tiny checkpoints, adapters, GGML files of every container, type and era, logits and texts.",
        "vectors make golden --seed 7",
    )
    make.add_argument("directory", metavar="DIR", help="new or empty")
    make.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same bytes (default 0)")
    check = command(
        inner,
        "check",
        run_vectors_check,
        "Run another program over the inputs of a step, and verify what it makes of each.",
        "vectors check golden --command './quantize {in} {out} {ftype}' --era 2023-03-31\n"
        "vectors check golden --kind convert --command 'python convert.py {in} --outfile {out}' --era 2023-05-19",
    )
    check.add_argument("directory", metavar="DIR", help="what vectors make wrote")
    check.add_argument("--command", dest="program", required=True, metavar="'… {in} … {out} …'", help="what to run")
    check.add_argument(
        "--kind", default="quantize", help="quantize (default), convert, migrate, merge, to-hf, logits …"
    )
    check.add_argument("--era", metavar="DATE", help="only this era's cases")
    check.add_argument("--match", default="*", metavar="PATTERN", help="only these outputs: 'quantize/*/q4_0.bin'")
    check.add_argument("--timeout", type=float, default=600, metavar="S", help="seconds for each (default 600)")
    check.add_argument("--shell", action="store_true", help="the command is a shell's")
    check.add_argument("--junit", metavar="FILE", help="write the verdicts as JUnit XML too")
    check.add_argument("--json", action="store_true", help="the verdicts as JSON on stdout")


def run_vectors_make(args: argparse.Namespace) -> int:
    from toolchain.makers.vectors import make_vectors

    with progress_bar(args, 0, "make", "case") as bar:
        manifest = make_vectors(args.directory, args.seed, progress=lambda done, total: _advance(bar, done, total))
    say(args, f"{args.directory}: {len(manifest['inputs'])} inputs, {len(manifest['cases'])} cases, manifest.json")
    return 0


def run_vectors_check(args: argparse.Namespace) -> int:
    from toolchain.makers.vectors import check_vectors

    with progress_bar(args, 0, "check", "case") as bar:
        report = check_vectors(
            args.directory,
            args.program,
            kind=args.kind,
            era=args.era,
            match=args.match,
            timeout=args.timeout,
            shell=args.shell,
            progress=lambda done, total: _advance(bar, done, total),
        )
    _write_junit(args, report.junit)
    if args.json:
        print_json(report.as_dict())
    else:
        for result in report.results:
            if args.verbose or not result.right:
                print(result)
        print(report.sentence())
    return int(report.exit_code)


def add_doctor(commands: Commands) -> None:
    parser = command(
        commands,
        "doctor",
        run_doctor,
        "Look at a folder: what is there, what fits together, what does not, and the commands to run next.",
        "doctor files",
    )
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--json", action="store_true", help="the diagnosis as JSON on stdout")


def run_doctor(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from toolchain.look.doctor import examine, in_words

    diagnosis = examine(args.directory)
    if args.json:
        print_json(asdict(diagnosis))
        return diagnosis.exit_code
    for finding in diagnosis.found:
        print(f"{finding.kind:<10} {finding.path}\n{'':<10} {finding.words}")
    if not diagnosis.found:
        print(f"no model, adapter, tokenizer or GGML file in {args.directory}")
    for title, lines in (("fits", diagnosis.fits), ("does not fit", diagnosis.misfits), ("bad", diagnosis.bad)):
        if lines:
            print(f"\n{title}\n" + "\n".join(f"  {line}" for line in lines))
    if diagnosis.steps:
        memory = f", {in_words(diagnosis.free_memory)} of memory" if diagnosis.free_memory is not None else ""
        print(f"\nnext ({in_words(diagnosis.free_disk)} of disk{memory} free)")
    for step in diagnosis.steps:
        needs = f"{in_words(step.disk)} of disk, {in_words(step.memory)} of memory"
        print(f"  {step.command}\n      {step.why}: {needs}")
        if step.obstacle:
            print(f"      but {step.obstacle}")
    return diagnosis.exit_code


# ---------------------------------------------------------------------------------------------------- generation

_LITERAL_OPTIONS = {
    "-p": "--prompt",
    "-r": "--reverse-prompt",
    "-f": "--file",
    "-m": "--model",
    **{name: name for name in ("--prompt", "--reverse-prompt", "--in-prefix", "--file", "--model")},
}


class _AppendPrompt(argparse.Action):
    """``-p`` replaces the prompt, ``-f`` appends a file to it, in the order given, as ``main`` does."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        earlier = [] if self.metavar == "PROMPT" else namespace.prompt_parts
        namespace.prompt_parts = [*earlier, (self.metavar, values)]


def _take_values_literally(parser: argparse.ArgumentParser) -> None:
    """A prompt may begin with a dash: whatever follows ``-p`` is its value."""
    parse = parser.parse_known_args

    def parse_known_args(args: Any = None, namespace: Any = None) -> Any:
        joined, rest = [], iter(args)
        for argument in rest:
            value = next(rest, None) if argument in _LITERAL_OPTIONS else None
            joined.append(argument if value is None else f"{_LITERAL_OPTIONS[argument]}={value}")
        return parse(joined, namespace)

    parser.parse_known_args = parse_known_args  # type: ignore[method-assign]


def _add_main_options(parser: argparse.ArgumentParser) -> None:
    """Every option of llama.cpp's main of 2023-03-31, with its defaults, and how to compute."""
    _take_values_literally(parser)
    parser.set_defaults(prompt_parts=[])
    model = parser.add_argument_group("the model and its arithmetic")
    model.add_argument("-m", "--model", metavar="MODEL", help="a GGML or GGUF file (default: the demo model)")
    model.add_argument("--numerics", default="fast", metavar="HOW", help="fast (default), reference or exact")
    model.add_argument("--era", metavar="DATE", help="whose tokenizer, sampler, arithmetic (default: the file's)")
    model.add_argument("--build", metavar="B", help="exact: scalar (default), avx2, avx512 or cmake-avx2")
    model.add_argument("--norm-eps", type=float, default=1e-6, metavar="E", help="added in every norm (default 1e-6)")
    model.add_argument("-t", "--threads", type=int, metavar="N", help="threads (default: one a processor)")
    model.add_argument("-c", "--ctx-size", type=int, default=512, metavar="N", help="size of the context (default 512)")
    batch = "prompt tokens a batch (default: 8; fast: 128, its results depend on no batches)"
    model.add_argument("-b", "--batch-size", type=int, metavar="N", help=batch)
    model.add_argument("--memory-f32", action="store_true", help="keep keys and values in f32, not f16")
    model.add_argument("--memory-f16", action="store_true", help="the opposite: for era 2023-03-19, where f32 is usual")
    model.add_argument("--n-parts", type=int, default=-1, metavar="N", help="accepted; parts are found by themselves")
    model.add_argument("--mlock", action="store_true", help="accepted; the file is mapped")
    model.add_argument("--mtest", action="store_true", help="evaluate a full batch and the last position, then stop")

    text = parser.add_argument_group("the text")
    text.add_argument("-p", "--prompt", action=_AppendPrompt, metavar="PROMPT", help="what to continue")
    text.add_argument("-f", "--file", action=_AppendPrompt, metavar="FILE", help="a file with the prompt; - is stdin")
    text.add_argument("--random-prompt", action="store_true", help="begin with a word chosen by the seed")
    text.add_argument(
        "-n", "--n-predict", type=int, default=128, metavar="N", help="how many tokens (default 128; -1: no end)"
    )
    text.add_argument("--keep", type=int, default=0, metavar="N", help="prompt tokens kept in a full context; -1: all")
    text.add_argument("--ignore-eos", action="store_true", help="make the end of text unlikely")

    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("-s", "--seed", type=int, default=-1, metavar="SEED", help="0 and less: the time (default)")
    sampling.add_argument("--top-k", type=int, default=40, metavar="N", help="of the N most likely (default 40)")
    sampling.add_argument("--top-p", type=float, default=0.95, metavar="P", help="with this probability (default 0.95)")
    sampling.add_argument("--temp", type=float, default=0.80, metavar="T", help="temperature (default 0.8; 0: greedy)")
    sampling.add_argument("--repeat-last-n", type=int, default=64, metavar="N", help="penalize the last N (default 64)")
    sampling.add_argument(
        "--repeat-penalty", type=float, metavar="X", help="how much (default 1.1; 1.3 for era 2023-03-19)"
    )
    sampling.add_argument("--trace-sampling", metavar="FILE", help="a JSON line a token: candidates and draw")

    talk = parser.add_argument_group("interaction")
    talk.add_argument("-i", "--interactive", "--interactive-start", action="store_true", help="Ctrl-C takes the turn")
    talk.add_argument("--interactive-first", action="store_true", help="you have the first turn")
    talk.add_argument("-ins", "--instruct", action="store_true", help="instructions in the Alpaca template")
    talk.add_argument(
        "-r",
        "--reverse-prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="your turn when it writes this",
    )
    talk.add_argument("--in-prefix", default="", metavar="TEXT", help="put in front of each of your turns")

    shown = parser.add_argument_group("what is shown")
    shown.add_argument("--color", action="store_true", help="prompt yellow, your turns green")
    shown.add_argument("--show-prompt", action="store_true", help="on stderr: what the model sees, with token ids")
    shown.add_argument("--verbose-prompt", action="store_true", help="on stderr: the prompt's tokens, as main")
    shown.add_argument("--json", action="store_true", help="one JSON document instead of the text")
    parser.add_argument("--perplexity", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--embedding", action="store_true", help=argparse.SUPPRESS)


def add_generate(commands: Commands) -> None:
    parser = command(
        commands,
        "generate",
        run_generate,
        "Continue a text, as llama.cpp's main of 2023-03-31 does.",
        'generate -p "介绍北京" -n 64\n'
        'generate -m files/ggml-model-q4_0.bin -p "Once upon a time" -n 64 -s 42\n'
        "generate -m ggml-model-q4_0.bin -f prompts/alpaca.txt -ins --color\n"
        "generate -m original.bin --compare-with chinese.bin -f prompts.txt --markdown",
    )
    _add_main_options(parser)
    both = parser.add_argument_group("two models side by side")
    both.add_argument("--compare-with", metavar="MODEL_B", help="answer every line of the prompt file with both models")
    both.add_argument("--markdown", action="store_true", help="the comparison as a Markdown table")


def run_generate(args: argparse.Namespace) -> int:
    for name in ("perplexity", "embedding"):
        if getattr(args, name):
            stars = "\n************\n"
            print(f"{stars}main: please use the '{name}' tool for {name} calculations{stars}")
            return 0
    if args.compare_with:
        return _compare_texts(args)
    _open_file(args)
    from llama_ref.text.generate import lines_of

    return _run_main(args, lines_of(sys.stdin.buffer, sys.stdout.buffer))


def add_chat(commands: Commands) -> None:
    parser = command(
        commands,
        "chat",
        run_chat,
        "Talk with an instruction model: generate -ins with the Alpaca template, a line editor and its history.",
        "chat\nchat -m files/ggml-model-q4_0.bin --temp 0.2\n"
        "chat -m zh-alpaca/ggml-model-q4_0.bin -c 2048 --temp 0.2 --repeat-penalty 1.3",
    )
    _add_main_options(parser)


def run_chat(args: argparse.Namespace) -> int:
    _open_file(args)
    from llama_ref.text.chat import ALPACA_PROMPT, edited_lines

    args.instruct = True
    args.color = args.color or sys.stdout.isatty()
    if not args.prompt_parts and not args.random_prompt:
        args.prompt_parts = [("PROMPT", ALPACA_PROMPT.decode())]
    with edited_lines() as read_line:
        return _run_main(args, read_line)


def _run_main(args: argparse.Namespace, read_line: Any) -> int:
    """One generation or conversation on this terminal."""
    import io

    from llama_ref.text.generate import Console, MainLoop, PromptTooLongError, timings_text, trace_sampling

    interactive = args.interactive or args.interactive_first or args.instruct or bool(args.reverse_prompt)
    options = _main_options(args, interactive)
    model = _open_main_model(args)
    with model, trace_sampling(args.trace_sampling, model.vocab) as on_sample:
        conversation = _conversation(args, model, on_sample)
        if args.mtest:
            conversation.memory_test(args.n_predict)
        else:
            console = Console(io.BytesIO() if args.json else sys.stdout.buffer, read_line, use_color=args.color)
            try:
                loop = MainLoop(conversation, options, console, lambda text: say(args, text), collect=args.json)
            except PromptTooLongError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            _introduce(args, loop)
            bar = None if interactive else _token_bar(args, conversation)
            try:
                loop.run()
            except KeyboardInterrupt:
                console.close()
                return 130
            finally:
                if bar is not None:
                    bar.close()
            if loop.ended_by == "end of input" and sys.stdout.isatty():
                console.close()
            if args.json:
                print_json(loop.as_record())
        say(args, "\n" + timings_text(args.load_seconds, conversation.timings, time.perf_counter() - args.began))
    return 0


def _token_bar(args: argparse.Namespace, conversation: Any) -> Any:
    """A bar of the tokens that are made, where the text itself is not to be seen on the terminal as it grows."""
    if args.quiet or not sys.stderr.isatty() or (sys.stdout.isatty() and not args.json):
        return None
    bar = progress_bar(args, args.n_predict if args.n_predict > 0 else None, "generate", "token")
    traced = conversation.on_sample

    def sampled(sample: Any, logits: Any) -> None:
        bar.update()
        if traced is not None:
            traced(sample, logits)

    conversation.on_sample = sampled
    return bar


def _main_options(args: argparse.Namespace, interactive: bool) -> Any:
    """What main's loop is asked to do; the seed becomes the one that is used, the era the one that counts."""
    from ggmlpy.files.errors import UsageError
    from llama_ref.text.generate import MainOptions, random_prompt, read_prompt

    if args.json and interactive:
        raise UsageError("--json and interaction exclude each other")
    _settle(args)
    parts = args.prompt_parts
    if not parts and not interactive and not args.random_prompt and not sys.stdin.isatty():
        parts = [("FILE", "-")]
    prompt = random_prompt(args.seed).encode() if args.random_prompt else read_prompt(parts, sys.stdin.buffer)
    return MainOptions(
        prompt=prompt,
        n_predict=args.n_predict,
        n_keep=args.keep,
        interactive=args.interactive,
        interactive_first=args.interactive_first,
        instruct=args.instruct,
        reverse_prompts=tuple(map(os.fsencode, args.reverse_prompt)),
        input_prefix=os.fsencode(args.in_prefix),
    )


def _open_file(args: argparse.Namespace) -> None:
    """Open the model's file; `_open_main_model` makes a model of it."""
    from ggmlpy import open_model

    args.model = args.model or _demo_model(args)
    args.began = time.perf_counter()
    args.opened = open_model(args.model)
    if args.numerics == "fast":
        args.opened.touch_ahead()  # while the rest is imported
    args.load_seconds = time.perf_counter() - args.began


def _settle(args: argparse.Namespace) -> None:
    """Fill in what depends on the model's era: seed, repeat penalty and cache precision."""
    from ggmlpy.formats.eras import era_of
    from llama_ref.arithmetic import natural_era
    from llama_ref.text.generate import real_seed

    args.era = era_of(args.era or natural_era(args.opened)).date
    first = era_of(args.era).pin == "p0"
    args.seed = real_seed(args.seed, args.era)
    args.repeat_penalty = (1.30 if first else 1.10) if args.repeat_penalty is None else args.repeat_penalty
    args.memory_f32 = args.memory_f32 or (first and not args.memory_f16)
    say(args, f"seed = {args.seed}")


def _demo_model(args: argparse.Namespace) -> str:
    """The model that answers where none is named; made on the first call."""
    from toolchain.demo.story import default_model

    return str(default_model(lambda words: say(args, words)))


def _open_main_model(args: argparse.Namespace) -> Any:
    from llama_ref.arithmetic import backend_class
    from llama_ref.text.model import Model

    if args.ctx_size > 2048:
        say(args, f"warning: LLaMA was trained on 2048 positions; expect poor results beyond them (-c {args.ctx_size})")
    backend_class(args.numerics)  # imports are no part of loading
    began = time.perf_counter()
    model = Model.from_file(
        args.opened,
        numerics=args.numerics,
        era=args.era,
        build=args.build,
        n_ctx=args.ctx_size,
        memory_f32=args.memory_f32,
        n_threads=args.threads,
        norm_eps=args.norm_eps,
    )
    args.load_seconds += time.perf_counter() - began
    return model


def _conversation(args: argparse.Namespace, model: Any, on_sample: Any = None) -> Any:
    from llama_ref.text.conversation import Conversation
    from llama_ref.text.sampling import SamplingOptions

    sampling = SamplingOptions(
        top_k=args.top_k,
        top_p=args.top_p,
        temp=args.temp,
        repeat_penalty=args.repeat_penalty,
        repeat_last_n=args.repeat_last_n,
        seed=args.seed,
    )
    return Conversation(
        model,
        sampling,
        args.era,
        n_batch=(128 if args.numerics == "fast" else 8) if args.batch_size is None else args.batch_size,
        ignore_eos=args.ignore_eos,
        on_sample=on_sample,
    )


def _introduce(args: argparse.Namespace, loop: Any) -> None:
    """What the person should know before the first token, on stderr."""
    from llama_ref.text.chat import instruction_warning
    from llama_ref.text.generate import prompt_table

    conversation = loop.conversation
    warning = instruction_warning(conversation.model.n_vocab) if args.instruct else None
    if warning:
        say(args, f"warning: {warning}")
    if args.verbose_prompt:
        print("\n" + loop.prompt_words(), file=sys.stderr)
    if args.show_prompt:
        table = lambda tokens: print(prompt_table(tokens, conversation.tokenizer), file=sys.stderr)  # noqa: E731
        print("prompt, as the model sees it:", file=sys.stderr)
        table(loop.prompt_tokens)
        loop.on_turn = table
    say(args, loop.settings_words())


def _compare_texts(args: argparse.Namespace) -> int:
    """``generate --compare-with``."""
    import functools
    import shutil

    from ggmlpy.files.errors import UsageError
    from llama_ref.text.generate import read_prompt
    from toolchain.look.texts import Row, answers, as_markdown, as_text, prompts_of

    if not args.prompt_parts:
        raise UsageError("--compare-with needs prompts: -f prompts.txt (one a line)")
    prompts = prompts_of(read_prompt(args.prompt_parts, sys.stdin.buffer))
    columns, paths = [], []
    with progress_bar(args, 2 * len(prompts), "prompts", "prompt") as bar:
        for path in (args.model, args.compare_with):
            each = argparse.Namespace(**vars(args))
            each.model = path
            _open_file(each)
            _settle(each)
            paths.append(each.model)
            args.seed = each.seed
            with _open_main_model(each) as model:
                columns.append(
                    answers(
                        functools.partial(_conversation, each, model),
                        prompts,
                        max_tokens=args.n_predict,
                        instruct=args.instruct,
                        on_answer=bar.update,
                    )
                )
    rows = [Row(prompt, list(given)) for prompt, given in zip(prompts, zip(*columns, strict=True), strict=True)]
    names = [os.path.basename(path) for path in paths]
    names = paths if names[0] == names[1] else names
    if args.json:
        print_json(
            [{"prompt": row.prompt, "answers": dict(zip(names, map(vars, row.answers), strict=True))} for row in rows]
        )
    elif args.markdown:
        print(as_markdown(rows, names))
    else:
        print(as_text(rows, names, shutil.get_terminal_size((100, 24)).columns))
    return 0


def add_tokenize(commands: Commands) -> None:
    parser = command(
        commands,
        "tokenize",
        run_tokenize,
        "Split a text into tokens: pieces, ids and bytes. One space is put in front, as main and SentencePiece do.",
        'tokenize -m files/ggml-model-q4_0.bin "你好，世界"\n'
        'tokenize -m files/base/tokenizer.model --compare "1234567 apples"',
    )
    parser.add_argument("-m", "--model", metavar="FILE", help="a GGML file or a tokenizer.model")
    parser.add_argument("words", nargs="+", metavar="[tokenizer.model] TEXT", help="the text; - is stdin")
    parser.add_argument("--era", metavar="DATE", help="2023-03-19 splits greedily (default: the file's)")
    parser.add_argument("--tokenizer", metavar="T.model", help="with --compare: the SentencePiece model of a GGML file")
    parser.add_argument("--bos", action="store_true", help="begin with the beginning-of-sequence token")
    parser.add_argument("--no-space", action="store_true", help="put no space in front (GGML tokenizers)")
    parser.add_argument("--compare", action="store_true", help="show where greedy, score and SentencePiece disagree")
    parser.add_argument("--json", action="store_true", help="as JSON on stdout")


def run_tokenize(args: argparse.Namespace) -> int:
    from toolchain.look.tokens import comparison_lines, encode_text, open_tokenizers, token_lines, token_records

    path, words = (args.model, args.words) if args.model else (args.words[0], args.words[1:])
    if not words:
        from ggmlpy.files.errors import UsageError

        raise UsageError("no text to tokenize")
    text = sys.stdin.buffer.read() if words == ["-"] else os.fsencode(" ".join(words))
    name, tokenizers = open_tokenizers(path, args.era, args.tokenizer)
    chosen = tokenizers if args.compare else {name: tokenizers[name]}
    space = not args.no_space
    results = {name: (each, encode_text(each, text, bos=args.bos, space=space)) for name, each in chosen.items()}
    if args.json:
        print_json({name: token_records(*result) for name, result in results.items()})
        return 0
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for name, (tokenizer, ids) in results.items():
        say(args, f"{name}: {len(ids)} tokens")
        for line in token_lines(tokenizer, ids, color=color):
            print(line)
    if args.compare:
        for line in comparison_lines(b" " + text if space else text, results):
            print(line)
    return 0


def add_bench(commands: Commands) -> None:
    parser = command(
        commands,
        "bench",
        run_bench,
        "Tokens a second, for prompts and generation, and what share of the machine's read bandwidth that uses.",
        "bench -m files/ggml-model-q4_0.bin\nbench -m files/ggml-model-q4_0.bin -t 1 --json",
    )
    parser.add_argument("-m", "--model", required=True, metavar="MODEL", help="the model file")
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="only this many (default: 1, 2, 4 … all)")
    parser.add_argument("-n", "--prompt-tokens", type=int, default=128, metavar="N", help="of the prompt (default 128)")
    parser.add_argument("-r", "--rounds", type=int, default=5, metavar="N", help="repetitions (default 5)")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run_bench(args: argparse.Namespace) -> int:
    from llama_ref.arithmetic.fast.backend import available_processors
    from llama_ref.text.bench import bench, table

    most = available_processors()
    every = sorted({most, *(2**i for i in range(most.bit_length()))})
    threads = every if args.threads is None else [args.threads]
    say(args, f"measuring with {', '.join(map(str, threads))} threads; close other programs")
    measurements = len(threads) * (args.rounds + (min(args.rounds, 3) if args.prompt_tokens else 0))
    with progress_bar(args, measurements, "bench", "round") as bar:
        results = bench(args.model, threads, args.prompt_tokens, args.rounds, progress=bar.update)
    if args.json:
        print_json([result.as_dict() for result in results])
    else:
        print(table(results))
    return 0


# -------------------------------------------------------------------------------------------------- training and demo

ONE_BLAS_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def add_train(commands: Commands) -> None:
    words = "Train a base, an adapter or the demo model: the recipe of Chinese-LLaMA-Alpaca in numpy."
    parser = group(commands, "train", words, "stage1")
    inner = parser.add_subparsers(dest="action", metavar="STAGE", required=True)
    demo = command(
        inner,
        "demo",
        run_train_demo,
        "Make the demo model from nothing: corpus, vocabularies, base, stages one and two, instruction tuning.",
        "train demo --output demo_model",
    )
    demo.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="goes on with what an earlier run left there"
    )
    demo.add_argument("--seed", type=int, default=2023, help="default 2023, the shipped model's")
    demo.add_argument("--steps", type=int, metavar="N", help="of every stage, for a quick look")
    demo.set_defaults(environment=ONE_BLAS_THREAD)
    for name, summary in (
        ("pretrain", "Train a base model from nothing on texts; published as Meta published LLaMA."),
        ("stage1", "Stage one: a grown vocabulary's token embeddings alone, on texts in the new language."),
        ("stage2", "Stage two: LoRA on q k v o gate down up, embeddings and output, on the same texts."),
        ("instruct", "Instruction tuning: the same on Alpaca records; the prompt's tokens do not count."),
    ):
        _add_stage(inner, name, summary)
    plot = command(
        inner, "plot", run_train_plot, "Plot loss curves.", "train plot stage1-lora/work stage2-lora/work -o loss.svg"
    )
    plot.add_argument("logs", nargs="+", metavar="LOG", help="log.jsonl files or their folders, in order")
    plot.add_argument("-o", "--output", required=True, metavar="FILE", help=".svg, or what matplotlib writes")


_CHINESE = "files/held-out/chinese.txt --tokenizer files/chinese-llama-lora/tokenizer.model --base files/base"
STAGE_EXAMPLES = {
    "pretrain": "files/held-out/english.txt --tokenizer files/base/tokenizer.model --steps 20 --rows 1",
    "stage1": f"{_CHINESE} --steps 20 --rows 1",
    "stage2": f"{_CHINESE} --adapter stage1-lora --steps 20 --rows 1",
    "instruct": "instructions.json --tokenizer files/merged/tokenizer.model --base files/merged",
}


def _add_stage(inner: Commands, name: str, summary: str) -> None:
    example = f"train {name} {STAGE_EXAMPLES[name]} --output {'base' if name == 'pretrain' else name + '-lora'}"
    stage = command(inner, name, run_train_stage, summary, example)
    stage.add_argument("data", nargs="+", metavar="FILE", help="texts between empty lines; records for instruct")
    stage.add_argument(
        "--tokenizer", required=True, metavar="FILE", help="tokenizer.model, the grown one after pretrain"
    )
    stage.add_argument("-o", "--output", required=True, metavar="DIR")
    if name == "pretrain":
        shape = stage.add_argument_group("shape (default: 1 million parameters and the vocabulary)")
        for option, default in (("n-embd", 128), ("n-mult", 32), ("n-head", 4), ("n-layer", 4)):
            shape.add_argument(f"--{option}", type=int, default=default, metavar="N", help=f"default {default}")
    else:
        stage.add_argument("--base", required=True, metavar="DIR", help="the model to start from")
    if name == "stage2":
        stage.add_argument(
            "--adapter", metavar="DIR", help="what stage1 published: its embeddings take the base's place"
        )
    if name in ("stage2", "instruct"):
        stage.add_argument("--r", type=int, default=8, metavar="N", help="rank (default 8)")
        stage.add_argument("--alpha", type=float, default=32, metavar="X", help="default 32")
        stage.add_argument("--dropout", type=float, default=0.05, metavar="P", help="default 0.05")
    stage.add_argument("--learning-rate", type=float, metavar="X", help="default: as Chinese-LLaMA-Alpaca")
    stage.add_argument("--steps", type=int, metavar="N", help="default: as Chinese-LLaMA-Alpaca")
    stage.add_argument(
        "--warmup", type=float, metavar="PART", help="part of the steps in which the rate rises (default: likewise)"
    )
    stage.add_argument("--weight-decay", type=float, metavar="X", help="default: likewise")
    stage.add_argument(
        "--accumulation",
        type=int,
        default=1,
        metavar="N",
        help="batches an update (default 1; Chinese-LLaMA-Alpaca: 8)",
    )
    stage.add_argument(
        "--rows", type=int, default=8, metavar="N", help="of a batch (default 8; Chinese-LLaMA-Alpaca: 1)"
    )
    stage.add_argument("--length", type=int, default=512, metavar="N", help="positions a row (default 512)")
    stage.add_argument("--seed", type=int, default=0, help="default 0")
    stage.add_argument("--resume", action="store_true", help="go on from the checkpoint in DIR/work")
    stage.set_defaults(environment=ONE_BLAS_THREAD)


class _TrainingBar:
    """Loss, tokens a second and time left of each stage, on stderr."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.bar, self.stage = args, None, ""  # type: argparse.Namespace, Any, str

    def __call__(self, stage: str, n_steps: int, progress: Any) -> None:
        if stage != self.stage:
            self.close()
            self.stage, self.bar = stage, progress_bar(self.args, n_steps, stage, "step")
            self.bar.update(progress.step - 1)
        speed = progress.n_tokens / progress.seconds
        self.bar.set_postfix_str(f"loss {progress.loss:.3f}, {speed:,.0f} tokens/s", refresh=False)
        self.bar.update(1)
        if progress.step == n_steps:
            self.close()
            say(self.args, f"{stage}: loss {progress.loss:.3f} after {n_steps} steps")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None


def run_train_demo(args: argparse.Namespace) -> int:
    from toolchain.makers.recipe import DemoRecipe, train_demo

    began, recipe = time.perf_counter(), DemoRecipe(seed=args.seed)
    if args.steps is not None:
        recipe = DemoRecipe(seed=args.seed, steps=dict.fromkeys(recipe.steps, args.steps))
    folder = train_demo(args.output, recipe, _TrainingBar(args), lambda words: say(args, words))
    say(args, f"{folder}: done in {(time.perf_counter() - began) / 60:.1f} minutes")
    return 0


def run_train_stage(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from llama_ref.checkpoint.params import Params
    from lora.training.model import Lora
    from lora.training.run_stage import StageInput, run_stage
    from lora.training.stages import STAGES

    chosen = {
        "learning_rate": args.learning_rate,
        "n_steps": args.steps,
        "warmup": args.warmup,
        "weight_decay": args.weight_decay,
        "accumulation": args.accumulation,
        "seed": args.seed,
    }
    settings = replace(STAGES[args.action].settings, **{name: v for name, v in chosen.items() if v is not None})
    shape = Params(args.n_embd, args.n_mult, args.n_head, args.n_layer) if args.action == "pretrain" else None
    base, adapter = getattr(args, "base", None), getattr(args, "adapter", None)
    given = StageInput(args.data, args.tokenizer, base, adapter, shape, args.rows, args.length)
    lora = Lora(args.r, args.alpha, args.dropout) if hasattr(args, "r") else None
    bar = _TrainingBar(args)
    report = lambda progress: bar(args.action, settings.n_steps, progress)  # noqa: E731
    run = run_stage(args.action, given, args.output, settings, lora=lora, resume=args.resume, report=report)
    bar.close()
    say(args, f"{args.output}: {len(run.optimizer.trained)} tensors trained, {run.step} steps")
    return 0


def run_train_plot(args: argparse.Namespace) -> int:
    from lora.training.plot import plot_losses

    plot_losses(args.logs, args.output)
    say(args, args.output)
    return 0


def add_instructions(commands: Commands) -> None:
    parser = command(
        commands,
        "instructions",
        run_instructions,
        "Read instruction data in any state, repair what can be repaired, and write clean Alpaca JSON.",
        "instructions replies.txt more.json --output clean.json",
    )
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("-o", "--output", metavar="OUT", help="default: stdout")
    parser.add_argument("--json", action="store_true", help="the report as JSON on stdout (needs --output)")


def run_instructions(args: argparse.Namespace) -> int:
    from ggmlpy.files.errors import UsageError
    from lora.training.instructions import merge_records, read_instructions, write_instructions

    if args.json and not args.output:
        raise UsageError("--json writes the report to stdout: name a file for the records with --output")
    read = {path: read_instructions(path) for path in args.files}
    records = merge_records(records for records, _ in read.values())
    for path, (_, report) in read.items():
        say(args, f"{path}: {report}")
        for finding in report.findings if args.verbose else ():
            say(args, f"  {finding}")
    if args.output:
        write_instructions(args.output, records)
        say(args, f"{args.output}: {len(records)} records")
    if args.json:
        print_json({path: report.as_dict() for path, (_, report) in read.items()})
    elif not args.output:
        print_json(records)
    return 0


def add_crawl(commands: Commands) -> None:
    parser = command(
        commands,
        "crawl",
        run_crawl,
        "Ask a language model for instruction data, twenty records at a time; an interrupted crawl goes on.",
        "crawl data.json --url https://api.openai.com/v1 --model gpt-3.5-turbo --requests 50",
    )
    parser.add_argument("output", metavar="OUT", help="JSON; the replies as they came stand in OUT.raw.jsonl")
    parser.add_argument("--url", default="https://api.openai.com/v1", help="endpoint (default %(default)s)")
    parser.add_argument("--model", required=True, help="its name at the endpoint")
    parser.add_argument("--requests", type=int, default=1, metavar="N", help="replies in all (default 1)")
    parser.add_argument("--items", type=int, default=20, metavar="N", help="records a reply (default 20)")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="X", help="default 1.0")
    parser.add_argument("--seed", type=int, default=0, help="of topics and kinds of task (default 0)")
    parser.add_argument(
        "--key-variable", default="OPENAI_API_KEY", metavar="NAME", help="environment variable (default %(default)s)"
    )


def run_crawl(args: argparse.Namespace) -> int:
    from lora.training.crawl import CrawlOptions, crawl

    options = CrawlOptions(
        args.url,
        args.model,
        n_requests=args.requests,
        n_items=args.items,
        seed=args.seed,
        temperature=args.temperature,
        key_variable=args.key_variable,
    )
    with progress_bar(args, args.requests, "crawl", "reply") as bar:
        report = crawl(args.output, options, progress=bar.update)
    say(args, f"{args.output}: {report}")
    return 0


def add_demo(commands: Commands) -> None:
    parser = command(
        commands,
        "demo",
        run_demo,
        "The whole story on the embedded demo model: verify, merge, convert, quantize, before and after.",
        "demo\ndemo --output files",
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="keep what is made (default: a temporary folder)")
    parser.add_argument("--all", action="store_true", help="all ten prompts")
    parser.add_argument("--json", action="store_true", help="the figures and answers as JSON on stdout")


def run_demo(args: argparse.Namespace) -> int:
    import tempfile
    from contextlib import nullcontext

    from toolchain.demo.story import copy_inputs, tell

    folder = nullcontext(args.output) if args.output else tempfile.TemporaryDirectory(prefix="ggmlpy-demo-")
    teller = _Teller(args)
    with folder as name:
        story = tell(name, teller, every_prompt=args.all)
        if args.output:
            copy_inputs(args.output)
            say(args, f"{args.output}: all files; with the name files, {PROGRAM} COMMAND --help has examples of them")
    if args.json:
        print_json(story)
    return 0


class _Teller:
    """Prints the demo's story: headings, tables and texts, in colour on a terminal."""

    def __init__(self, args: argparse.Namespace) -> None:
        import shutil

        self.silent, self.n = args.json, 0
        self.colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.width = min(100, shutil.get_terminal_size((100, 24)).columns)

    def heading(self, title: str, why: str) -> None:
        import textwrap

        self.n += 1
        if not self.silent:
            print(f"\n{self.paint('1;36', f'{self.n}  {title}')}")
            print(self.paint("2", textwrap.fill(why, self.width, initial_indent="   ", subsequent_indent="   ")))

    def line(self, text: str) -> None:
        if not self.silent:
            print("   " + text, flush=True)

    def good(self, text: str) -> None:
        self.line(f"{self.paint('32', '✓')} {text}")

    def table(self, rows: list[tuple[str, ...]]) -> None:
        """The first row is a heading; all columns but the first are right-aligned."""
        widths = [max(_columns(row[i]) for row in rows) for i in range(len(rows[0]))]
        for number, row in enumerate(rows):
            cells = [_padded(cell, width, left=not i) for i, (cell, width) in enumerate(zip(row, widths))]
            self.line(self.paint("2", "  ".join(cells)) if not number else "  ".join(cells))

    def tokens(self, pieces: Sequence[str]) -> None:
        """Tokens side by side, each on its own background, or between bars; bytes in hexadecimal."""
        backgrounds, line, room = (153, 187, 183, 223, 115), "", self.width - 4
        for i, piece in enumerate(pieces):
            shown = piece[3:5] if piece.startswith("<0x") else piece
            if room < _columns(shown) + 1:
                self.line(line)
                line, room = "", self.width - 4
            room -= _columns(shown) + (0 if self.colour else 1)
            line += self.paint(f"30;48;5;{backgrounds[i % 5]}", shown) if self.colour else f"|{shown}"
        self.line(line)

    def speech(self, who: str, text: str, colour: str) -> None:
        """A speaker, and what was said, wrapped by the columns that Chinese characters take."""
        for i, line in enumerate(_wrapped(text, self.width - 13)):
            self.line(f"{self.paint(colour, _padded(who if not i else '', 8, left=True))} {line}")

    def paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.colour else text


def _columns(text: str) -> int:
    """Columns that a text takes on a terminal: Chinese characters take two."""
    import unicodedata

    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _padded(text: str, width: int, *, left: bool) -> str:
    space = " " * max(0, width - _columns(text))
    return text + space if left else space + text


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of about ``width`` columns: cut between words, or anywhere in Chinese but in front of its punctuation."""
    lines = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for character in paragraph:
            line += character
            if _columns(line) > width and character not in "，。！？；：、”":
                head, _, tail = line.rpartition(" ")
                full, line = (head, tail) if head and tail.isascii() else (line[:-1], character)
                lines.append(full)
        lines.append(line)
    return lines


COMMANDS: tuple[Callable[[Commands], None], ...] = (
    add_generate,
    add_chat,
    add_tokenize,
    add_merge,
    add_tokenizer,
    add_quantize,
    add_migrate,
    add_inspect,
    add_identify,
    add_hexdump,
    add_report,
    add_compare,
    add_fingerprint,
    add_convert,
    add_to_hf,
    add_from_hf,
    add_logits,
    add_perplexity,
    add_bench,
    add_verify,
    add_vectors,
    add_doctor,
    add_train,
    add_instructions,
    add_crawl,
    add_demo,
)

if __name__ == "__main__":
    sys.exit(main())
