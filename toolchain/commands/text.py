"""generate: text from a model."""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from toolchain.terminal.bars import progress_bar
from toolchain.terminal.talk import print_json, put_text, remark_text, say, say_text
from toolchain.terminal.widths import terminal_width

from .adapters import lora_options
from .loading import Loading
from .main_options import add_main_options, is_interactive, main_options, new_conversation, settled
from .options import Commands, arithmetic_of, command, model_or_demo, writes


def add_generate(commands: Commands) -> None:
    parser = command(
        commands,
        "generate",
        run_generate,
        "Continue a text, as llama.cpp's main of 2023-03-31 does.",
        'generate -p "介绍北京" -n 64\n'
        'generate -m files/ggml-model-q4_0.bin -p "Once upon a time" -n 64 -s 42\n'
        "generate -m ggml-model-q4_0.bin -f ./prompts/alpaca.txt -ins --color\n"
        "generate --prompts questions.txt -ins --output answers.jsonl -n 256\n"
        "generate -m original.bin --compare-with chinese.bin -f prompts.txt --markdown",
    )
    add_main_options(parser)
    lora_options(parser.add_argument_group("LoRA adapters"))
    add_raw_output(parser)
    receipt = "write what decided the text, and a digest of each token's logits, for `verify --receipt`"
    writes(parser.add_argument("--receipt", metavar="R.json", help=receipt))
    many = parser.add_argument_group("many prompts")
    which = "answer each line, or each record of JSON (instruction, input), for itself; with -ins as chat TEXT does"
    many.add_argument("--prompts", metavar="FILE", help=which)
    where = "the answers, as JSON lines; a run that was interrupted goes on there (default: standard output)"
    writes(many.add_argument("--output", metavar="FILE", help=where))
    both = parser.add_argument_group("two models side by side")
    both.add_argument("--compare-with", metavar="MODEL_B", help="answer every line of the prompt file with both models")
    both.add_argument("--markdown", action="store_true", help="print the comparison as a Markdown table")


def run_generate(args: argparse.Namespace) -> int:
    for name in ("perplexity", "embedding"):
        if getattr(args, name):
            stars = "\n************\n"
            put_text(f"{stars}main: please use the '{name}' tool for {name} calculations{stars}")
            return 0
    if args.receipt and (args.compare_with or args.prompts or args.mtest or is_interactive(args)):
        from ggmlpy.files.errors import UsageError

        raise UsageError("--receipt is for one text: it excludes interaction, --prompts, --compare-with and --mtest")
    if args.prompts or args.output:
        from .many_prompts import run_prompts

        return run_prompts(args)
    if args.compare_with:
        return _run_comparison(args)
    loading = Loading(args)
    from toolchain.terminal.console import lines_of

    return _run_main(args, loading, lines_of(sys.stdin.buffer, sys.stdout.buffer))


def add_raw_output(parser: argparse.ArgumentParser) -> None:
    what = "let control sequences that the model writes reach the terminal (a pipe always gets every byte)"
    parser.add_argument("--raw-output", action="store_true", help=what)


# ── one text, or one conversation ────────────────────────────────────────────────────────────────────────────────────


def _run_main(args: argparse.Namespace, loading: Loading, read_line: Any) -> int:
    """One generation or conversation on this terminal."""
    from ggmlpy.files.errors import UsageError
    from llama_ref.text.main_words import timings_text
    from llama_ref.text.sampling_trace import trace_sampling

    if args.json and is_interactive(args):
        raise UsageError("--json and interaction exclude each other")
    args = settled(args, loading.file)
    options = main_options(args)
    if not (args.prompt_parts or args.random_prompt or options.prompt or is_interactive(args) or args.mtest):
        say(args, "note: no prompt was given, so the model invents a text: -p TEXT gives one; chat answers questions")
    model = loading.model(args)
    code = 0
    with model, trace_sampling(args.trace_sampling, model.vocab) as on_sample:
        conversation = new_conversation(args, model, on_sample)
        if args.mtest:
            conversation.memory_test(args.n_predict)
        else:
            code = _run_loop(args, conversation, options, read_line)
        if not code:
            seconds = time.perf_counter() - loading.began
            say_text(args, "\n" + timings_text(loading.seconds, conversation.timings, seconds))
    return code


