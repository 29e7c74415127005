"""train: the recipe, planned, prepared and run."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from toolchain.terminal.bars import bytes_of, progress_bar
from toolchain.terminal.talk import print_json, put, say

from .options import Arguments, Commands, command, group, json_option, number, seed_number, whole, writes

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
    demo.add_argument("--seed", type=seed_number, default=2023, help="default 2023, the shipped model's")
    demo.add_argument("--steps", type=whole(), metavar="N", help="of every stage, for a quick look")
    demo.set_defaults(environment=ONE_BLAS_THREAD)
    for name, summary in (
        ("pretrain", "Train a base model from nothing on texts; published as Meta published LLaMA."),
        ("stage1", "Stage one: a grown vocabulary's token embeddings alone, on texts in the new language."),
        ("stage2", "Stage two: LoRA on q k v o, embeddings and output, on the same texts."),
        (
            "instruct",
            "Instruction tuning: the same with all seven matrices; only the tokens of answers count.",
        ),
    ):
        _add_stage(inner, name, summary)
    _add_prepare(inner)
    _add_export(inner)
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
    if name != "pretrain":
        example += f"\ntrain {name} --plan 7B"
    stage = command(inner, name, run_train_stage, summary, example)
    data = "texts, a document per line (pretrain: between empty lines); records for instruct; or one file of `prepare`"
    stage.add_argument("data", nargs="*", metavar="FILE", help=data)
    grown = "tokenizer.model; after pretrain, the grown one"
    stage.add_argument("--tokenizer", metavar="FILE", help=grown)
    stage.add_argument("-o", "--output", metavar="DIR", help="the folder to write")
    if name == "pretrain":
        _add_shape_options(stage.add_argument_group("shape (default: 1 million parameters and the vocabulary)"))
    else:
        stage.add_argument("--base", metavar="DIR", help="the model to start from")
        recipe = "original (the default), today, alpaca-2 or demo: where all other numbers come from"
        stage.add_argument("--recipe", default="original", metavar="NAME", help=recipe)
        engine = "numpy (the default), or torch: on GPUs, several under torchrun; needs pip install '.[train]'"
        stage.add_argument("--engine", choices=("numpy", "torch"), default="numpy", help=engine)
        _add_plan_options(stage.add_argument_group("plan"))
    if name == "stage2":
        adapter = "what stage1 published: its embeddings replace the base's"
        stage.add_argument("--adapter", metavar="DIR", help=adapter)
    if name in ("stage2", "instruct"):
        _add_lora_options(stage)
    _add_optimizer_options(stage)
    stage.add_argument("--resume", action="store_true", help="continue from the checkpoint in DIR/work")
    stage.set_defaults(environment=ONE_BLAS_THREAD)


def _add_prepare(inner: Commands) -> None:
    prepare = command(
        inner,
        "prepare",
        run_train_prepare,
        "Turn texts or records into one file of token ids, labels and order, which every engine reads alike.",
        f"train prepare {_CHINESE.partition(' --base')[0]} --output chinese.safetensors",
    )
    prepare.add_argument("files", nargs="+", metavar="FILE", help="texts, each line a document; or records (--records)")
    prepare.add_argument("--tokenizer", required=True, metavar="FILE", help="tokenizer.model")
    output = "the file to write; an interrupted run goes on from FILE.part"
    writes(prepare.add_argument("-o", "--output", required=True, metavar="FILE", help=output))
    prepare.add_argument("--records", action="store_true", help="the files are arrays of instruction, input, output")
    recipe = "original (the default), today or alpaca-2: whose rules hold"
    prepare.add_argument("--recipe", default="original", metavar="NAME", help=recipe)
    prepare.add_argument("--length", type=whole(), default=512, metavar="N", help="tokens per row (default 512)")
    workers = "cut lines as the original did with so many preprocessing workers (default 1)"
    prepare.add_argument("--workers", type=whole(1), default=1, metavar="N", help=workers)
    held = "part of the rows of texts that is held out (default 0.001)"
    prepare.add_argument("--validation", type=number, default=0.001, metavar="PART", help=held)
    prepare.add_argument("--seed", type=seed_number, default=0, help="of the split (default 0)")
    threads = "threads that encode (default: one per processor); the result does not depend on it"
    prepare.add_argument("-t", "--threads", type=int, metavar="N", help=threads)


def _add_export(inner: Commands) -> None:
    export = command(
        inner,
        "export",
        run_train_export,
        "Write prepared data and a stage's numbers for Trainer with DeepSpeed, and for axolotl; say what will differ.",
        "train export chinese.safetensors --stage stage2 --cards 8 --output exported",
    )
    export.add_argument("data", metavar="FILE", help="what `prepare` wrote")
    export.add_argument("--stage", required=True, metavar="NAME", help="stage1, stage2 or instruct")
    export.add_argument("--recipe", default="today", metavar="NAME", help="original, today (the default) or alpaca-2")
    export.add_argument("--cards", type=whole(0, 1 << 20), default=8, metavar="N", help="GPUs in all (default 8)")
    export.add_argument("--base", default="BASE_DIR", metavar="DIR", help="where the model to start from will be")
    writes(export.add_argument("-o", "--output", required=True, metavar="DIR", help="the folder to write"))
    _add_lora_options(export)
    _add_optimizer_options(export)


def _add_shape_options(group: Arguments) -> None:
    for option, default in (("n-embd", 128), ("n-mult", 32), ("n-head", 4), ("n-layer", 4)):
        group.add_argument(
            f"--{option}", type=whole(1, 1 << 20), default=default, metavar="N", help=f"default {default}"
        )


def _add_plan_options(group: Arguments) -> None:
    plan = "train nothing; print what the stage takes for 7B, 13B, 33B or 65B: parameters, steps, memory, days"
    group.add_argument("--plan", metavar="SIZE", help=plan)
    group.add_argument(
        "--cards", type=whole(0, 1 << 20), metavar="N", help="how many GPUs (default: as the recipe was run, 16)"
    )
    kinds = "RTX-3090, RTX-4090, V100-32, A100-40, L40S, A100-80 (the default), H100 or H200"
    group.add_argument("--card", default="A100-80", metavar="KIND", help=kinds)
    json_option(group, "the plan")


def _add_lora_options(stage: Arguments) -> None:
    stage.add_argument("--r", type=int, metavar="N", help="rank (default: the recipe's, 8)")
    stage.add_argument("--alpha", type=number, metavar="X", help="default: the recipe's, 32")
    stage.add_argument("--dropout", type=number, metavar="P", help="default: the recipe's, 0.05")
    targets = "matrices that get pairs, as q_proj,v_proj (default: the recipe's)"
    stage.add_argument("--targets", type=_names, metavar="NAMES", help=targets)
    saved = "trained whole: embed_tokens,lm_head or none (default: the recipe's)"
    stage.add_argument("--modules-to-save", type=_names, metavar="NAMES", help=saved)


def _names(text: str) -> tuple[str, ...]:
    """Names between commas; "none" is none."""
    return () if text == "none" else tuple(name.strip() for name in text.split(",") if name.strip())


def _add_optimizer_options(stage: Arguments) -> None:
    stage.add_argument("--learning-rate", type=number, metavar="X", help="default: the recipe's")
    stage.add_argument("--steps", type=whole(), metavar="N", help="default: the recipe's")
    warmup = "part of the steps in which the rate rises (default: the recipe's)"
    stage.add_argument("--warmup", type=number, metavar="PART", help=warmup)
    stage.add_argument("--weight-decay", type=number, metavar="X", help="default: the recipe's")
    batch = "rows per update; sets --accumulation (default of a plan: the recipe's, 1024 or 512)"
    stage.add_argument("--batch", type=whole(1), metavar="N", help=batch)
    batches = "batches per update, over all cards (default 1; on GPUs and in plans: the recipe's update)"
    stage.add_argument("--accumulation", type=whole(1), metavar="N", help=batches)
    stage.add_argument("--rows", type=whole(), metavar="N", help="rows per batch (default 8; a plan: the recipe's, 1)")
    stage.add_argument("--length", type=whole(), metavar="N", help="tokens per row (default: the recipe's, 512)")
    stage.add_argument("--seed", type=seed_number, default=0, help="default 0")


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


def _numbers(args: argparse.Namespace, usual: Any) -> Any:
    """The stage's numbers, with those replaced that were given."""
    from dataclasses import replace

    from ggmlpy.files.errors import UsageError
    from lora.training.recipe import changed_lora

    settings = {
        "learning_rate": args.learning_rate,
        "n_steps": args.steps,
        "warmup": args.warmup,
        "weight_decay": args.weight_decay,
        "seed": args.seed,
    }
    lora = {name: getattr(args, name, None) for name in ("r", "alpha", "dropout", "targets")}
    sizes = {"rows": args.rows, "length": args.length, "modules_to_save": getattr(args, "modules_to_save", None)}
    if args.batch or (args.accumulation and args.rows):
        sizes["batch"] = args.batch or args.accumulation * args.rows
    changed = replace(
        usual,
        settings=replace(usual.settings, **_given(settings)),
        lora=changed_lora(usual.lora, _given(lora)),
        **_given(sizes),
    )
    if changed.everything and not usual.everything:
        raise UsageError("nothing is left to train: name matrices with --targets, or tensors with --modules-to-save")
    return changed


