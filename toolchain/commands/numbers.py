"""logits, perplexity, imatrix, bench: a model as numbers."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from toolchain.terminal.bars import progress_bar
from toolchain.terminal.talk import print_json, put, say, warn_of_encoding

from .adapters import add_lora, lora_options
from .options import (
    Commands,
    arithmetic_of,
    arithmetic_options,
    command,
    json_option,
    keeps_f32,
    model_option,
    say_passed_over,
    threads_option,
    whole,
    writes,
)


def _open_for_arithmetic(args: argparse.Namespace, n_ctx: int) -> Any:
    """The model, its cache as precise as the era's tools had it."""
    from ggmlpy import open_model
    from ggmlpy.formats.era_of_file import era_of_file
    from llama_ref.text.model import Model

    file = add_lora(args, open_model(args.model))
    say_passed_over(args, file, n_ctx)
    how = arithmetic_of(args) | {"memory_f32": keeps_f32(args, args.era or era_of_file(file))}
    return Model.from_file(file, n_ctx=n_ctx, **how)


def add_logits(commands: Commands) -> None:
    parser = command(
        commands,
        "logits",
        run_logits,
        "Write the logits of a sequence of tokens as a .npy file: float32 [n_tokens, n_vocab].",
        "logits -m files/ggml-model-q4_0.bin --tokens 1,300,400 --out logits.npy\n"
        "logits -m model.bin --tokens 1,15043,3186 --out logits.npy --numerics exact --build avx2 --batch 8",
    )
    model_option(parser)
    lora_options(parser)
    arithmetic_options(parser)
    parser.add_argument("--tokens", required=True, metavar="IDS", help="token ids, separated by commas")
    writes(parser.add_argument("--out", required=True, metavar="F.npy", help="the file to write"))
    parser.add_argument("--batch", type=int, metavar="N", help="tokens evaluated at a time (default: all at once)")
    trace = "also write what each operation gave, by llama.cpp's names, as .npy files (--numerics reference or exact)"
    writes(parser.add_argument("--trace", metavar="DIR", help=trace))
    parser.set_defaults(numerics=None)


def run_logits(args: argparse.Namespace) -> int:
    from llama_ref.text.logits import logits, parse_tokens, write_logits

    tokens = parse_tokens(args.tokens)
    args.numerics = args.numerics or ("reference" if args.trace else "fast")
    with _open_for_arithmetic(args, len(tokens)) as model, progress_bar(args, len(tokens), "logits", "token") as bar:
        progress = lambda done: bar.update(done - bar.n)  # noqa: E731
        if args.trace:
            values = _traced(args, model, tokens, progress)
        else:
            values = logits(model, tokens, batch=args.batch, progress=progress)
    write_logits(args.out, values)
    say(args, f"{args.out}: float32 {list(values.shape)}")
    return 0


def _traced(args: argparse.Namespace, model: Any, tokens: Any, progress: Any) -> Any:
    from ggmlpy.files.errors import UsageError
    from llama_ref.text.trace import trace_logits

    if args.batch is not None:
        raise UsageError("--trace evaluates all tokens at once: leave out --batch")
    values, names = trace_logits(model, tokens, args.trace, progress)
    say(args, f"{args.trace}: {len(names)} results of the {args.numerics} arithmetic, {names[0]} to {names[-1]}")
    return values


def add_perplexity(commands: Commands) -> None:
    parser = command(
        commands,
        "perplexity",
        run_perplexity,
        "Perplexity of a text, as llama.cpp's perplexity of 2023-03-31 computes it; also bits per byte and character.",
        "perplexity -m files/ggml-model-q4_0.bin -f files/held-out/chinese.txt\n"
        "perplexity -m model.bin -f text.txt -c 256 --numerics exact",
    )
    model_option(parser)
    lora_options(parser)
    arithmetic_options(parser)
    parser.add_argument("-f", "--file", required=True, metavar="TEXT", help="the text (- is standard input)")
    parser.add_argument("-c", "--ctx-size", type=int, default=512, metavar="N", help="tokens per chunk (default 512)")
    json_option(parser, "one document", instead_of="the running figures")


