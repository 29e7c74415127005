"""vectors: golden inputs and outputs for the tests of other programs."""

from __future__ import annotations

import argparse

from toolchain.terminal.bars import advancing, progress_bar
from toolchain.terminal.reports import show
from toolchain.terminal.talk import say

from .options import Commands, command, era_option, group, json_option, junit_option, number, seed_number


def add_vectors(commands: Commands) -> None:
    words = "Golden vectors: make a family of tiny files, or check another program with them."
    parser = group(commands, "vectors", words, "check")
    inner = parser.add_subparsers(dest="vectors_command", metavar="make|check", required=True)
    _add_make(inner)
    _add_check(inner)


def _add_make(inner: Commands) -> None:
    make = command(
        inner,
        "make",
        run_vectors_make,
        "Write tiny checkpoints, adapters, GGML files of every container, type and era, logits and texts.",
        "vectors make golden --seed 7",
    )
    make.add_argument("directory", metavar="DIR", help="new or empty")
    make.add_argument(
        "--seed", type=seed_number, default=0, metavar="N", help="the same seed gives the same bytes (default 0)"
    )


def _add_check(inner: Commands) -> None:
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
    era_option(check, "only the cases of this era")
    check.add_argument("--match", default="*", metavar="PATTERN", help="only these outputs: 'quantize/*/q4_0.bin'")
    check.add_argument("--timeout", type=number, default=600, metavar="S", help="seconds for each (default 600)")
    check.add_argument("--shell", action="store_true", help="the command is a shell's")
    junit_option(check, "the verdicts")
    json_option(check, "the verdicts")


def run_vectors_make(args: argparse.Namespace) -> int:
    from toolchain.makers.vectors import make_vectors

    with progress_bar(args, 0, "make", "case") as bar:
        manifest = make_vectors(args.directory, args.seed, progress=advancing(bar))
    say(args, f"{args.directory}: {len(manifest['inputs'])} inputs, {len(manifest['cases'])} cases, manifest.json")
    return 0


def run_vectors_check(args: argparse.Namespace) -> int:
    from toolchain.makers.vector_checks import check_vectors

    with progress_bar(args, 0, "check", "case") as bar:
        report = check_vectors(
            args.directory,
            args.program,
            kind=args.kind,
            era=args.era,
            match=args.match,
            timeout=args.timeout,
            shell=args.shell,
            progress=advancing(bar),
        )
    return show(args, report)
