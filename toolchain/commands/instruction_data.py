"""instructions, crawl: the data of the recipe."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from typing import Any

from toolchain.terminal.bars import progress_bar
from toolchain.terminal.talk import print_json, put_json, say

from .options import Commands, command, json_option, number, seed_number, whole, writes


def add_instructions(commands: Commands) -> None:
    parser = command(
        commands,
        "instructions",
        run_instructions,
        "Read instruction data in any state, repair what can be repaired, and write clean Alpaca JSON.",
        "instructions replies.txt more.json --output clean.json\n"
        "instructions translation.json pclue.json alpaca.json --take 500000,300000,all --output mix.json",
    )
    parser.add_argument("files", nargs="+", metavar="FILE")
    take = "how many records of each file, drawn at random: a number or all, in the order of the files"
    parser.add_argument("--take", type=_sizes, metavar="SIZES", help=take)
    parser.add_argument("--seed", type=seed_number, default=0, help="of the draw (default 0)")
    writes(parser.add_argument("-o", "--output", metavar="OUT", help="default: stdout"))
    json_option(parser, "the report (needs --output)")


def _sizes(text: str) -> list[int | None]:
    """Numbers between commas; None for "all"."""
    words = [word.strip() for word in text.split(",")]
    if not all(word == "all" or (word.isdecimal() and int(word)) for word in words):
        raise argparse.ArgumentTypeError(f"must be a number or all for each file, between commas, not {text}")
    return [None if word == "all" else int(word) for word in words]


def run_instructions(args: argparse.Namespace) -> int:
    from ggmlpy.files.atomic import atomic_write
    from ggmlpy.files.errors import UsageError
    from lora.training.instructions import CleanReport, dump_instructions

    if args.json and not args.output:
        raise UsageError("--json writes the report to stdout: name a file for the records with --output")
    if args.take and len(args.take) != len(args.files):
        sizes, files = len(args.take), len(args.files)
        raise UsageError(
            f"--take has {sizes} size{'s' * (sizes > 1)} for {files} file{'s' * (files > 1)}; give one for each"
        )
    reports = {path: CleanReport() for path in args.files}
    records = _records(args, reports)
    with atomic_write(args.output) if args.output else tempfile.TemporaryFile() as stream:
        count = dump_instructions(stream, records)
        for path, report in reports.items():
            _say_cleaning(args, path, report)
        if not args.output:
            _copy_to_stdout(stream)
    if args.output:
        say(args, f"{args.output}: {count} records")
    if args.json:
        print_json({path: report.as_dict() for path, report in reports.items()})
    return 0


def _records(args: argparse.Namespace, reports: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The clean records of all files, or a sample of each; one that has fewer than were asked for is told."""
    from lora.training.instructions import iterate_instructions, sample_records

    seen: set[bytes] = set()
    for path, size in zip(args.files, args.take or [None] * len(args.files)):
        records = iterate_instructions(path, reports[path], seen)
        if size is None:
            yield from records
            continue
        taken = sample_records(records, size, args.seed)
        if len(taken) < size:
            say(args, f"{path}: has {len(taken):,} records, {size:,} were asked for")
        yield from taken


def _say_cleaning(args: argparse.Namespace, path: str, report: Any) -> None:
    say(args, f"{path}: {report}")
    for finding in report.findings if args.verbose else ():
        say(args, f"  {finding}")
    hidden = sum(report.counts.values()) - len(report.findings)
    if args.verbose and hidden > 0:
        say(args, f"  and {hidden:,} more")


def _copy_to_stdout(stream: Any) -> None:
    """What was collected in a file: nothing is printed unless all files could be read."""
    stream.seek(0)
    for line in stream:
        put_json(line.decode())


def add_crawl(commands: Commands) -> None:
    parser = command(
        commands,
        "crawl",
        run_crawl,
        "Ask a language model for instruction data, twenty records at a time; an interrupted crawl goes on.",
        "crawl data.json --url https://api.openai.com/v1 --model gpt-3.5-turbo --requests 50",
    )
    writes(parser.add_argument("output", metavar="OUT", help="JSON; the unedited replies are in OUT.raw.jsonl"))
    parser.add_argument("--url", default="https://api.openai.com/v1", help="endpoint (default %(default)s)")
    parser.add_argument("--model", default="gpt-3.5-turbo", help="its name at the endpoint (default %(default)s)")
    parser.add_argument("--requests", type=whole(1), default=1, metavar="N", help="replies in all (default 1)")
    parser.add_argument("--items", type=whole(1), default=20, metavar="N", help="records a reply (default 20)")
    parser.add_argument("--temperature", type=number, default=1.0, metavar="X", help="default 1.0")
    parser.add_argument("--seed", type=seed_number, default=0, help="of topics and kinds of task (default 0)")
    template = "what to ask for; may hold {topics}, {kinds}, {count}, {input_length} and {output_length}"
    parser.add_argument("--template", metavar="FILE", help=template)
    parser.add_argument(
        "--key-variable", default="OPENAI_API_KEY", metavar="NAME", help="environment variable (default %(default)s)"
    )


def run_crawl(args: argparse.Namespace) -> int:
    from lora.training.crawl import CrawlOptions, crawl
    from lora.training.crawl_prompts import TEMPLATE, read_template

    options = CrawlOptions(
        args.url,
        args.model,
        n_requests=args.requests,
        n_items=args.items,
        seed=args.seed,
        temperature=args.temperature,
        key_variable=args.key_variable,
        template=read_template(args.template) if args.template else TEMPLATE,
    )
    with progress_bar(args, args.requests, "crawl", "reply") as bar:
        report = crawl(args.output, options, progress=bar.update)
    say(args, f"{args.output}: {report}")
    return 0
