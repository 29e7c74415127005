"""quality: what each type of quantization costs and saves."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from toolchain.terminal.bars import progress_bar
from toolchain.terminal.talk import print_json, put_text, say, warn_of_encoding

from .options import Commands, command, era_option, json_option, threads_option


def add_quality(commands: Commands) -> None:
    parser = command(
        commands,
        "quality",
        run_quality,
        "Quantize a model to many types and measure each on a text: size, perplexity, KL divergence from the source, "
        "tokens per second. Prints a Markdown table. An interrupted run goes on where it stopped.",
        "quality files/ggml-model-f16.bin -f files/held-out/chinese.txt\n"
        "quality model-f16.gguf -f wiki.test.raw --types q8_0,q4_k_m,iq4_xs --chunks 40 --imatrix model.imatrix.gguf",
    )
    parser.add_argument("model", metavar="F16", help="the f16, bf16 or f32 model to quantize and to compare with")
    parser.add_argument("-f", "--file", required=True, metavar="TEXT", help="the text (- is standard input)")
    parser.add_argument("-o", "--out", metavar="DIR", help="where results and files are kept (default: F16.quality)")
    parser.add_argument("--types", metavar="T,T…", help="what to quantize to (default: the era's; of GGUF the usual)")
    parser.add_argument("-c", "--ctx-size", type=int, default=512, metavar="N", help="tokens per chunk (default 512)")
    parser.add_argument("--chunks", type=int, metavar="N", help="read at most N chunks (default: all)")
    parser.add_argument("--imatrix", metavar="F", help="quantize with this importance matrix (GGUF only)")
    parser.add_argument("--keep", action="store_true", help="keep the quantized files")
    era_option(parser, "whose quantizer (default: 2023-03-31; of GGUF, today)")
    threads_option(parser)
    json_option(parser, "the rows", instead_of="the table")


def run_quality(args: argparse.Namespace) -> int:
    from ggmlpy.files.atomic import atomic_write
    from ggmlpy.files.errors import UsageError
    from ggmlpy.files.texts import LARGEST_TEXT, read_stream
    from ggmlpy.quantizers.gguf_plan import GgufOptions
    from llama_ref.text.perplexity import read_text
    from llama_ref.text.quality import Quality, Study, markdown

    if args.chunks is not None and args.chunks < 1:
        raise UsageError(f"--chunks must be at least 1, not {args.chunks}")
    text = read_stream(sys.stdin.buffer, LARGEST_TEXT) if args.file == "-" else read_text(args.file)
    warn_of_encoding(args, args.file, text)
    directory = Path(args.out or f"{args.model}.quality")
    rows: list[Quality] = []
    with progress_bar(args, 0, "quality", "chunk") as bar:

        def progress(what: str, done: float, total: int) -> None:
            bar.set_description(what, refresh=False)
            bar.total, bar.n = total, done
            bar.refresh()

        study = Study(
            Path(args.model), text, directory, args.types and args.types.split(","), args.ctx_size, args.chunks,
            args.threads, args.era, GgufOptions(importance=args.imatrix), args.keep, progress,
            lambda name, error: say(args, f"note: {name} is left out: {error}"),
        )  # fmt: skip
        for row in study.rows():
            rows.append(row)
            with atomic_write(directory / "quality.md") as stream:
                stream.write(f"{markdown(rows)}\n".encode())
    if args.json:
        print_json([asdict(row) for row in rows])
    else:
        put_text(markdown(rows))
    for row in rows:
        for note in row.notes:
            say(args, f"note: {row.type}: {note}")
    say(args, f"kept in {directory}")
    return 0
