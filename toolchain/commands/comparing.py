"""compare: two models, or two texts."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from toolchain.terminal.bars import progress_bar, searching
from toolchain.terminal.reports import show

from .options import Commands, command, json_option, number


def add_compare(commands: Commands) -> None:
    parser = command(
        commands,
        "compare",
        run_compare,
        "Compare two models, adapters or tokenizers, files or directories, independently of what is around them.",
        "compare files/ggml-model-f16.bin files/ggml-model-q4_0.bin\n"
        "compare mine-q4_0.bin theirs-q4_0.bin --source model-f16.bin",
    )
    parser.add_argument("a", metavar="A")
    parser.add_argument("b", metavar="B")
    parser.add_argument("--tolerance", type=number, default=0.0, metavar="X", help="differences up to X are equal")
    parser.add_argument("--source", metavar="F16", help="the unquantized model: say which era's quantizer explains B")
    json_option(parser, "everything")


def run_compare(args: argparse.Namespace) -> int:
    from ggmlpy.files.kinds import is_ggml_file

    there = [Path(path) for path in (args.a, args.b) if os.path.exists(path)]
    if not all(map(is_ggml_file, there)) and not args.source:
        from toolchain.verify.sides import compare_anything

        with progress_bar(args, 0, "compare", "values") as bar:
            return show(args, compare_anything(args.a, args.b, tolerance=args.tolerance, progress=bar.update))
    from ggmlpy import open_model
    from ggmlpy.verify.compare import compare
    from ggmlpy.verify.whose_quantizer import explain

    with open_model(args.a, any_architecture=True) as a, open_model(args.b, any_architecture=True) as b:
        total = sum(tensor.n_rows * tensor.n_cols for tensor in a.tensors.values())
        with progress_bar(args, total, "compare", "values") as bar:
            result = compare(a, b, tolerance=args.tolerance, progress=bar.update)
            if args.source and result.differing:
                with open_model(args.source, any_architecture=True) as source:
                    names = [item.name for item in result.differing if not item.odd]
                    for side, model in (("A", a), ("B", b)):
                        progress = searching(bar, f"whose quantizer wrote {side}?")
                        tensors = [model.tensors[name] for name in names]
                        result.explained[side] = explain(tensors, source.tensors, progress)
    return show(args, result)
