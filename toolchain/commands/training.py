"""train, instructions, crawl: the recipe, and its data."""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

from toolchain.terminal.bars import progress_bar
from toolchain.terminal.talk import print_json, put_json, say

from .options import Arguments, Commands, command, group, json_option, number, writes

ONE_BLAS_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def add_train(commands: Commands) -> None:
    words = "Train a base, an adapter or the demo model: the recipe of Chinese-LLaMA-Alpaca in numpy."
    parser = group(commands, "train", words, "stage1")
    inner = parser.add_subparsers(dest="action", metavar="STAGE", required=True)
    demo = command(
        inner,
        "demo",
        run_train_demo,
        "Make the demo model from nothing: corpus, vocabularies, base, stages one and two, instruction tuning.",
        "train demo --output demo_model",
    )
    demo.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="goes on with what an earlier run left there"
    )
    demo.add_argument("--seed", type=int, default=2023, help="default 2023, the shipped model's")
    demo.add_argument("--steps", type=int, metavar="N", help="of every stage, for a quick look")
    demo.set_defaults(environment=ONE_BLAS_THREAD)
    for name, summary in (
        ("pretrain", "Train a base model from nothing on texts; published as Meta published LLaMA."),
        ("stage1", "Stage one: a grown vocabulary's token embeddings alone, on texts in the new language."),
        ("stage2", "Stage two: LoRA on q k v o gate down up, embeddings and output, on the same texts."),
        ("instruct", "Instruction tuning: the same on Alpaca records; the prompt's tokens do not count."),
    ):
        _add_stage(inner, name, summary)
    plot = command(
        inner, "plot", run_train_plot, "Plot loss curves.", "train plot stage1-lora/work stage2-lora/work -o loss.svg"
    )
    plot.add_argument("logs", nargs="+", metavar="LOG", help="log.jsonl files or their folders, in order")
    writes(
        plot.add_argument(
            "-o", "--output", required=True, metavar="FILE", help="the picture to write; its name ends in .svg"
        )
    )


_CHINESE = "files/held-out/chinese.txt --tokenizer files/chinese-llama-lora/tokenizer.model --base files/base"
STAGE_EXAMPLES = {
    "pretrain": "files/held-out/english.txt --tokenizer files/base/tokenizer.model --steps 20 --rows 1",
    "stage1": f"{_CHINESE} --steps 20 --rows 1",
    "stage2": f"{_CHINESE} --adapter stage1-lora --steps 20 --rows 1",
    "instruct": "instructions.json --tokenizer files/merged/tokenizer.model --base files/merged",
}


def _add_stage(inner: Commands, name: str, summary: str) -> None:
    example = f"train {name} {STAGE_EXAMPLES[name]} --output {'base' if name == 'pretrain' else name + '-lora'}"
    stage = command(inner, name, run_train_stage, summary, example)
    stage.add_argument("data", nargs="+", metavar="FILE", help="texts between empty lines; records for instruct")
    grown = "tokenizer.model; after pretrain, the grown one"
    stage.add_argument("--tokenizer", required=True, metavar="FILE", help=grown)
    stage.add_argument("-o", "--output", required=True, metavar="DIR", help="the folder to write")
    if name == "pretrain":
        _add_shape_options(stage.add_argument_group("shape (default: 1 million parameters and the vocabulary)"))
    else:
        stage.add_argument("--base", required=True, metavar="DIR", help="the model to start from")
    if name == "stage2":
        adapter = "what stage1 published: its embeddings replace the base's"
        stage.add_argument("--adapter", metavar="DIR", help=adapter)
    if name in ("stage2", "instruct"):
        _add_lora_options(stage)
    _add_optimizer_options(stage)
    stage.set_defaults(environment=ONE_BLAS_THREAD)


def _add_shape_options(group: Arguments) -> None:
    for option, default in (("n-embd", 128), ("n-mult", 32), ("n-head", 4), ("n-layer", 4)):
        group.add_argument(f"--{option}", type=int, default=default, metavar="N", help=f"default {default}")


def _add_lora_options(stage: Arguments) -> None:
    stage.add_argument("--r", type=int, default=8, metavar="N", help="rank (default 8)")
    stage.add_argument("--alpha", type=number, default=32, metavar="X", help="default 32")
    stage.add_argument("--dropout", type=number, default=0.05, metavar="P", help="default 0.05")


def _add_optimizer_options(stage: Arguments) -> None:
    stage.add_argument("--learning-rate", type=number, metavar="X", help="default: as Chinese-LLaMA-Alpaca")
    stage.add_argument("--steps", type=int, metavar="N", help="default: as Chinese-LLaMA-Alpaca")
    warmup = "part of the steps in which the rate rises (default: likewise)"
    stage.add_argument("--warmup", type=number, metavar="PART", help=warmup)
    stage.add_argument("--weight-decay", type=number, metavar="X", help="default: likewise")
    batches = "batches per update (default 1; Chinese-LLaMA-Alpaca: 8)"
    stage.add_argument("--accumulation", type=int, default=1, metavar="N", help=batches)
    rows = "rows per batch (default 8; Chinese-LLaMA-Alpaca: 1)"
    stage.add_argument("--rows", type=int, default=8, metavar="N", help=rows)
    stage.add_argument("--length", type=int, default=512, metavar="N", help="positions per row (default 512)")
    stage.add_argument("--seed", type=int, default=0, help="default 0")
    stage.add_argument("--resume", action="store_true", help="continue from the checkpoint in DIR/work")