def _with_accumulation(args: argparse.Namespace, numbers: Any) -> Any:
    """The same where batches have the recipe's size: an update of so many of them as ``--accumulation`` says."""
    from dataclasses import replace

    from ggmlpy.files.errors import UsageError

    batch = numbers.rows * (args.accumulation or 0)
    if args.batch and batch not in (0, args.batch):
        words = f"an update of {args.batch} rows does not consist of {args.accumulation} batches of {numbers.rows}"
        raise UsageError(words)
    return replace(numbers, batch=batch) if batch else numbers


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def run_train_stage(args: argparse.Namespace) -> int:
    from lora.training.recipe import load_recipe

    name = "demo" if args.action == "pretrain" else args.recipe
    usual = load_recipe(name).stage(args.action)
    if getattr(args, "plan", None):
        return _print_plan(args, name, _with_accumulation(args, _numbers(args, usual)))
    missing = [word for word in ("data", "tokenizer", "output") if not getattr(args, word)]
    if missing:
        option = "FILE" if missing[0] == "data" else f"--{missing[0]}"
        args.parser.error(f"the following arguments are required: {option}, unless --plan is given")
    return _train(args, name, _numbers(args, usual))


def _print_plan(args: argparse.Namespace, recipe: str, numbers: Any) -> int:
    from lora.training.plan import plan_stage

    plan = plan_stage(args.plan, numbers, args.cards, args.card)
    if args.json:
        print_json({"recipe": recipe, "stage": args.action, **plan.as_dict()})
    else:
        put(f"{args.action} of {plan.model} by the recipe {recipe}", *plan.lines())
    return 0