def run_perplexity(args: argparse.Namespace) -> int:
    from ggmlpy.files.texts import LARGEST_TEXT, read_stream
    from llama_ref.text.perplexity import perplexity, read_text
    from llama_ref.vocabulary.gguf_tokenizer import file_tokenizer

    text = read_stream(sys.stdin.buffer, LARGEST_TEXT) if args.file == "-" else read_text(args.file)
    warn_of_encoding(args, args.file, text)
    with _open_for_arithmetic(args, args.ctx_size) as model:
        tokenizer, text = file_tokenizer(model.file, args.era), text.removesuffix(b"\n")
        tokens = tokenizer.encode_raw(text)
        values: list[float] = []
        with progress_bar(args, len(tokens) // args.ctx_size, "perplexity", "chunk") as bar:
            shown = not args.json and (bar.disable or not sys.stdout.isatty())  # else the bar is on their line
            for state in perplexity(model, tokens, lambda done: bar.update(done - bar.n)):
                values.append(state.value)
                bar.set_postfix_str(f"perplexity {state.value:.4f}", refresh=False)
                if shown:
                    put(f"[{state.chunk}]{state.value:.4f},", end="", flush=True)
    if args.json:
        print_json({**state.as_dict(), "running": values})
        return 0
    put("" if shown else "".join(f"[{i}]{value:.4f}," for i, value in enumerate(values, 1)))
    say(args, f"perplexity {state.value:.4f} over {state.n_tokens} tokens")
    say(args, f"{state.bits_per_byte:.4f} bits per byte, {state.bits_per_character:.4f} bits per character")
    return 0


def add_imatrix(commands: Commands) -> None:
    parser = command(
        commands,
        "imatrix",
        run_imatrix,
        "Measure an importance matrix on a text, as llama-imatrix does, for `quantize --imatrix`.",
        "imatrix -m model-f16.gguf -f calibration.txt -o model.imatrix.gguf\n"
        "imatrix -m model-f16.gguf -f calibration.txt -o model.imatrix.dat --chunks 100",
    )
    model_option(parser)
    parser.add_argument("-f", "--file", required=True, metavar="TEXT", help="the text (- is standard input)")
    writes(parser.add_argument("-o", "--out", required=True, metavar="F", help="the file to write"))
    parser.add_argument("-c", "--ctx-size", type=int, default=512, metavar="N", help="tokens per chunk (default 512)")
    parser.add_argument("--chunks", type=whole(1), metavar="N", help="read at most N chunks (default: all)")
    parser.add_argument("--process-output", action="store_true", help="measure output.weight too")
    parser.add_argument(
        "--output-format", choices=("gguf", "dat"), help="the file's format (default: dat where it is named so)"
    )


def run_imatrix(args: argparse.Namespace) -> int:
    from ggmlpy import open_model
    from ggmlpy.files.texts import LARGEST_TEXT, read_stream
    from ggmlpy.formats.importance import write_importance
    from llama_ref.text.importance import measure_importance
    from llama_ref.text.model import Model
    from llama_ref.text.perplexity import read_text
    from llama_ref.vocabulary.gguf_tokenizer import file_tokenizer

    text = read_stream(sys.stdin.buffer, LARGEST_TEXT) if args.file == "-" else read_text(args.file)
    warn_of_encoding(args, args.file, text)
    say(args, "note: activations are those of the reference arithmetic, equal to llama-imatrix's within float rounding")
    with Model.from_file(open_model(args.model), n_ctx=args.ctx_size, numerics="reference") as model:
        tokens = file_tokenizer(model.file, None).encode_raw(text.removesuffix(b"\n"))
        total = min(len(tokens) // args.ctx_size, args.chunks or len(tokens))
        with progress_bar(args, total, "imatrix", "chunk") as bar:
            sums, n_tokens, n_chunks = measure_importance(
                model, tokens, n_chunks=args.chunks, with_output=args.process_output, progress=bar.update
            )
    kind = args.output_format or ("dat" if args.out.endswith(".dat") else "gguf")
    size = {"n_chunks": n_chunks, "chunk_size": args.ctx_size}
    write_importance(args.out, sums, n_tokens, format=kind, dataset=args.file, **size)
    say(args, f"{args.out}: the importance of {len(sums)} matrices, measured on {n_tokens:,} tokens")
    return 0


def add_bench(commands: Commands) -> None:
    parser = command(
        commands,
        "bench",
        run_bench,
        "Tokens per second, for prompts and generation, and what share of the machine's read bandwidth that uses.",
        "bench -m files/ggml-model-q4_0.bin\nbench -m files/ggml-model-q4_0.bin -t 1 --json",
    )
    model_option(parser)
    threads_option(parser, "measure with this number of threads only (default: 1, 2, 4 … all)")
    parser.add_argument(
        "-n", "--prompt-tokens", type=int, default=128, metavar="N", help="length of the prompt (default 128)"
    )
    parser.add_argument("-r", "--rounds", type=int, default=5, metavar="N", help="repetitions (default 5)")
    json_option(parser)


def run_bench(args: argparse.Namespace) -> int:
    from ggmlpy.files.processors import available_processors
    from llama_ref.text.bench import bench, table, table_of_types

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
        put(*table(results).splitlines(), "", *table_of_types(results).splitlines())
    return 0