class _TrainingBar:
    """Loss, tokens per second, and time left of each stage, on stderr."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.bar, self.stage = args, None, ""  # type: argparse.Namespace, Any, str

    def __call__(self, stage: str, n_steps: int, progress: Any) -> None:
        if stage != self.stage:
            self.close()
            self.stage, self.bar = stage, progress_bar(self.args, n_steps, stage, "step")
            self.bar.update(progress.step - 1)
        speed = progress.n_tokens / progress.seconds
        self.bar.set_postfix_str(f"loss {progress.loss:.3f}, {speed:,.0f} tokens/s", refresh=False)
        self.bar.update(1)
        if progress.step == n_steps:
            self.close()
            say(self.args, f"{stage}: loss {progress.loss:.3f} after {n_steps} steps")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None


def run_train_demo(args: argparse.Namespace) -> int:
    from toolchain.makers.recipe import DemoRecipe, train_demo

    began, recipe = time.perf_counter(), DemoRecipe(seed=args.seed)
    if args.steps is not None:
        recipe = DemoRecipe(seed=args.seed, steps=dict.fromkeys(recipe.steps, args.steps))
    folder = train_demo(args.output, recipe, _TrainingBar(args), lambda words: say(args, words))
    say(args, f"{folder}: done in {(time.perf_counter() - began) / 60:.1f} minutes")
    return 0


def _settings(args: argparse.Namespace, usual: Any) -> Any:
    """The stage's settings, with those replaced that were given."""
    from dataclasses import replace

    chosen = {
        "learning_rate": args.learning_rate,
        "n_steps": args.steps,
        "warmup": args.warmup,
        "weight_decay": args.weight_decay,
        "accumulation": args.accumulation,
        "seed": args.seed,
    }
    return replace(usual, **{name: value for name, value in chosen.items() if value is not None})


def run_train_stage(args: argparse.Namespace) -> int:
    from ggmlpy.formats.model_params import ModelParams
    from lora.training.model import Lora
    from lora.training.run_stage import StageInput, train
    from lora.training.stages import STAGES

    settings = _settings(args, STAGES[args.action].settings)
    shape = None
    if args.action == "pretrain":
        shape = ModelParams(n_embd=args.n_embd, n_mult=args.n_mult, n_head=args.n_head, n_layer=args.n_layer)
    base, adapter = getattr(args, "base", None), getattr(args, "adapter", None)
    given = StageInput(args.data, args.tokenizer, base, adapter, shape, args.rows, args.length)
    lora = Lora(args.r, args.alpha, args.dropout) if hasattr(args, "r") else None
    bar = _TrainingBar(args)
    report = lambda progress: bar(args.action, settings.n_steps, progress)  # noqa: E731
    run = train(args.action, given, args.output, settings, lora=lora, resume=args.resume, report=report)
    bar.close()
    say(args, f"{args.output}: {len(run.optimizer.trained)} tensors trained, {run.step} steps")
    return 0


def run_train_plot(args: argparse.Namespace) -> int:
    from lora.training.plot import plot_losses

    plot_losses(args.logs, args.output)
    say(args, args.output)
    return 0


def add_instructions(commands: Commands) -> None:
    parser = command(
        commands,
        "instructions",
        run_instructions,
        "Read instruction data in any state, repair what can be repaired, and write clean Alpaca JSON.",
        "instructions replies.txt more.json --output clean.json",
    )
    parser.add_argument("files", nargs="+", metavar="FILE")
    writes(parser.add_argument("-o", "--output", metavar="OUT", help="default: stdout"))
    json_option(parser, "the report (needs --output)")


def run_instructions(args: argparse.Namespace) -> int:
    from ggmlpy.files.atomic import atomic_write
    from ggmlpy.files.errors import UsageError
    from lora.training.instructions import CleanReport, dump_instructions, iterate_instructions

    if args.json and not args.output:
        raise UsageError("--json writes the report to stdout: name a file for the records with --output")
    reports = {path: CleanReport() for path in args.files}
    seen: set[bytes] = set()
    records = (record for path in args.files for record in iterate_instructions(path, reports[path], seen))
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
    parser.add_argument("--requests", type=int, default=1, metavar="N", help="replies in all (default 1)")
    parser.add_argument("--items", type=int, default=20, metavar="N", help="records a reply (default 20)")
    parser.add_argument("--temperature", type=number, default=1.0, metavar="X", help="default 1.0")
    parser.add_argument("--seed", type=int, default=0, help="of topics and kinds of task (default 0)")
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
