"""identify, inspect, hexdump, explain, report, explore, fingerprint: what a file is and what is in it."""

from __future__ import annotations

import argparse
from typing import Any

from toolchain.terminal.bars import bytes_of, progress_bar
from toolchain.terminal.colors import BOLD, DIM, GREEN, painted, wants_color
from toolchain.terminal.foreign import one_line
from toolchain.terminal.program import spoken, spoken_within
from toolchain.terminal.talk import complain, print_json, put, put_painted, say

from .options import Commands, command, json_option, model_option, model_or_demo, whole, writes


def add_identify(commands: Commands) -> None:
    parser = command(
        commands,
        "identify",
        run_identify,
        "Say what a file is, which era wrote it, whether it is whole, what can read it, and what to do next.",
        "identify files/ggml-model-q4_0.bin\nidentify --json models/*.bin",
    )
    parser.add_argument("files", metavar="FILE", nargs="+")
    json_option(parser)


def run_identify(args: argparse.Namespace) -> int:
    from ggmlpy.files.errors import FormatError
    from toolchain.look.identify import identify_any

    found, failed = [], []
    for file in args.files:
        try:
            with progress_bar(args, bytes_of(file), "identify") as bar:
                found.append(identify_any(file, bar.update))
        except FormatError as error:
            failed.append(error)
    if args.json:
        unknown = [{"path": item.path, "problems": [str(item)], "next_step": item.next_step} for item in failed]
        print_json(spoken_within([item.as_dict() for item in found] + unknown))
    for item in [] if args.json else found:
        _print_identification(item)
    for failure in [] if args.json else failed:
        complain(spoken(failure))
    return 3 if failed or any(item.problems for item in found) else 0


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
        ("evaluated", _arithmetics(item.arithmetic)),
        *(("problem", problem) for problem in item.problems),
        ("next", item.next_step),
    )
    put(item.path)
    for name, value in rows:
        if value:
            put(f"  {name:<11} {spoken(value)}")