def _train(args: argparse.Namespace, recipe: str, numbers: Any) -> int:
    from ggmlpy.formats.model_params import ModelParams
    from lora.training.run_stage import StageInput, small_batches, train

    shape = None
    if args.action == "pretrain":
        shape = ModelParams(n_embd=args.n_embd, n_mult=args.n_mult, n_head=args.n_head, n_layer=args.n_layer)
    given = StageInput(args.data, args.tokenizer, getattr(args, "base", None), getattr(args, "adapter", None), shape)
    if getattr(args, "engine", "numpy") == "torch":
        return _train_on_torch(args, given, recipe, _with_accumulation(args, numbers))
    small = small_batches(numbers, args.rows, args.batch, args.accumulation)
    if small.batch != numbers.batch:
        say(args, f"an update has {small.batch} rows; the recipe's has {numbers.batch} (--batch {numbers.batch})")
    bar = _TrainingBar(args)
    report = lambda progress: bar(args.action, small.settings.n_steps, progress)  # noqa: E731
    run = train(args.action, given, args.output, small, recipe=recipe, resume=args.resume, report=report)
    bar.close()
    _say_what_taught_nothing(args, run.packing)
    say(args, f"{args.output}: {len(run.optimizer.trained)} tensors trained, {run.step} steps")
    return 0


def _train_on_torch(args: argparse.Namespace, given: Any, recipe: str, numbers: Any) -> int:
    from ggmlpy.files.errors import UsageError

    if os.environ.get("RANK", "0") != "0":
        args.quiet = True  # one process speaks
    try:
        from lora.training.run_torch import train_torch
    except ImportError as error:
        raise UsageError(f"--engine torch needs {error.name}: install with pip install '.[train]'") from error
    bar = _TrainingBar(args)
    report = lambda progress: bar(args.action, numbers.settings.n_steps, progress)  # noqa: E731
    run = train_torch(args.action, given, args.output, numbers, recipe=recipe, resume=args.resume, report=report)
    bar.close()
    _say_what_taught_nothing(args, run.stream)
    end = "trained" if run.step >= numbers.settings.n_steps else "stopped by a signal; --resume goes on"
    say(args, f"{args.output}: {len(run.optimizer.trained)} tensors, {run.step} steps: {end}")
    return 0


def _say_what_taught_nothing(args: argparse.Namespace, batches: Any) -> None:
    """Rows that end before their answer begins; the numpy engine's own packing leaves them out."""
    if without := getattr(batches, "without_target", 0):
        rows = f"{without:,} of {len(batches.data.train):,} rows"
        say(args, f"note: {rows} end before their answer begins and taught nothing; --length N makes rows longer")


def run_train_prepare(args: argparse.Namespace) -> int:
    from ggmlpy.files.processors import checked_threads
    from lora.training.prepare import Preparation, prepare_data

    kind, threads = "records" if args.records else "texts", checked_threads(args.threads)
    how = Preparation(kind, args.recipe, args.length, args.workers, args.validation, args.seed, threads)
    with progress_bar(args, sum(map(bytes_of, args.files)), "preparing") as bar:
        counts = prepare_data(args.files, args.tokenizer, args.output, how, bar.update)
    say(args, f"{args.output}: " + ", ".join(f"{n:,} {what}" for what, n in counts.items()))
    return 0


def run_train_export(args: argparse.Namespace) -> int:
    from lora.training.export import export_stage
    from lora.training.recipe import load_recipe

    numbers = _with_accumulation(args, _numbers(args, load_recipe(args.recipe).stage(args.stage)))
    with progress_bar(args, None, "exporting", "row") as bar:
        told = export_stage(args.data, args.output, numbers, args.cards, args.base, bar.update)
    for line in told:
        say(args, f"will differ: {line}")
    say(args, args.output)
    return 0


def run_train_plot(args: argparse.Namespace) -> int:
    from lora.training.plot import plot_losses

    plot_losses(args.logs, args.output)
    say(args, args.output)
    return 0
