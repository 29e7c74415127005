"""verify: published files, and what one step made of another."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from toolchain.terminal.bars import advancing, bytes_of, progress_bar, searching
from toolchain.terminal.reports import show
from toolchain.terminal.talk import say

from .main_options import add_main_options, is_interactive, main_options, sampling_options, settled
from .options import USUAL_MODEL, Commands, arithmetic_of, command, junit_option, tokenizer_option, writes

if TYPE_CHECKING:
    from toolchain.verify.text import TextRequest


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
        "verify --receipt receipt.json\n"
        "verify --logits theirs.npy --model ggml-model-q4_0.bin --tokens 1,15043,3186\n"
        'verify --text theirs.txt --model ggml-model-q4_0.bin --prompt "Hello World" -n 40 --seed 42',
    )
    parser.add_argument("paths", metavar="DIR|ZIP|FILE", nargs="*")
    parser.add_argument("--source", metavar="DIR|FILE", help="recompute what should come out of this, and compare")
    parser.add_argument("--lora", action="append", default=[], metavar="DIR|ZIP[,…]", help="the adapters of a merge")
    tokenizer_option(parser, "tokenizer.model, if it is not beside the source")
    parser.add_argument("--imatrix", metavar="F", help="the importance matrix that a quantized GGUF file was made with")
    writes(
        parser.add_argument(
            "--attest",
            metavar="S.json",
            help="with --source: write a statement (in-toto, unsigned) that the output is what the step makes",
        )
    )
    parser.add_argument("--statement", metavar="S.json", help="derive what such a statement says anew, and compare")
    parser.add_argument("--markdown", action="store_true", help="with --source: print a summary as Markdown")
    junit_option(parser)
    parser.add_argument("--logits", metavar="F.npy|F.bin", help="whose float32 [n_tokens, n_vocab] are these?")
    parser.add_argument("--tokens", metavar="IDS", help="with --logits and --trace: what was evaluated")
    parser.add_argument("--batch", type=int, metavar="N", help="with --logits: only N tokens at a time (default: any)")
    trace = "which operation parts first? Intermediate values: .npy files, or what llama-eval-callback printed"
    parser.add_argument("--trace", metavar="DIR|FILE", help=f"{trace} (with --model and --tokens)")
    parser.add_argument("--text", metavar="FILE", help="whose text is this? With the options of generate, below")
    receipt = "make the text of a receipt of generate anew, and compare each token and its logits (-m: with this model)"
    parser.add_argument("--receipt", metavar="R.json", help=receipt)
    parser.add_argument("--stdin", metavar="FILE", help="with --text: what was typed")
    add_main_options(parser)  # --era, --build, --memory-f32 and --json among them


def run_verify(args: argparse.Namespace) -> int:
    if args.logits:
        return _verify_logits(args)
    if args.trace:
        return _verify_trace(args)
    if args.text:
        return _verify_text(args)
    if args.statement:
        return _verify_statement(args)
    if args.receipt:
        return _verify_receipt(args)
    if not args.paths:
        from ggmlpy.files.errors import UsageError

        raise UsageError("verify what? Name files or directories, or --logits FILE, or --text FILE")
    if args.source:
        return _verify_step(args)

    from toolchain.verify.published import bytes_to_read, verify

    with progress_bar(args, bytes_to_read(args.paths), "verify") as bar:
        report = verify(args.paths, bar.update)
    show(args, report)
    if not report.verdicts:
        say(args, "nothing to verify here: no weights, adapters, tokenizers, archives or checklists")
    return report.exit_code


def _verify_step(args: argparse.Namespace) -> int:
    from ggmlpy.files.errors import UsageError
    from toolchain.verify.outputs import verify_output

    if len(args.paths) != 1:
        raise UsageError("--source goes with one output")
    adapters = [path for paths in args.lora for path in paths.split(",")]
    with progress_bar(args, bytes_of(args.paths[0]), "verify") as bar:
        report = verify_output(
            args.paths[0],
            args.source,
            adapters,
            era=args.era,
            tokenizer=args.tokenizer,
            importance=args.imatrix,
            progress=searching(bar, "looking for the cause"),
        )
    if args.attest and not report.exit_code:
        from toolchain.verify.attestation import write_statement

        write_statement(
            args.attest,
            report,
            adapters=adapters,
            era=args.era,
            tokenizer=args.tokenizer,
            importance=args.imatrix,
        )
        say(args, f"attested in {args.attest}")
    elif args.attest:
        say(args, "nothing is attested: the output is not what it should be")
    return show(args, report)


def _verify_statement(args: argparse.Namespace) -> int:
    from ggmlpy.files.errors import UsageError
    from toolchain.verify.attestation import verify_statement

    if args.paths or args.source:
        raise UsageError("--statement names its files itself: it takes no other file")
    with progress_bar(args, bytes_of(args.statement), "verify") as bar:
        report = verify_statement(args.statement, searching(bar, "deriving the output anew"))
    return show(args, report)


def _verify_receipt(args: argparse.Namespace) -> int:
    from ggmlpy.files.errors import UsageError
    from toolchain.verify.receipts import verify_receipt

    if args.paths or args.source:
        raise UsageError("--receipt names its files itself; another place of the model is named with -m")
    model = None if args.model == os.environ.get(USUAL_MODEL) else args.model
    adapters = [path for paths in args.lora for path in paths.split(",")]
    with progress_bar(args, 0, "verify", "token") as bar:
        report = verify_receipt(args.receipt, model, adapters, n_threads=args.threads, progress=bar.update)
    return show(args, report)


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
            progress=advancing(bar),
        )
    return show(args, report)


def _verify_trace(args: argparse.Namespace) -> int:
    from ggmlpy import open_model
    from llama_ref.text.logits import parse_tokens
    from llama_ref.text.model import Model
    from toolchain.verify.trace import verify_trace

    _needs(args, "--trace", "model", "tokens")
    tokens = parse_tokens(args.tokens)
    args.numerics = "exact" if args.numerics == "exact" else "reference"  # fast has no intermediate values
    how = arithmetic_of(args) | {"memory_f32": args.memory_f32}
    with Model.from_file(open_model(args.model), n_ctx=len(tokens), **how) as model:
        with progress_bar(args, 0, "verify", "result") as bar:
            report = verify_trace(args.trace, model, tokens, progress=bar.update)
        return show(args, report)


def _verify_text(args: argparse.Namespace) -> int:
    from ggmlpy.files.errors import UsageError
    from toolchain.verify.text import verify_text

    _needs(args, "--text", "model")
    if args.seed <= 0 and args.temp != 0:
        raise UsageError("--text needs the --seed that it was made with (main prints it)")
    if args.draft or args.draft_model:
        raise UsageError(
            "--text tries what main wrote, which had no drafts; with them a text is what the fast arithmetic writes "
            "without: make it with `generate --receipt FILE`, and prove it by `verify --receipt FILE`"
        )
    request = _text_request(args)
    with progress_bar(args, 0, "verify", "way") as bar:
        report = verify_text(args.text, args.model, request, era=args.era, build=args.build, progress=advancing(bar))
    return show(args, report)


def _text_request(args: argparse.Namespace) -> TextRequest:
    """What the other program was asked to do."""
    from pathlib import Path

    from ggmlpy import open_model
    from toolchain.verify.text import TextRequest

    with open_model(args.model) as file:
        given = settled(args, file)
    if not given.prompt_parts and not given.random_prompt and not is_interactive(given):
        given.prompt_parts = [("PROMPT", "")]  # stdin is not read: --stdin names what was typed
    return TextRequest(
        main_options(given),
        sampling_options(given),
        args.repeat_penalty,
        stdin=Path(args.stdin).read_bytes() if args.stdin else b"",
        color=args.color,
        n_ctx=args.ctx_size,
        n_batch=args.batch_size or 8,
        ignore_eos=args.ignore_eos,
        memory_f32=True if args.memory_f32 else False if args.memory_f16 else None,
    )
