"""generate, chat, tokenize: text in and out."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

from toolchain.terminal.talk import print_json, progress_bar, say

from .options import Commands, command

_LITERAL_OPTIONS = {
    "-p": "--prompt",
    "-r": "--reverse-prompt",
    "-f": "--file",
    "-m": "--model",
    **{name: name for name in ("--prompt", "--reverse-prompt", "--in-prefix", "--file", "--model")},
}


class _AppendPrompt(argparse.Action):
    """``-p`` replaces the prompt, ``-f`` appends a file to it, in the order given, as ``main`` does."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        earlier = [] if self.metavar == "PROMPT" else namespace.prompt_parts
        namespace.prompt_parts = [*earlier, (self.metavar, values)]


def _take_values_literally(parser: argparse.ArgumentParser) -> None:
    """A prompt may begin with a dash: whatever follows ``-p`` is its value."""
    parse = parser.parse_known_args

    def parse_known_args(args: Any = None, namespace: Any = None) -> Any:
        joined, rest = [], iter(args)
        for argument in rest:
            value = next(rest, None) if argument in _LITERAL_OPTIONS else None
            joined.append(argument if value is None else f"{_LITERAL_OPTIONS[argument]}={value}")
        return parse(joined, namespace)

    parser.parse_known_args = parse_known_args  # type: ignore[method-assign]


