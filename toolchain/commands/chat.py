"""chat: a conversation with an instruction model, or one answer for a script."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from toolchain.terminal.colors import wants_color
from toolchain.terminal.talk import print_json, remark, remark_text, say, say_text

from .adapters import lora_options
from .downloads import looks_like_file
from .loading import Loading
from .main_options import add_main_options, new_conversation, settled
from .mistakes import hint_for_argument
from .options import Commands, chat_template_option, command
from .text import add_raw_output

if TYPE_CHECKING:
    from llama_ref.text.chat_session import ChatSession

STDIN = "-"


def add_chat(commands: Commands) -> None:
    parser = command(
        commands,
        "chat",
        run_chat,
        "Talk with an instruction model, in the chat template of its GGUF, else in Alpaca's. With TEXT, or with a text "
        "on standard input: one answer, and nothing else on stdout. -p is the system message.",
        'chat\nchat "介绍北京"\nchat -m files/ggml-model-q4_0.bin --temp 0.2\n'
        'chat "介绍北京" --json\nchat "翻译成英文：" -\n'
        "chat -m zh-alpaca/ggml-model-q4_0.bin -c 2048 --temp 0.2 --repeat-penalty 1.3",
    )
    one = "ask this, print the answer, and end; - stands for standard input"
    parser.add_argument("text", nargs="*", metavar="TEXT", help=one)
    add_main_options(parser)
    lora_options(parser.add_argument_group("LoRA adapters"))
    parser.set_defaults(n_predict=-1)
    chat_template_option(parser)
    add_raw_output(parser)


def run_chat(args: argparse.Namespace) -> int:
    _refuse(args)
    question = _question(args)
    if question is not None and not question.strip():
        say(args, "note: nothing is asked: standard input is empty")
        return 0
    loading = Loading(args)
    from llama_ref.text.sampling_trace import trace_sampling

    given = settled(args, loading.file, tell=args.verbose)
    with loading.model(given) as model, trace_sampling(args.trace_sampling, model.vocab) as on_sample:
        session = _session(given, new_conversation(given, model, on_sample))
        code = _talk(given, session) if question is None else _answer_once(given, session, question)
        if args.verbose and not code:
            from llama_ref.text.main_words import timings_text

            seconds = time.perf_counter() - loading.began
            remark_text("\n" + timings_text(loading.seconds, session.conversation.timings, seconds))
    return code


def _refuse(args: argparse.Namespace) -> None:
    """What is not chat's.

    Raises:
        UsageError: an option belongs to generate, or asks for what a conversation cannot give.
    """
    from ggmlpy.files.errors import UsageError

    for name in ("mtest", "random_prompt", "perplexity", "embedding"):
        if getattr(args, name):
            raise UsageError(f"--{name.replace('_', '-')} is an option of `generate`")
    if args.keep:
        say(args, "note: --keep is for `generate`: where the context is full, chat leaves out the oldest messages")
    word = args.text[0] if args.text else ""
    if looks_like_file(word) and " -m " in (hint := hint_for_argument(word, args.parser, args)):
        args.parser.error(f"no option or argument {word!r} here{hint}")
    if args.json and not args.text and sys.stdin.isatty():
        raise UsageError("--json and interaction exclude each other; ask one question: chat TEXT --json")


def _question(args: argparse.Namespace) -> str | None:
    """What is asked once: the words behind the command, or a pipe; None: a person at a terminal."""
    from ggmlpy.files.texts import LARGEST_PROMPT, read_stream
    from toolchain.terminal.talk import warn_of_encoding

    words = args.text or ([] if sys.stdin.isatty() else [STDIN])
    if not words:
        return None
    if STDIN in words:
        data = read_stream(sys.stdin.buffer, LARGEST_PROMPT)
        warn_of_encoding(args, STDIN, data)
        piped = data.decode("utf-8", "replace").rstrip("\r\n")
        return "\n".join(filter(None, [" ".join(word for word in words if word != STDIN), piped]))
    return " ".join(words)


def _session(args: argparse.Namespace, conversation: Any) -> ChatSession:
    """A session as the options want it; what the person should know of the model is said."""
    from llama_ref.text.chat import instruction_warning
    from llama_ref.text.chat_prompt import AlpacaPrompt, prompt_of
    from llama_ref.text.chat_session import ChatSession
    from llama_ref.text.main_inputs import read_prompt
    from llama_ref.text.main_words import prompt_table

    prompt = prompt_of(conversation.tokenizer, args.chat_template)
    if isinstance(prompt, AlpacaPrompt):
        warning = instruction_warning(conversation.model.n_vocab, conversation.model.file.container)
        if warning:
            say(args, f"warning: {warning}")
    system = read_prompt(args.prompt_parts, sys.stdin.buffer, partial(say, args)).decode("utf-8", "replace")
    session = ChatSession(conversation, prompt, [("system", system)] if system else [], tuple(args.reverse_prompt))

    def show_prompt(tokens: Sequence[int]) -> None:
        remark("prompt, as the model sees it:")
        remark_text(prompt_table(tokens, conversation.tokenizer))

    if args.show_prompt or args.verbose_prompt:
        session.on_turn = show_prompt
    return session


def _talk(args: argparse.Namespace, session: ChatSession) -> int:
    """A conversation on this terminal."""
    from llama_ref.text.chat_prompt import AlpacaPrompt
    from toolchain.terminal.chatting import talk
    from toolchain.terminal.console import TerminalConsole
    from toolchain.terminal.editor import the_editor

    name = os.path.basename(session.conversation.model.file.path)
    template = "Alpaca's template" if isinstance(session.prompt, AlpacaPrompt) else "its own template"
    say_text(args, f"{name}, asked in {template}\nSend a message. /help lists the commands; Ctrl-D leaves.")
    with the_editor() as editor:
        clean, color = sys.stdout.isatty() and not args.raw_output, args.color or wants_color()
        console = TerminalConsole(sys.stdout.buffer, use_color=color, without_controls=clean)
        return talk(session, console, editor, partial(say, args), max_tokens=args.n_predict, prefix=args.in_prefix)


def _answer_once(args: argparse.Namespace, session: ChatSession, question: str) -> int:
    """One answer on stdout, or a record of it."""
    from toolchain.terminal.chatting import say_if_cut, show
    from toolchain.terminal.console import TerminalConsole

    answer = session.ask(args.in_prefix + question, max_tokens=args.n_predict)
    if not args.json:
        clean = sys.stdout.isatty() and not args.raw_output
        show(answer, session, TerminalConsole(sys.stdout.buffer, without_controls=clean), partial(say, args))
        return 130 if session.ended_by == "interruption" else 0
    text = "".join(answer)
    say_if_cut(session, partial(say, args))
    print_json({"question": question, "text": text, "ended_by": session.ended_by, "tokens": session.made})
    return 0
