"""merge: adapters into a base."""

from __future__ import annotations

import argparse
from pathlib import Path

from toolchain.terminal.bars import bytes_of, progress_bar, searching
from toolchain.terminal.program import spoken, spoken_within
from toolchain.terminal.talk import print_json, put, say_text

from .options import (
    Arguments,
    Commands,
    command,
    dry_run_option,
    era_option,
    json_option,
    seed_number,
    threads_option,
    tokenizer_option,
    torch_format_option,
    writes,
)


def add_merge(commands: Commands) -> None:
    parser = command(
        commands,
        "merge",
        run_merge,
        "Merge LoRA adapters, in order, into a base model: the original scripts' files to the byte, in a stream.",
        "merge --base files/base --lora files/chinese-llama-lora,files/chinese-alpaca-lora --output merged\n"
        "merge --base models/7B --lora chinese_alpaca_lora_7b.zip --output merged\n"
        "merge --base_model llama-7b-hf --lora_model chinese-alpaca-lora-7b --output_dir merged\n"
        "merge --base models/13B --lora llama-plus-lora,alpaca-plus-lora --output merged --dry-run\n"
        "merge --base models/7B --lora alpaca-lora --output alpaca-q4_0.bin --output-type ggml-q4_0",
    )
    parser.add_argument("--base", "--base-model", required=True, metavar="DIR", help="Meta's or Hugging Face's layout")
    adapters = "the adapters, in order (may be repeated)"
    parser.add_argument("--lora", "--lora-model", required=True, action="append", metavar="DIR|ZIP[,…]", help=adapters)
    output = "a directory, a file for GGML types (default: ./)"
    writes(parser.add_argument("--output", "--output-dir", default="./", metavar="DIR|FILE", help=output))
    _add_output_options(parser)
    _add_vocabulary_options(parser)
    original = "first check by SHA256 whether the base is an original"
    parser.add_argument("--check-base", action="store_true", help=original)
    threads_option(parser)
    dry_run_option(parser)
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted merge")
    json_option(parser)


def _add_output_options(parser: Arguments) -> None:
    types = "pth (default), huggingface, ggml-f16, ggml-q4_0, gguf-q4_K_M … (any type of the era; GGUF: of today)"
    parser.add_argument("--output-type", default="pth", metavar="TYPE", help=types)
    torch_format_option(parser)
    parser.add_argument("--shards", type=int, metavar="N", help="number of .pth files (default: as Meta's)")
    weights = "for huggingface: the format of its files (default: the base's, or bin)"
    parser.add_argument("--weights", choices=("bin", "safetensors"), help=weights)
    size = "for huggingface: the largest size of a file (default: as the base's files, or 10GB)"
    parser.add_argument("--shard-size", metavar="SIZE", help=size)
    types = "for pth and huggingface: the type of the weights; auto: as in the base (default: f16, as the scripts)"
    parser.add_argument("--dtype", choices=("auto", "f16", "bf16", "f32"), default="f16", help=types)
    rules = "for GGUF of a tokenizer.json: whose rules split a text into words, if they are not recognized"
    parser.add_argument("--pre-tokenizer", metavar="NAME", help=rules)
    turned = "if an adapter says fan_in_fan_out: ignore it as PEFT (default), or transpose as the v1.1 script"
    parser.add_argument("--fan-in-fan-out", choices=("peft", "v1.1"), default="peft", help=turned)
    era_option(parser, "for GGML types (default 2023-03-31)", "2023-03-31")


def _add_vocabulary_options(parser: Arguments) -> None:
    tokenizer_option(parser, "tokenizer.model of the result, if no adapter has it")
    ways = ("pieces", "mean", "normal", "zeros")
    init = "fill rows of new tokens that no adapter brings (untrained!)"
    parser.add_argument("--init-embeddings", choices=ways, help=init)
    parser.add_argument("--seed", type=seed_number, default=0, help="for --init-embeddings normal (default 0)")


def run_merge(args: argparse.Namespace) -> int:
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
        "dtype": args.dtype,
        "fan_in_fan_out": args.fan_in_fan_out,
        "pre_tokenizer": args.pre_tokenizer,
    }
    with progress_bar(args, sum(map(bytes_of, [*adapters, *[args.base] * args.check_base])), "checking") as bar:
        plan = plan_merge(args.base, adapters, args.output, searching(bar, "checking"), **options)
    with plan:
        if args.dry_run:
            _put_plan(args, spoken(plan.describe()))
            return 0
        say_text(args, spoken(plan.describe() if args.verbose else plan.summary()))
        with progress_bar(args, plan.nbytes, "merge") as bar:
            report = plan.run(force=args.force, resume=args.resume, progress=bar.update)
    say_text(args, spoken(report))
    if args.json:
        print_json(spoken_within(report.as_dict()))
    return 0


def _put_plan(args: argparse.Namespace, plan: str) -> None:
    """The plan is the result of a dry run."""
    if args.json:
        print_json({"plan": plan.splitlines()})
    else:
        put(*plan.splitlines())
