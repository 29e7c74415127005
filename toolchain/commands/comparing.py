"""compare: two models, or two texts."""

from __future__ import annotations

import argparse
from typing import Any

from toolchain.terminal.talk import print_json, progress_bar, searching

from .options import Commands, command


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
