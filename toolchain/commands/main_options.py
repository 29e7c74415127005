"""The options of llama.cpp's ``main`` of 2023-03-31, and what the libraries need to know of them."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from toolchain.terminal.talk import say

from .options import USUAL_MODEL, Arguments, arithmetic_options, json_option, keeps_f32, model_option, number, writes

if TYPE_CHECKING:
    from ggmlpy import ModelFile
    from llama_ref.text.conversation import Conversation
    from llama_ref.text.main_loop import MainOptions
    from llama_ref.text.model import Model
    from llama_ref.text.sampling import SamplingOptions

LITERAL_OPTIONS = {
    "-p": "--prompt",
    "-r": "--reverse-prompt",
    "-f": "--file",
    "-m": "--model",
    **{name: name for name in ("--prompt", "--reverse-prompt", "--in-prefix", "--file", "--model")},
}


class AppendPrompt(argparse.Action):
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
            value = next(rest, None) if argument in LITERAL_OPTIONS else None
            joined.append(argument if value is None else f"{LITERAL_OPTIONS[argument]}={value}")
        return parse(joined, namespace)

    parser.parse_known_args = parse_known_args  # type: ignore[method-assign]


# ── declare ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def add_main_options(parser: argparse.ArgumentParser) -> None:
    """Every option of ``main``, with its defaults, and how to compute."""
    _take_values_literally(parser)
    parser.set_defaults(prompt_parts=[])
    _add_model_options(parser.add_argument_group("the model and its arithmetic"))
    _add_text_options(parser.add_argument_group("the text"))
    _add_sampling_options(parser.add_argument_group("sampling"))
    _add_interaction_options(parser.add_argument_group("interaction"))
    _add_display_options(parser.add_argument_group("what is shown"))
    parser.add_argument("--perplexity", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--embedding", action="store_true", help=argparse.SUPPRESS)


def _add_model_options(group: Arguments) -> None:
    model_option(group, f"a GGML or GGUF file (default: ${USUAL_MODEL}, else the demo model)", required=False)
    arithmetic_options(group, "whose tokenizer, sampler and arithmetic (default: the file's)")
    group.add_argument("-c", "--ctx-size", type=int, default=512, metavar="N", help="size of the context (default 512)")
    batch = "prompt tokens per batch (default: 8; fast: 128, because its results do not depend on the batch size)"
    group.add_argument("-b", "--batch-size", type=int, metavar="N", help=batch)
    group.add_argument(
        "--n-parts", type=int, default=-1, metavar="N", help="accepted for compatibility; parts are found automatically"
    )
    group.add_argument("--mlock", action="store_true", help="accepted for compatibility; the file is mapped")
    group.add_argument("--mtest", action="store_true", help="evaluate a full batch and the last position, then stop")


DRAFT_OF_MODEL = 8  # tokens at once, of a draft model


def _add_text_options(group: Arguments) -> None:
    group.add_argument("-p", "--prompt", action=AppendPrompt, metavar="PROMPT", help="what to continue")
    group.add_argument("-f", "--file", action=AppendPrompt, metavar="FILE", help="a file with the prompt; - is stdin")
    group.add_argument("--random-prompt", action="store_true", help="begin with a word chosen by the seed")
    many = "number of tokens to generate (default 128; -1: until the text ends or the context is full)"
    group.add_argument("-n", "--n-predict", type=int, default=128, metavar="N", help=many)
    keep = "prompt tokens kept when the context is full; -1: all"
    group.add_argument("--keep", type=int, default=0, metavar="N", help=keep)
    group.add_argument("--ignore-eos", action="store_true", help="make the end of text unlikely")
    draft = "check up to N tokens at once that the text itself suggests: the same text, sooner where it repeats itself"
    group.add_argument("--draft", type=int, default=0, metavar="N", help=f"{draft} (default 0; --numerics fast only)")
    model = "a smaller model with the same vocabulary, which drafts where the text suggests nothing (--draft 8)"
    group.add_argument("--draft-model", metavar="MODEL", help=model)


def _add_sampling_options(group: Arguments) -> None:
    seed = "0 or negative: seed from the clock (default)"
    group.add_argument("-s", "--seed", type=int, default=-1, metavar="SEED", help=seed)
    top_k = "sample from the N most likely tokens (default 40)"
    group.add_argument("--top-k", type=int, default=40, metavar="N", help=top_k)
    top_p = "sample from the smallest set of tokens whose probability reaches P (default 0.95)"
    group.add_argument("--top-p", type=number, default=0.95, metavar="P", help=top_p)
    group.add_argument("--temp", type=number, default=0.80, metavar="T", help="temperature (default 0.8; 0: greedy)")
    last = "penalize the last N tokens (default 64)"
    group.add_argument("--repeat-last-n", type=int, default=64, metavar="N", help=last)
    penalty = "how much to penalize them (default 1.1; 1.3 in era 2023-03-19)"
    group.add_argument("--repeat-penalty", type=number, metavar="X", help=penalty)
    trace = "write one JSON line per token: the candidates and the random draw"
    writes(group.add_argument("--trace-sampling", metavar="FILE", help=trace))


def _add_interaction_options(group: Arguments) -> None:
    interactive = "press Ctrl-C to interrupt and type"
    group.add_argument("-i", "--interactive", "--interactive-start", action="store_true", help=interactive)
    group.add_argument("--interactive-first", action="store_true", help="begin with your turn")
    group.add_argument("-ins", "--instruct", action="store_true", help="put instructions into the Alpaca template")
    reverse = "give you the turn when the model writes this (may be repeated)"
    group.add_argument("-r", "--reverse-prompt", action="append", default=[], metavar="TEXT", help=reverse)
    group.add_argument("--in-prefix", default="", metavar="TEXT", help="put in front of each of your turns")


def _add_display_options(group: Arguments) -> None:
    group.add_argument("--color", action="store_true", help="show the prompt in yellow, your turns in green")
    group.add_argument("--show-prompt", action="store_true", help="on stderr: what the model sees, with token ids")
    group.add_argument("--verbose-prompt", action="store_true", help="on stderr: the prompt's tokens, as main does")
    json_option(group, "one document", instead_of="the text")


# ── call ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def is_interactive(args: argparse.Namespace) -> bool:
    """Whether a person is given turns."""
    return args.interactive or args.interactive_first or args.instruct or bool(args.reverse_prompt)


def settled(args: argparse.Namespace, file: ModelFile, *, tell: bool = True) -> argparse.Namespace:
    """The arguments with what depends on the model's era filled in: era, seed, repeat penalty, and cache precision.

    Args:
        tell: say which seed it is.
    """
    from ggmlpy.formats.era_of_file import era_of_file
    from ggmlpy.formats.eras import era_of
    from llama_ref.text.main_inputs import era_defaults, real_seed

    era = era_of(args.era) if args.era else era_of_file(file)
    usual = era_defaults(era)
    seed = real_seed(args.seed, era)
    penalty = usual.repeat_penalty if args.repeat_penalty is None else args.repeat_penalty
    if tell:
        say(args, f"seed = {seed}")
    settings = {"era": era.date, "seed": seed, "repeat_penalty": penalty, "memory_f32": keeps_f32(args, era)}
    return argparse.Namespace(**vars(args) | settings)


def main_options(args: argparse.Namespace) -> MainOptions:
    """What ``main``'s loop is asked to do, from settled arguments; the prompt may come from stdin."""
    from llama_ref.text.main_inputs import random_prompt, read_prompt
    from llama_ref.text.main_loop import MainOptions

    parts = args.prompt_parts
    if not parts and not is_interactive(args) and not args.random_prompt and not sys.stdin.isatty():
        parts = [("FILE", "-")]
    prompt = (
        random_prompt(args.seed).encode()
        if args.random_prompt
        else read_prompt(parts, sys.stdin.buffer, partial(say, args))
    )
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


def sampling_options(args: argparse.Namespace) -> SamplingOptions:
    """How tokens are chosen, from settled arguments."""
    from llama_ref.text.sampling import SamplingOptions

    names = ("top_k", "top_p", "temp", "repeat_penalty", "repeat_last_n", "seed")
    return SamplingOptions(**{name: getattr(args, name) for name in names})


def new_conversation(args: argparse.Namespace, model: Model, on_sample: Any = None) -> Conversation:
    """A conversation with a model, from settled arguments."""
    from llama_ref.text.conversation import Conversation
    from llama_ref.text.main_inputs import prompt_batch

    n_batch = prompt_batch(args.numerics) if args.batch_size is None else args.batch_size
    choices: dict[str, Any] = {"ignore_eos": args.ignore_eos, "on_sample": on_sample, "draft": args.draft}
    if args.draft_model:
        from llama_ref.text.model import Model

        choices["draft"] = args.draft or DRAFT_OF_MODEL
        choices["draft_model"] = Model.from_file(args.draft_model, n_ctx=model.n_ctx, n_threads=args.threads)
    return Conversation(model, sampling_options(args), args.era, n_batch=n_batch, **choices)
