"""migrate, quantize: one model file to another."""

from __future__ import annotations

import argparse
import time
from typing import Any

from toolchain.terminal.bars import progress_bar
from toolchain.terminal.foreign import one_line
from toolchain.terminal.program import spoken
from toolchain.terminal.talk import print_json, put, say, warn_of_values

from .options import Commands, command, era_option, json_option, threads_option, tokenizer_option, writes


def add_migrate(commands: Commands) -> None:
    parser = command(
        commands,
        "migrate",
        run_migrate,
        "Carry a model into another container: parts are joined; tensor bytes change only with --requantize.",
        "migrate files/ggml-model-f16.bin model.gguf --container gguf\n"
        "migrate old.bin new.bin --container ggjt3 --requantize",
    )
    parser.add_argument("input", metavar="IN", help="the model, or the first file of a multi-part one")
    writes(parser.add_argument("output", metavar="OUT", help="the file to write"))
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
    tokenizer_option(parser, "tokenizer.model with the scores that an unversioned file lacks")
    parser.add_argument("--parts", type=int, default=1, metavar="N", help="spread over N files (ggml and ggmf only)")
    json_option(parser, "the report")


def run_migrate(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from ggmlpy import open_model
    from ggmlpy.formats.containers import container_named, container_of_name
    from ggmlpy.quantizers.migration import migrate

    container, version = container_named(args.container or container_of_name(args.output, "ggjt1"))
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
    for note in report.notes:
        say(args, f"note: {spoken(note)}")
    for loss in report.losses:
        say(
            args,
            f"{loss.name:<40} {loss.source} -> {loss.target}  RMSE {loss.rmse:.6g}  max error {loss.max_error:.6g}",
        )
    say(args, f"{source} -> {container.title(version)}: {', '.join(map(str, report.paths))}, {report.size:,} bytes")
    warn_of_values(args, report.paths[0])
    if args.json:
        losses = [{**asdict(loss), "rmse": loss.rmse} for loss in report.losses]
        print_json({"files": report.paths, "size": report.size, "losses": losses, "notes": report.notes})
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
    writes(parser.add_argument("output", metavar="OUT", help="the file to write; GGUF if IN is, or if named .gguf"))
    parser.add_argument("type", metavar="TYPE", help="as llama.cpp takes it (2, 3) or by name (q4_0, q4_k_m)")
    era_option(parser, "whose quantizer: 2023-03-19 … 2023-08-21 (default 2023-03-31; for GGUF, the last)")
    threads_option(parser)
    parser.add_argument("--allow-requantize", action="store_true", help="accept a model that is already quantized")
    parser.add_argument("--leave-output-tensor", action="store_true", help="keep output.weight as it is")
    json_option(parser, "the report")


def run_quantize(args: argparse.Namespace) -> int:
    from ggmlpy.quantizers.whole_file import quantize_file

    start = time.perf_counter()

    with progress_bar(args, 0, "quantize") as bar:

        def advanced(size: int, total: int) -> None:
            bar.total = total
            bar.update(size)

        def finished(report: Any, index: int) -> None:
            if not (args.json or args.quiet):
                bar.write(one_line(report.tensor_line(index)))

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
        put(*report.closing_lines())
    warn_of_values(args, args.input, *report.paths)
    say(args, f"quantize time = {1000 * (time.perf_counter() - start):8.2f} ms")
    return 0
