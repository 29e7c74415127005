"""merge, tokenizer: adapters into a base, pieces into a vocabulary."""

from __future__ import annotations

import argparse
import os
import sys

from toolchain.terminal.colors import wants_color
from toolchain.terminal.program import spoken, spoken_within
from toolchain.terminal.talk import print_json, progress_bar, say, searching

from .inspecting import _bytes_of
from .options import Commands, command, group


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
        say(args, spoken(plan.describe() if args.dry_run or args.verbose else plan.summary()))
        if args.dry_run:
            return 0
        with progress_bar(args, plan.nbytes, "merge") as bar:
            report = plan.run(force=args.force, resume=args.resume, progress=bar.update)
    say(args, spoken(report))
    if args.json:
        print_json(spoken_within(report.as_dict()))
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
    stats.add_argument("--no-color", "--no-colour", action="store_true", help="bars between tokens instead of colors")
    stats.add_argument("--json", action="store_true", help="as JSON on stdout")


def run_tokenizer_merge(args: argparse.Namespace) -> int:
    from llama_ref.vocabulary.sentencepiece_model import read_sentencepiece, write_sentencepiece
    from lora.vocabulary import merge_vocabularies

    merged, growth = merge_vocabularies(read_sentencepiece(args.base), read_sentencepiece(args.extra), args.pad_token)
    for path in write_sentencepiece(args.out, merged, args.pad_token):
        say(args, path)
    padded = f" + {args.pad_token}" if growth.padded else ""
    say(args, f"{growth.base} + {growth.added}{padded} = {growth.total} pieces; {growth.skipped} were there already")
    return 0


def run_tokenizer_train(args: argparse.Namespace) -> int:
    from llama_ref.vocabulary.sentencepiece_model import write_sentencepiece
    from lora.vocabulary import train_vocabulary

    say(args, "training" if args.verbose else "training; with -v SentencePiece shows how far it is")
    model = train_vocabulary(
        args.corpus,
        minloglevel=0 if args.verbose else 2,
        vocab_size=args.vocab_size,
        byte_fallback=not args.no_byte_fallback,
        max_sentences=args.max_sentences,
        character_coverage=args.character_coverage,
    )
    for path in write_sentencepiece(args.output, model):
        say(args, path)
    say(args, f"{len(model)} pieces")
    return 0


def run_tokenizer_stats(args: argparse.Namespace) -> int:
    from toolchain.look.tokens import compare_tokenizers, side_by_side

    results = compare_tokenizers([args.first, args.second], _text_argument(args.file, args.text))
    if args.json:
        print_json([item.as_dict() for item in results])
        return 0
    print(side_by_side(results, color=wants_color() and not args.no_color))
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