def _add_main_options(parser: argparse.ArgumentParser) -> None:
    """Every option of llama.cpp's main of 2023-03-31, with its defaults, and how to compute."""
    _take_values_literally(parser)
    parser.set_defaults(prompt_parts=[])
    model = parser.add_argument_group("the model and its arithmetic")
    model.add_argument("-m", "--model", metavar="MODEL", help="a GGML or GGUF file (default: the demo model)")
    model.add_argument("--numerics", default="fast", metavar="HOW", help="fast (default), reference or exact")
    model.add_argument("--era", metavar="DATE", help="whose tokenizer, sampler, arithmetic (default: the file's)")
    model.add_argument("--build", metavar="B", help="exact: scalar (default), avx2, avx512 or cmake-avx2")
    model.add_argument("--norm-eps", type=float, default=1e-6, metavar="E", help="added in every norm (default 1e-6)")
    model.add_argument("-t", "--threads", type=int, metavar="N", help="threads (default: one a processor)")
    model.add_argument("-c", "--ctx-size", type=int, default=512, metavar="N", help="size of the context (default 512)")
    batch = "prompt tokens a batch (default: 8; fast: 128, its results depend on no batches)"
    model.add_argument("-b", "--batch-size", type=int, metavar="N", help=batch)
    model.add_argument("--memory-f32", action="store_true", help="keep keys and values in f32, not f16")
    model.add_argument("--memory-f16", action="store_true", help="the opposite: for era 2023-03-19, where f32 is usual")
    model.add_argument("--n-parts", type=int, default=-1, metavar="N", help="accepted; parts are found by themselves")
    model.add_argument("--mlock", action="store_true", help="accepted; the file is mapped")
    model.add_argument("--mtest", action="store_true", help="evaluate a full batch and the last position, then stop")

    text = parser.add_argument_group("the text")
    text.add_argument("-p", "--prompt", action=_AppendPrompt, metavar="PROMPT", help="what to continue")
    text.add_argument("-f", "--file", action=_AppendPrompt, metavar="FILE", help="a file with the prompt; - is stdin")
    text.add_argument("--random-prompt", action="store_true", help="begin with a word chosen by the seed")
    text.add_argument(
        "-n", "--n-predict", type=int, default=128, metavar="N", help="how many tokens (default 128; -1: no end)"
    )
    text.add_argument("--keep", type=int, default=0, metavar="N", help="prompt tokens kept in a full context; -1: all")
    text.add_argument("--ignore-eos", action="store_true", help="make the end of text unlikely")

    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("-s", "--seed", type=int, default=-1, metavar="SEED", help="0 and less: the time (default)")
    sampling.add_argument("--top-k", type=int, default=40, metavar="N", help="of the N most likely (default 40)")
    sampling.add_argument("--top-p", type=float, default=0.95, metavar="P", help="with this probability (default 0.95)")
    sampling.add_argument("--temp", type=float, default=0.80, metavar="T", help="temperature (default 0.8; 0: greedy)")
    sampling.add_argument("--repeat-last-n", type=int, default=64, metavar="N", help="penalize the last N (default 64)")
    sampling.add_argument(
        "--repeat-penalty", type=float, metavar="X", help="how much (default 1.1; 1.3 for era 2023-03-19)"
    )
    sampling.add_argument("--trace-sampling", metavar="FILE", help="a JSON line a token: candidates and draw")

    talk = parser.add_argument_group("interaction")
    talk.add_argument("-i", "--interactive", "--interactive-start", action="store_true", help="Ctrl-C takes the turn")
    talk.add_argument("--interactive-first", action="store_true", help="you have the first turn")
    talk.add_argument("-ins", "--instruct", action="store_true", help="instructions in the Alpaca template")
    talk.add_argument(
        "-r",
        "--reverse-prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="your turn when it writes this",
    )
    talk.add_argument("--in-prefix", default="", metavar="TEXT", help="put in front of each of your turns")

    shown = parser.add_argument_group("what is shown")
    shown.add_argument("--color", action="store_true", help="prompt yellow, your turns green")
    shown.add_argument("--show-prompt", action="store_true", help="on stderr: what the model sees, with token ids")
    shown.add_argument("--verbose-prompt", action="store_true", help="on stderr: the prompt's tokens, as main")
    shown.add_argument("--json", action="store_true", help="one JSON document instead of the text")
    parser.add_argument("--perplexity", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--embedding", action="store_true", help=argparse.SUPPRESS)


def add_generate(commands: Commands) -> None:
    parser = command(
        commands,
        "generate",
        run_generate,
        "Continue a text, as llama.cpp's main of 2023-03-31 does.",
        'generate -p "介绍北京" -n 64\n'
        'generate -m files/ggml-model-q4_0.bin -p "Once upon a time" -n 64 -s 42\n'
        "generate -m ggml-model-q4_0.bin -f prompts/alpaca.txt -ins --color\n"
        "generate -m original.bin --compare-with chinese.bin -f prompts.txt --markdown",
    )
    _add_main_options(parser)
    both = parser.add_argument_group("two models side by side")
    both.add_argument("--compare-with", metavar="MODEL_B", help="answer every line of the prompt file with both models")
    both.add_argument("--markdown", action="store_true", help="the comparison as a Markdown table")


def run_generate(args: argparse.Namespace) -> int:
    for name in ("perplexity", "embedding"):
        if getattr(args, name):
            stars = "\n************\n"
            print(f"{stars}main: please use the '{name}' tool for {name} calculations{stars}")
            return 0
    if args.compare_with:
        return _compare_texts(args)
    _open_file(args)
    from toolchain.terminal.console import lines_of

    return _run_main(args, lines_of(sys.stdin.buffer, sys.stdout.buffer))


def add_chat(commands: Commands) -> None:
    parser = command(
        commands,
        "chat",
        run_chat,
        "Talk with an instruction model: generate -ins with the Alpaca template, a line editor and its history.",
        "chat\nchat -m files/ggml-model-q4_0.bin --temp 0.2\n"
        "chat -m zh-alpaca/ggml-model-q4_0.bin -c 2048 --temp 0.2 --repeat-penalty 1.3",
    )
    _add_main_options(parser)


def run_chat(args: argparse.Namespace) -> int:
    _open_file(args)
    from llama_ref.vocabulary.prompts import PREAMBLE
    from toolchain.terminal.console import edited_lines

    args.instruct = True
    args.color = args.color or sys.stdout.isatty()
    if not args.prompt_parts and not args.random_prompt:
        args.prompt_parts = [("PROMPT", PREAMBLE)]
    with edited_lines() as read_line:
        return _run_main(args, read_line)


def _run_main(args: argparse.Namespace, read_line: Any) -> int:
    """One generation or conversation on this terminal."""
    import io

    from llama_ref.text.main_loop import MainLoop, PromptTooLongError
    from llama_ref.text.main_words import timings_text
    from llama_ref.text.sampling_trace import trace_sampling
    from toolchain.terminal.console import TerminalConsole

    interactive = args.interactive or args.interactive_first or args.instruct or bool(args.reverse_prompt)
    options = _main_options(args, interactive)
    model = _open_main_model(args)
    with model, trace_sampling(args.trace_sampling, model.vocab) as on_sample:
        conversation = _conversation(args, model, on_sample)
        if args.mtest:
            conversation.memory_test(args.n_predict)
        else:
            console = TerminalConsole(io.BytesIO() if args.json else sys.stdout.buffer, read_line, use_color=args.color)
            try:
                loop = MainLoop(conversation, options, console, lambda text: say(args, text), collect=args.json)
            except PromptTooLongError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            _introduce(args, loop)
            bar = None if interactive else _token_bar(args, conversation)
            try:
                loop.run()
            except KeyboardInterrupt:
                console.close()
                return 130
            finally:
                if bar is not None:
                    bar.close()
            if loop.ended_by == "end of input" and sys.stdout.isatty():
                console.close()
            if args.json:
                print_json(loop.as_record())
        say(args, "\n" + timings_text(args.load_seconds, conversation.timings, time.perf_counter() - args.began))
    return 0


def _token_bar(args: argparse.Namespace, conversation: Any) -> Any:
    """A bar of the tokens that are made, where the text itself is not to be seen on the terminal as it grows."""
    if args.quiet or not sys.stderr.isatty() or (sys.stdout.isatty() and not args.json):
        return None
    bar = progress_bar(args, args.n_predict if args.n_predict > 0 else None, "generate", "token")
    traced = conversation.on_sample

    def sampled(sample: Any, logits: Any) -> None:
        bar.update()
        if traced is not None:
            traced(sample, logits)

    conversation.on_sample = sampled
    return bar


def _main_options(args: argparse.Namespace, interactive: bool) -> Any:
    """What main's loop is asked to do; the seed becomes the one that is used, the era the one that counts."""
    from ggmlpy.files.errors import UsageError
    from llama_ref.text.main_inputs import random_prompt, read_prompt
    from llama_ref.text.main_loop import MainOptions

    if args.json and interactive:
        raise UsageError("--json and interaction exclude each other")
    _settle(args)
    parts = args.prompt_parts
    if not parts and not interactive and not args.random_prompt and not sys.stdin.isatty():
        parts = [("FILE", "-")]
    prompt = random_prompt(args.seed).encode() if args.random_prompt else read_prompt(parts, sys.stdin.buffer)
    return MainOptions(
        prompt=prompt,
        n_predict=args.n_predict,
        n_keep=args.keep,
        interactive=args.interactive,
        interactive_first=args.interactive_first,
        instruct=args.instruct,
        reverse_prompts=tuple(map(os.fsencode, args.reverse_prompt)),
        input_prefix=os.fsencode(args.in_prefix),
    )


def _open_file(args: argparse.Namespace) -> None:
    """Open the model's file; `_open_main_model` makes a model of it."""
    from ggmlpy import open_model

    args.model = args.model or _demo_model(args)
    args.began = time.perf_counter()
    args.opened = open_model(args.model)
    if args.numerics == "fast":
        args.opened.touch_ahead()  # while the rest is imported
    args.load_seconds = time.perf_counter() - args.began


def _settle(args: argparse.Namespace) -> None:
    """Fill in what depends on the model's era: seed, repeat penalty and cache precision."""
    from ggmlpy.formats.era_of_file import era_of_file
    from ggmlpy.formats.eras import MARCH_19, era_of
    from llama_ref.text.main_inputs import real_seed

    era = era_of(args.era) if args.era else era_of_file(args.opened)
    args.era, first = era.date, era == MARCH_19
    args.seed = real_seed(args.seed, args.era)
    args.repeat_penalty = (1.30 if first else 1.10) if args.repeat_penalty is None else args.repeat_penalty
    args.memory_f32 = args.memory_f32 or (first and not args.memory_f16)
    say(args, f"seed = {args.seed}")


def _demo_model(args: argparse.Namespace) -> str:
    """The model that answers where none is named; made on the first call."""
    from toolchain.demo.story import default_model

    return str(default_model(lambda words: say(args, words)))


def _open_main_model(args: argparse.Namespace) -> Any:
    from llama_ref.arithmetic.choosing import backend_class
    from llama_ref.text.model import Model

    if args.ctx_size > 2048:
        say(args, f"warning: LLaMA was trained on 2048 positions; expect poor results beyond them (-c {args.ctx_size})")
    backend_class(args.numerics)  # imports are no part of loading
    began = time.perf_counter()
    model = Model.from_file(
        args.opened,
        numerics=args.numerics,
        era=args.era,
        build=args.build,
        n_ctx=args.ctx_size,
        memory_f32=args.memory_f32,
        n_threads=args.threads,
        norm_eps=args.norm_eps,
    )
    args.load_seconds += time.perf_counter() - began
    return model


def _conversation(args: argparse.Namespace, model: Any, on_sample: Any = None) -> Any:
    from llama_ref.text.conversation import Conversation
    from llama_ref.text.sampling import SamplingOptions

    sampling = SamplingOptions(
        top_k=args.top_k,
        top_p=args.top_p,
        temp=args.temp,
        repeat_penalty=args.repeat_penalty,
        repeat_last_n=args.repeat_last_n,
        seed=args.seed,
    )
    return Conversation(
        model,
        sampling,
        args.era,
        n_batch=(128 if args.numerics == "fast" else 8) if args.batch_size is None else args.batch_size,
        ignore_eos=args.ignore_eos,
        on_sample=on_sample,
    )


def _introduce(args: argparse.Namespace, loop: Any) -> None:
    """What the person should know before the first token, on stderr."""
    from llama_ref.text.chat import instruction_warning
    from llama_ref.text.main_words import prompt_table

    conversation = loop.conversation
    warning = instruction_warning(conversation.model.n_vocab) if args.instruct else None
    if warning:
        say(args, f"warning: {warning}")
    if args.verbose_prompt:
        print("\n" + loop.prompt_words(), file=sys.stderr)
    if args.show_prompt:
        table = lambda tokens: print(prompt_table(tokens, conversation.tokenizer), file=sys.stderr)  # noqa: E731
        print("prompt, as the model sees it:", file=sys.stderr)
        table(loop.prompt_tokens)
        loop.on_turn = table
    say(args, loop.settings_words())


def _compare_texts(args: argparse.Namespace) -> int:
    """``generate --compare-with``."""
    import functools
    import shutil

    from ggmlpy.files.errors import UsageError
    from llama_ref.text.main_inputs import read_prompt
    from toolchain.look.texts import Row, answers, as_markdown, as_text, prompts_of

    if not args.prompt_parts:
        raise UsageError("--compare-with needs prompts: -f prompts.txt (one a line)")
    prompts = prompts_of(read_prompt(args.prompt_parts, sys.stdin.buffer))
    columns, paths = [], []
    with progress_bar(args, 2 * len(prompts), "prompts", "prompt") as bar:
        for path in (args.model, args.compare_with):
            each = argparse.Namespace(**vars(args))
            each.model = path
            _open_file(each)
            _settle(each)
            paths.append(each.model)
            args.seed = each.seed
            with _open_main_model(each) as model:
                columns.append(
                    answers(
                        functools.partial(_conversation, each, model),
                        prompts,
                        max_tokens=args.n_predict,
                        instruct=args.instruct,
                        on_answer=bar.update,
                    )
                )
    rows = [Row(prompt, list(given)) for prompt, given in zip(prompts, zip(*columns, strict=True), strict=True)]
    names = [os.path.basename(path) for path in paths]
    names = paths if names[0] == names[1] else names
    if args.json:
        print_json(
            [{"prompt": row.prompt, "answers": dict(zip(names, map(vars, row.answers), strict=True))} for row in rows]
        )
    elif args.markdown:
        print(as_markdown(rows, names))
    else:
        print(as_text(rows, names, shutil.get_terminal_size((100, 24)).columns))
    return 0


def add_tokenize(commands: Commands) -> None:
    parser = command(
        commands,
        "tokenize",
        run_tokenize,
        "Split a text into tokens: pieces, ids and bytes. One space is put in front, as main and SentencePiece do.",
        'tokenize -m files/ggml-model-q4_0.bin "你好，世界"\n'
        'tokenize -m files/base/tokenizer.model --compare "1234567 apples"',
    )
    parser.add_argument("-m", "--model", metavar="FILE", help="a GGML file or a tokenizer.model")
    parser.add_argument("words", nargs="+", metavar="[tokenizer.model] TEXT", help="the text; - is stdin")
    parser.add_argument("--era", metavar="DATE", help="2023-03-19 splits greedily (default: the file's)")
    parser.add_argument("--tokenizer", metavar="T.model", help="with --compare: the SentencePiece model of a GGML file")
    parser.add_argument("--bos", action="store_true", help="begin with the beginning-of-sequence token")
    parser.add_argument("--no-space", action="store_true", help="put no space in front (GGML tokenizers)")
    parser.add_argument("--compare", action="store_true", help="show where greedy, score and SentencePiece disagree")
    parser.add_argument("--json", action="store_true", help="as JSON on stdout")


def run_tokenize(args: argparse.Namespace) -> int:
    from toolchain.look.tokens import comparison_lines, encode_text, open_tokenizers, token_lines, token_records

    path, words = (args.model, args.words) if args.model else (args.words[0], args.words[1:])
    if not words:
        from ggmlpy.files.errors import UsageError

        raise UsageError("no text to tokenize")
    text = sys.stdin.buffer.read() if words == ["-"] else os.fsencode(" ".join(words))
    name, tokenizers = open_tokenizers(path, args.era, args.tokenizer)
    chosen = tokenizers if args.compare else {name: tokenizers[name]}
    space = not args.no_space
    results = {name: (each, encode_text(each, text, bos=args.bos, space=space)) for name, each in chosen.items()}
    if args.json:
        print_json({name: token_records(*result) for name, result in results.items()})
        return 0
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for name, (tokenizer, ids) in results.items():
        say(args, f"{name}: {len(ids)} tokens")
        for line in token_lines(tokenizer, ids, color=color):
            print(line)
    if args.compare:
        for line in comparison_lines(b" " + text if space else text, results):
            print(line)
    return 0
