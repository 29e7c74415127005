"""tokenize, tokenizer: texts and vocabularies."""

from __future__ import annotations

import argparse
import io
import os
import sys
from typing import Any

from toolchain.terminal.colors import wants_color
from toolchain.terminal.talk import print_json, put, put_painted, say, warn_of_encoding

from .downloads import is_hub_name, looks_like_file
from .options import (
    USUAL_MODEL,
    Commands,
    command,
    era_option,
    group,
    json_option,
    model_option,
    model_or_demo,
    number,
    tokenizer_option,
    whole,
    writes,
)


def add_tokenize(commands: Commands) -> None:
    parser = command(
        commands,
        "tokenize",
        run_tokenize,
        "Split a text into tokens: pieces, ids and bytes. One space is put in front, as main and SentencePiece do.",
        'tokenize -m files/ggml-model-q4_0.bin "你好，世界"\n'
        'tokenize -m files/base/tokenizer.model --compare "1234567 apples"',
    )
    model_option(parser, "a GGML or GGUF file, or a tokenizer.model", required=False)
    where = "the text (- is stdin), and before it the model, if -m names none and it is not to be the demo model"
    parser.add_argument("words", nargs="+", metavar="[MODEL] TEXT", help=where)
    era_option(parser, "2023-03-19 splits greedily (default: the file's)")
    tokenizer_option(parser, "with --compare: the SentencePiece model of a GGML file")
    parser.add_argument("--bos", action="store_true", help="begin with the beginning-of-sequence token")
    parser.add_argument("--no-space", action="store_true", help="put no space in front (GGML tokenizers)")
    special = "texts of control tokens, as <|eot_id|>, are those tokens (GGUF files and tokenizer.json)"
    parser.add_argument("--special", action="store_true", help=special)
    parser.add_argument("--compare", action="store_true", help="show where greedy, score and SentencePiece disagree")
    json_option(parser, "the tokens")


def _model_and_words(args: argparse.Namespace) -> tuple[str | None, list[str]]:
    """The first word is the model where no option names one and it is the name of a file."""
    first, *more = args.words
    named = args.model in (None, os.environ.get(USUAL_MODEL)) and (
        looks_like_file(first) or (more and is_hub_name(first))
    )
    return (first, more) if named else (args.model, args.words)


def run_tokenize(args: argparse.Namespace) -> int:
    from ggmlpy.files.texts import LARGEST_PROMPT, read_stream
    from toolchain.look.tokens import comparison_lines, encode_text, open_tokenizers, token_records

    args.model, words = _model_and_words(args)
    path = model_or_demo(args)
    if not words:
        from ggmlpy.files.errors import UsageError

        raise UsageError("no text to tokenize")
    text = read_stream(sys.stdin.buffer, LARGEST_PROMPT) if words == ["-"] else os.fsencode(" ".join(words))
    warn_of_encoding(args, words[0] if words == ["-"] else "the text", text)
    name, tokenizers = open_tokenizers(path, args.era, args.tokenizer)
    chosen = tokenizers if args.compare else {name: tokenizers[name]}
    how = {"bos": args.bos, "space": not args.no_space, "special": args.special}
    results = {name: (each, encode_text(each, text, **how)) for name, each in chosen.items()}
    if args.json:
        print_json({name: token_records(*result) for name, result in results.items()})
        return 0
    _print_tokens(args, results)
    if args.compare:
        put(*comparison_lines(text if args.no_space else b" " + text, results))
    return 0


def _print_tokens(args: argparse.Namespace, results: dict[str, Any]) -> None:
    from toolchain.look.tokens import token_lines

    color = wants_color()
    for name, (tokenizer, ids) in results.items():
        say(args, f"{name}: {len(ids)} tokens")
        for line in token_lines(tokenizer, ids, color=color):
            put_painted(line)


def add_tokenizer(commands: Commands) -> None:
    parser = group(commands, "tokenizer", "Merge, train and compare SentencePiece vocabularies.", "stats")
    inner = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_tokenizer_merge(inner)
    _add_tokenizer_train(inner)
    _add_tokenizer_stats(inner)


def _add_tokenizer_merge(inner: Commands) -> None:
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
    writes(
        merge.add_argument(
            "out", metavar="OUT", help="a .model file, or a directory for all of a LlamaTokenizer's files"
        )
    )
    merge.add_argument("--pad-token", metavar="PIECE", help="one more piece at the end, as Chinese-Alpaca has [PAD]")