def _arithmetics(reasons: dict[str, str]) -> str:
    """The ways to evaluate a model, and why others can't.

    >>> _arithmetics({"fast": "", "reference": "", "exact": "has biases"})
    '--numerics fast, reference; not exact: has biases'
    >>> _arithmetics({"fast": "heads of an odd width", "reference": "heads of an odd width"})
    'by nothing here: heads of an odd width'
    """
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    able = by_reason.pop("", [])
    if not able:
        return f"by nothing here: {'; '.join(by_reason)}" if reasons else ""
    refused = [f"not {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
    return "; ".join([f"--numerics {', '.join(able)}", *refused])


def add_inspect(commands: Commands) -> None:
    parser = command(
        commands,
        "inspect",
        run_inspect,
        "Show a model file: header, a sample of the vocabulary, the table of tensors.",
        "inspect files/ggml-model-q4_0.bin --tensors",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--tensors", action="store_true", help="also show the table of tensors")
    parser.add_argument("--metadata", action="store_true", help="also show the keys of a GGUF file")
    parser.add_argument(
        "--vocab",
        type=whole(),
        default=5,
        metavar="N",
        help="entries to show from each end of the vocabulary (default 5)",
    )
    json_option(parser, "everything")


def run_inspect(args: argparse.Namespace) -> int:
    from ggmlpy import open_model
    from ggmlpy.formats.ggla import is_ggla, open_ggla
    from ggmlpy.formats.importance import is_importance
    from ggmlpy.look.contents import summarize, summarize_ggla

    if is_importance(args.file):
        return _inspect_importance(args)
    if is_ggla(args.file):
        summary = summarize_ggla(open_ggla(args.file))
    else:
        with open_model(args.file, any_architecture=True) as model, progress_bar(args, model.size, "inspect") as bar:
            summary = summarize(model, tensors=args.tensors or args.json, sample=args.vocab, progress=bar.update)
    if args.json:
        print_json(summary)
        return 0
    _print_summary(summary)
    _print_tables(summary, args)
    return 0


def _print_tables(summary: dict[str, Any], args: argparse.Namespace) -> None:
    """The keys and the tensors, where they are asked for."""
    for row in summary.get("metadata", ()) if args.metadata else ():
        length = f" ({row['length']:,} items)" if "length" in row else ""
        put(f"  {one_line(row['key']):<40} {row['type']:<15} {one_line(str(row['value']))[:100]}{length}")
    for row in summary.get("tensors", ()) if args.tensors else ():
        shape = " x ".join(map(str, row["shape"]))
        place = f"at {row['offset']:>13,} {row['bytes']:>13,} bytes"
        put(f"  {one_line(row['name']):<40} {row['type']:<5} {shape:>15} {place}")


def _inspect_importance(args: argparse.Namespace) -> int:
    """Each matrix with the size of its weights."""
    from ggmlpy.formats.importance import open_importance, rows_of

    matrix = open_importance(args.file)
    facts = {"format": matrix.format, "datasets": list(matrix.datasets), "chunks": matrix.n_chunks}
    if args.json:
        print_json({"file": str(matrix.path), **facts, "tensors": list(rows_of(matrix))})
        return 0
    put(f"{matrix.path}: importance matrix ({matrix.format}), {matrix.path.stat().st_size:,} bytes")
    put(f"measured on {', '.join(map(one_line, matrix.datasets)) or 'an unnamed text'}, {matrix.n_chunks} chunks")
    put(f"tensors     {len(matrix.entries)}")
    for row in rows_of(matrix) if args.tensors else ():
        put(
            f"  {one_line(row['tensor']):<32} {row['values']:>8} values, mean {row['mean']:>11.5g}, "
            f"largest {row['largest']:>11.5g}, {row['zeros']} zero"
        )
    return 0


def _print_summary(summary: dict[str, Any]) -> None:
    from ggmlpy.look.finite import NotFinite

    put(f"{', '.join(summary['files'])}: {summary['format']}, {summary['size']:,} bytes")
    if "what" in summary:
        put(f"{one_line(summary['what'])}: shown as it stands, not evaluated here")
    else:
        put("header      " + "  ".join(f"{name} {value}" for name, value in summary["header"].items()))
    if "ftype" in summary:
        put(f"ftype       {summary['ftype']}")
    if "vocabulary" in summary:
        put(f"vocabulary  {summary['vocabulary']['size']:,} entries")
        for entry in summary["vocabulary"]["sample"]:
            put(f"  {entry['id']:>6}  {entry['score']:>12g}  {entry['text']!r}")
    put(f"tensors     {summary['n_tensors']}")
    for found in summary.get("not_finite", ()):
        put(f"  {NotFinite(**found)}")


def add_hexdump(commands: Commands) -> None:
    parser = command(
        commands,
        "hexdump",
        run_hexdump,
        "Show a file's bytes with the meaning of each field beside them: models, checkpoints, adapters, tokenizers.",
        "hexdump files/ggml-model-q4_0.bin\nhexdump files/ggml-model-q4_0.bin --field n_vocab",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument(
        "--field", metavar="NAME", help="show only this field: n_vocab, vocabulary[278], tensor[norm.weight]"
    )
    parser.add_argument("--all", action="store_true", help="show every field; fold nothing")
    json_option(parser)


def run_hexdump(args: argparse.Namespace) -> int:
    from ggmlpy.files.errors import UsageError
    from ggmlpy.look.lines import matches
    from toolchain.look.dump import dump_any

    lines = dump_any(args.file, fold=not (args.all or args.field))
    shown = (line for line in lines if not args.field or matches(line, args.field))
    if args.json:
        print_json([line.as_dict() for line in shown])
        return 0
    found, color = False, wants_color()
    for line in shown:
        put_painted(_hexdump_line(line, color))
        found = True
    if not found:
        raise UsageError(f"{args.file} has no field {args.field!r}; field names are in the last column of the dump")
    return 0


def _hexdump_line(line: Any, color: bool) -> str:
    if not line.size:
        return f"{'':>12}  {one_line(line.value)}"
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line.data)
    more = "…" if line.size > len(line.data) else " "
    paint = painted if color else lambda text, code: one_line(text)
    place = f"{line.offset:>12,}  {line.data.hex(' '):<47}{more} {paint(f'{text:<16}', DIM)}"
    return f"{place}  {paint(line.path, BOLD)} = {paint(str(line.value), GREEN)}"


def add_explain(commands: Commands) -> None:
    parser = command(
        commands,
        "explain",
        run_explain,
        "Say what the byte at an offset of any of these files is: field, tensor, row, block, code, value, and its use.",
        "explain files/ggml-model-q4_0.bin 4\nexplain files/ggml-model-q4_0.bin 0x80000",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("offset", metavar="OFFSET", help="counted from 0; decimal, or hexadecimal with 0x")
    json_option(parser)


def run_explain(args: argparse.Namespace) -> int:
    from ggmlpy.files.errors import UsageError
    from toolchain.look.explain import explain_in_words

    try:
        offset = int(args.offset.replace(",", ""), 0)
    except ValueError:
        raise UsageError(f"an offset is a number such as 4096 or 0x1000, not {args.offset!r}") from None
    record, lines = explain_in_words(args.file, offset)
    if args.json:
        print_json(record)
        return 0
    for name, words in lines:
        put(f"{name:<7} {words}")
    return 0


def add_report(commands: Commands) -> None:
    parser = command(
        commands,
        "report",
        run_report,
        "Write a self-contained HTML page: bytes beside fields, tensors, quantization errors, a block explorer.",
        "report files/ggml-model-q4_0.bin --html q4_0.html --source files/ggml-model-f16.bin",
    )
    parser.add_argument("file", metavar="FILE")
    writes(parser.add_argument("--html", metavar="OUT", required=True, help="the page to write"))
    parser.add_argument("--source", metavar="F16", help="the unquantized model, to measure errors against")


def run_report(args: argparse.Namespace) -> int:
    from ggmlpy import open_model
    from ggmlpy.look.report import write_report

    with open_model(args.file, strict=False, any_architecture=True) as model:
        total = sum(tensor.n_rows * tensor.n_cols for tensor in model.tensors.values())
    with progress_bar(args, total, "report", "values") as bar:
        size = write_report(args.file, args.html, args.source, bar.update)
    say(args, f"{args.html}: {size:,} bytes")
    return 0


def add_explore(commands: Commands) -> None:
    parser = command(
        commands,
        "explore",
        run_explore,
        "Write a self-contained HTML page of a running model, from the file's bytes to the next character; every "
        "number leads back to its bytes.",
        "explore --html page.html\nexplore -m files/ggml-model-q4_0.bin --html page.html "
        "--beside files/base/tokenizer.model",
    )
    model_option(parser, "a small GGML or GGUF file (default: $GGMLPY_MODEL, else the demo model)", required=False)
    writes(parser.add_argument("--html", metavar="OUT", required=True, help="the page to write"))
    beside = "a tokenizer.model or GGML file whose vocabulary is shown beside the model's (default: the demo base's)"
    parser.add_argument("--beside", metavar="FILE", help=beside)


def run_explore(args: argparse.Namespace) -> int:
    from toolchain.demo.files import FOLDER
    from toolchain.explore.assemble import write_page

    usual = FOLDER / "base" / "tokenizer.model"
    beside = args.beside or (usual if usual.is_file() else None)
    size = write_page(model_or_demo(args), args.html, beside)
    say(args, f"{args.html}: {size:,} bytes")
    return 0


def add_fingerprint(commands: Commands) -> None:
    parser = command(
        commands,
        "fingerprint",
        run_fingerprint,
        "One digest of a model's tensors, the same in every container that holds the same bytes.",
        "fingerprint files/ggml-model-q4_0.bin\nfingerprint files/merged files/ggml-model-f16.bin",
    )
    parser.add_argument("files", metavar="FILE|DIR", nargs="+")
    json_option(parser)


def run_fingerprint(args: argparse.Namespace) -> int:
    from toolchain.verify.fingerprint import content_fingerprint

    digests = {}
    for file in args.files:
        with progress_bar(args, bytes_of(file), "fingerprint") as bar:
            digests[file] = content_fingerprint(file, bar.update)
    if args.json:
        print_json(digests)
    else:
        for file, digest in digests.items():
            put(f"{digest}  {file}")
    return 0
