"""Run one command: parse, call, and turn what went wrong into one line and an exit code."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence

from toolchain.terminal import program
from toolchain.terminal.talk import memory_used, say_compiling, speak_utf8

from .checkpoints import add_convert, add_from_hf, add_to_hf
from .comparing import add_compare
from .demo import add_demo
from .doctor import add_doctor
from .files import add_migrate, add_quantize
from .inspecting import add_fingerprint, add_hexdump, add_identify, add_inspect, add_report
from .merging import add_merge
from .numbers import add_bench, add_logits, add_perplexity
from .options import Commands, Parser, dashed
from .text import add_chat, add_generate
from .tokenizers import add_tokenize, add_tokenizer
from .training import add_crawl, add_instructions, add_train
from .vectors import add_vectors
from .verifying import add_verify

OURS = ("ggmlpy", "llama_ref", "lora", "toolchain")


def main(argv: list[str] | None = None, door: str = "ggmlpy") -> int:
    """Run one command and return its exit code.

    Args:
        argv: the command and its arguments; None: what the process was given.
        door: the name of the program, as the person typed it.
    """
    program.opened_as(door, map(_name_of, COMMANDS))
    gc.set_threshold(50_000)  # looking for garbage while packages are imported takes 20 ms and finds none
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        pass
    except ImportError as error:
        problem = _missing(error.name) if isinstance(error, ModuleNotFoundError) else ""
        if problem:
            print(f"error: {problem}", file=sys.stderr)
            return 3
        if not isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            raise  # else Ctrl-C came while a compiled module was being loaded
    print("interrupted", file=sys.stderr)
    return 130


def _missing(module: str | None) -> str:
    """What to say of a module that is not there; nothing if that is a mistake of ours."""
    package = (module or "").partition(".")[0]
    if module and module.startswith("toolchain.makers"):
        there = f"get the source tree, and run it there: {program.SOURCE_TREE}"
        return f"this command comes with the source tree, not with the wheel. Next: {there}"
    if not package or package in OURS or package in sys.stdlib_module_names:
        return ""
    here = ". (in the folder that holds cli.py)" if program.name() == program.SOURCE_TREE else package
    return f"the package {package} is not installed. Next: python -m pip install {here}"


def _run(arguments: Sequence[str]) -> int:
    speak_utf8()
    if not arguments:
        build_parser().print_help(sys.stderr)
        return 2
    args = build_parser(arguments[0]).parse_args([dashed(argument) for argument in arguments])
    for name, value in getattr(args, "environment", {}).items():
        os.environ.setdefault(name, value)  # numpy's BLAS looks at it when it is first imported, below
    from ggmlpy.files.errors import FormatError, UsageError
    from ggmlpy.machine.compiling import announce_with

    if sys.stderr.isatty() and not getattr(args, "quiet", False):
        announce_with(say_compiling)
    began = time.perf_counter()
    try:
        code: int = args.run(args)
        if getattr(args, "verbose", False):
            print(f"{time.perf_counter() - began:.2f} s{memory_used()}", file=sys.stderr)
        return code
    except UsageError as error:
        print(f"error: {program.spoken(error)}\nsee: {program.name()} {args.command} --help", file=sys.stderr)
        return 2
    except FormatError as error:
        print(f"error: {program.spoken(error)}", file=sys.stderr)
        return 3
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nothing more to say to it
        return 0


def build_parser(wanted: str = "") -> argparse.ArgumentParser:
    """All commands with their options; only the one that is wanted, if there is one of that name."""
    parser = Parser(
        prog=program.name(),
        description="The Chinese-LLaMA-Alpaca toolchain in pure Python: merge, convert, quantize, verify, generate.",
        epilog=f"{program.name()} COMMAND --help explains a command and shows examples; those with files/ work as they "
        f"stand after: {program.name()} demo --output files",
    )
    parser.add_argument("--version", action=ShowVersion, nargs=0, help="show program's version number and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    named = [add for add in COMMANDS if _name_of(add) == wanted]
    for add in named or COMMANDS:
        add(commands)
    return parser


class ShowVersion(argparse.Action):
    """``--version``: the library's, which is imported only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from ggmlpy import __version__

        print(f"ggmlpy {__version__}")
        parser.exit()


def _name_of(add: Callable[[Commands], None]) -> str:
    """``add_to_hf`` declares ``to-hf``."""
    return add.__name__.removeprefix("add_").replace("_", "-")


COMMANDS: tuple[Callable[[Commands], None], ...] = (
    add_generate,
    add_chat,
    add_tokenize,
    add_merge,
    add_tokenizer,
    add_quantize,
    add_migrate,
    add_inspect,
    add_identify,
    add_hexdump,
    add_report,
    add_compare,
    add_fingerprint,
    add_convert,
    add_to_hf,
    add_from_hf,
    add_logits,
    add_perplexity,
    add_bench,
    add_verify,
    add_vectors,
    add_doctor,
    add_train,
    add_instructions,
    add_crawl,
    add_demo,
)