def _add_tokenizer_train(inner: Commands) -> None:
    train = command(
        inner,
        "train",
        run_tokenizer_train,
        "Train a SentencePiece model by the recipe of the published 20,000 Chinese pieces.",
        "tokenizer train files/held-out/chinese.txt --output sp.model --vocab-size 1200\n"
        "tokenizer train corpus.txt --output chinese_sp.model",
    )
    train.add_argument("corpus", nargs="+", metavar="TEXT_FILE", help="UTF-8, one sentence per line")
    writes(train.add_argument("-o", "--output", required=True, metavar="OUT", help="as for tokenizer merge"))
    train.add_argument(
        "--vocab-size", type=whole(1), default=20000, metavar="N", help="at most N pieces (default 20000)"
    )
    train.add_argument("--character-coverage", type=number, default=0.9995, metavar="X", help="default 0.9995")
    sample = "sample a larger corpus (default 10,000,000)"
    train.add_argument("--max-sentences", type=whole(1), default=10_000_000, metavar="N", help=sample)
    train.add_argument("--no-byte-fallback", action="store_true", help="leave the 256 byte pieces out")


def _add_tokenizer_stats(inner: Commands) -> None:
    stats = command(
        inner,
        "stats",
        run_tokenizer_stats,
        "Cut the same text with several tokenizers: tokens per character, and the tokens side by side.",
        "tokenizer stats files/base/tokenizer.model files/merged/tokenizer.model 北京是中国的首都。\n"
        "tokenizer stats llama/tokenizer.model merged/tokenizer.model -f text.txt --json",
    )
    stats.add_argument("first", metavar="A")
    stats.add_argument("second", metavar="B")
    stats.add_argument("text", nargs="*", metavar="TEXT", help="words, the name of a file, or - for stdin")
    stats.add_argument("-f", "--file", metavar="FILE", help="read the text from a file")
    stats.add_argument("--no-color", "--no-colour", action="store_true", help="bars between tokens instead of colors")
    json_option(stats)


def run_tokenizer_merge(args: argparse.Namespace) -> int:
    from llama_ref.vocabulary.sentencepiece_model import read_sentencepiece, write_sentencepiece
    from llama_ref.vocabulary.tokenizer_file import load_processor
    from lora.vocabulary import merge_vocabularies

    merged, growth = merge_vocabularies(read_sentencepiece(args.base), read_sentencepiece(args.extra), args.pad_token)
    load_processor(merged.to_bytes(), args.base)  # what SentencePiece refuses is not written
    for path in write_sentencepiece(args.out, merged, args.pad_token):
        say(args, path)
    padded = f" + {args.pad_token}" if growth.padded else ""
    say(args, f"{growth.base} + {growth.added}{padded} = {growth.total} pieces; {growth.skipped} were there already")
    return 0


def run_tokenizer_train(args: argparse.Namespace) -> int:
    from ggmlpy.files.texts import first_lines
    from llama_ref.vocabulary.sentencepiece_model import write_sentencepiece
    from lora.vocabulary import train_vocabulary

    for path in filter(os.path.isfile, args.corpus):  # what is missing is refused below
        warn_of_encoding(args, path, first_lines(path))
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

    results = compare_tokenizers([args.first, args.second], _text_argument(args))
    if args.json:
        print_json([item.as_dict() for item in results])
        return 0
    put_painted(side_by_side(results, color=wants_color() and not args.no_color))
    return 0


def _text_argument(args: argparse.Namespace) -> str:
    """The text of ``-f FILE``, of a single word that names a file, of stdin for ``-``, or the words themselves."""
    from ggmlpy.files.errors import MissingFileError, UsageError
    from ggmlpy.files.texts import LARGEST_TEXT, read_stream

    file, words = args.file, args.text
    if file is None and not words:
        raise UsageError("give a text, the name of a file, or - for stdin")
    name = file or (words[0] if len(words) == 1 else "")
    if name == "-":
        return read_stream(sys.stdin, LARGEST_TEXT)
    if file is None and not os.path.isfile(name):
        return " ".join(words)
    try:
        with open(name, "rb") as stream:
            data = read_stream(stream, LARGEST_TEXT, name)
    except OSError as error:
        raise MissingFileError(f"cannot be read: {error.strerror}", path=name) from error
    warn_of_encoding(args, name, data)
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="replace").read()