def _run_loop(args: argparse.Namespace, conversation: Any, options: Any, read_line: Any) -> int:
    from llama_ref.text.main_loop import MainLoop
    from toolchain.terminal.console import TerminalConsole

    out = io.BytesIO() if args.json else sys.stdout.buffer
    clean = sys.stdout.isatty() and not args.raw_output
    console = TerminalConsole(out, read_line, use_color=args.color, without_controls=clean)
    loop = MainLoop(conversation, options, console, partial(say, args), collect=args.json)
    _introduce(args, loop)
    try:
        with _token_bar(args, conversation), _recorded(args, loop):
            loop.run()
    except KeyboardInterrupt:
        console.close()
        return 130
    if loop.ended_by == "end of input" and sys.stdout.isatty():
        console.close()
    if args.json:
        print_json(loop.as_record())
    return 0


def _introduce(args: argparse.Namespace, loop: Any) -> None:
    """What the person should know before the first token, on stderr."""
    from llama_ref.text.chat import instruction_warning
    from llama_ref.text.main_words import prompt_table

    conversation = loop.conversation
    file = conversation.model.file
    warning = instruction_warning(conversation.model.n_vocab, file.container) if args.instruct else None
    if warning:
        say(args, f"warning: {warning}")
    if args.verbose_prompt:
        remark_text("\n" + loop.prompt_words())
    if args.show_prompt:
        table = lambda tokens: remark_text(prompt_table(tokens, conversation.tokenizer))  # noqa: E731
        remark_text("prompt, as the model sees it:")
        table(loop.prompt_tokens)
        loop.on_turn = table
    say_text(args, loop.settings_words())


@contextmanager
def _token_bar(args: argparse.Namespace, conversation: Any) -> Iterator[None]:
    """A bar of the tokens that are made, where the text itself is not to be seen on the terminal as it grows."""
    seen = is_interactive(args) or (sys.stdout.isatty() and not args.json)
    if seen or args.quiet or not sys.stderr.isatty():
        yield
        return
    traced = conversation.on_sample
    with progress_bar(args, args.n_predict if args.n_predict > 0 else None, "generate", "token") as bar:

        def sampled(sample: Any, logits: Any) -> None:
            bar.update()
            if traced is not None:
                traced(sample, logits)

        conversation.on_sample = sampled
        yield


@contextmanager
def _recorded(args: argparse.Namespace, loop: Any) -> Iterator[None]:
    """``--receipt``: what was made, once it is whole."""
    if not args.receipt:
        yield
        return
    from llama_ref.text.receipts import Recorder, write_receipt
    from toolchain.verify.receipts import arithmetic_record, receipt_of

    recorder = Recorder(loop.conversation)
    yield
    arithmetic = arithmetic_record(**arithmetic_of(args))
    adapters = {"adapters": args.lora or (), "base": args.lora_base}
    write_receipt(args.receipt, receipt_of(loop, recorder.made, arithmetic, args.receipt, **adapters))
    if arithmetic.machine is not None:
        say(args, f"note: bits of the {args.numerics} arithmetic depend on the machine: the receipt names this one's")


# ── two models ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _run_comparison(args: argparse.Namespace) -> int:
    """``generate --compare-with``."""
    from ggmlpy.files.errors import UsageError
    from llama_ref.text.main_inputs import read_prompt
    from toolchain.look.texts import answers, names_of, prompts_of, rows_of

    if not args.prompt_parts:
        raise UsageError("--compare-with needs prompts: -f prompts.txt (one per line)")
    prompts = prompts_of(read_prompt(args.prompt_parts, sys.stdin.buffer, partial(say, args)))
    paths, columns = (model_or_demo(args), args.compare_with), []
    with progress_bar(args, 2 * len(prompts), "prompts", "prompt") as bar:
        for path in paths:
            loading = Loading(argparse.Namespace(**vars(args) | {"model": path}))
            each = settled(args, loading.file)
            args.seed = each.seed  # the clock's, where it was asked, for both
            with loading.model(each) as model:
                fresh = partial(new_conversation, each, model)
                how = {"max_tokens": args.n_predict, "instruct": args.instruct, "on_answer": bar.update}
                columns.append(answers(fresh, prompts, **how))
    _print_comparison(args, rows_of(prompts, columns), names_of(paths))
    return 0


def _print_comparison(args: argparse.Namespace, rows: Any, names: Any) -> None:
    from toolchain.look.texts import as_markdown, as_records, as_text

    if args.json:
        print_json(as_records(rows, names))
    elif args.markdown:
        put_text(as_markdown(rows, names))
    else:
        put_text(as_text(rows, names, terminal_width()))
