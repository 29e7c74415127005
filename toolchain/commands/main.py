"""Run one command: parse, call, and turn what went wrong into one line and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module

from toolchain.terminal import program
from toolchain.terminal.bars import CompilingLine
from toolchain.terminal.talk import complain, memory_used, put, remark, speak_utf8

from .downloads import check_inputs
from .mistakes import translated
from .options import Commands, Parser, dashed, refuse_inputs_as_outputs

OURS = ("ggmlpy", "llama_ref", "lora", "toolchain")


def main(argv: list[str] | None = None, door: str = "ggmlpy") -> int:
    """Run one command and return its exit code.

    Args:
        argv: the command and its arguments; None: what the process was given.
        door: the name of the program, as the person typed it.
    """
    speak_utf8()
    program.opened_as(door, COMMANDS)
    gc.set_threshold(50_000)  # looking for garbage while packages are imported takes 20 ms and finds none
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()  # what is held back fails here, and not when Python has ended
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        _write_nowhere()  # the reader left: nothing more to say to it
        return 0
    except (OSError, MemoryError) as error:
        return _gave_out(error)
    except ImportError as error:
        problem = _missing(error.name) if isinstance(error, ModuleNotFoundError) else ""
        if problem:
            complain(problem)
            return 3
        if not isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            raise  # else Ctrl-C came while a compiled module was being loaded
    remark("interrupted")
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
    if not arguments:
        build_parser().print_help(sys.stderr)
        return 2
    arguments = translated([dashed(argument) for argument in arguments])
    args = build_parser(arguments[0]).parse_args(arguments)
    for name, value in getattr(args, "environment", {}).items():
        os.environ.setdefault(name, value)  # numpy's BLAS looks at it when it is first imported, below
    from ggmlpy.files.errors import FormatError, UsageError
    from ggmlpy.machine.compiling import watch_compiling

    if sys.stderr.isatty() and not getattr(args, "quiet", False):
        watch_compiling(CompilingLine())
    began = time.perf_counter()
    try:
        check_inputs(args)
        refuse_inputs_as_outputs(args)
        code: int = args.run(args)
        if getattr(args, "verbose", False):
            remark(f"{time.perf_counter() - began:.2f} s{memory_used()}")
        return code
    except UsageError as error:
        complain(program.spoken(error))
        remark(f"see: {program.name()} {args.command} --help")
        return 2
    except FormatError as error:
        complain(program.spoken(error))
        return 3


def _write_nowhere() -> None:
    """Standard output takes nothing more: neither now, nor what Python writes at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _gave_out(error: OSError | MemoryError) -> int:
    """The machine has no more memory, or a disk no more room: one line, and exit code 3."""
    words, step = "out of memory", "close other programs, or choose smaller numbers"
    if isinstance(error, OSError):
        # what writes a file says which; only standard streams have no name
        words = f"{error.filename or 'standard output'}: {error.strerror or error}"
        step = "check the disk, its free space and its permissions, then run the command again"
    _write_nowhere()
    with contextlib.suppress(OSError):
        complain(f"{words}. Next: {step}")
    return 3


def build_parser(wanted: str = "") -> argparse.ArgumentParser:
    """All commands with their options; only the one that is wanted, if there is one of that name."""
    parser = Parser(
        prog=program.name(),
        description="The Chinese-LLaMA-Alpaca toolchain in pure Python: merge, convert, quantize, verify, generate.",
        epilog=f"{program.name()} COMMAND --help explains a command and shows examples; those with files/ work as they "
        f"stand after: {program.name()} demo --output files",
    )
    parser.add_argument("--version", action=ShowVersion, nargs=0, help="show program's version number and exit")
    parser.add_argument("--versions", action=ShowVersions, nargs=0, help="show all that a bug report needs, and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in [wanted] if wanted in COMMANDS else COMMANDS:
        _declaration(name)(commands)
    return parser


class ShowVersion(argparse.Action):
    """``--version``: the library's, which is imported only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from ggmlpy import __version__

        put(f"ggmlpy {__version__}")
        parser.exit()


class ShowVersions(argparse.Action):
    """``--versions``: what a bug report needs."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from toolchain.look.versions import versions

        facts = versions()
        width = max(map(len, facts))
        for name, value in facts.items():
            put(f"{name:<{width}}  {value}")
        parser.exit()


def _declaration(name: str) -> Callable[[Commands], None]:
    """The function that declares a command: ``add_to_hf`` for ``to-hf``, from the file of its chapter.

    Importing all chapters takes 10 ms, so a run imports its own.
    """
    declare: Callable[[Commands], None] = getattr(
        import_module(f".{COMMANDS[name]}", __package__), f"add_{name.replace('-', '_')}"
    )
    return declare


# Each command and the chapter (a file of this folder) that declares it, in the order of the help.
# fmt: off
COMMANDS: dict[str, str] = {
    "generate": "text",        "chat": "chat",             "tokenize": "tokenizers",
    "merge": "merging",        "tokenizer": "tokenizers",  "quantize": "files",
    "migrate": "files",        "inspect": "inspecting",    "identify": "inspecting",
    "hexdump": "inspecting",   "report": "inspecting",     "compare": "comparing",
    "fingerprint": "inspecting", "convert": "checkpoints", "to-hf": "checkpoints",
    "to-meta": "checkpoints",
    "from-hf": "checkpoints",  "logits": "numbers",        "perplexity": "numbers",
    "bench": "numbers",        "verify": "verifying",      "vectors": "vectors",
    "doctor": "doctor",        "train": "training",        "instructions": "instruction_data",
    "crawl": "instruction_data", "demo": "demo",             "serve": "serving",
    "imatrix": "numbers",      "completion": "completion", "explain": "inspecting",   "ggml-to-pth": "checkpoints",
    "zoo": "zoo",              "quality": "quality",      "explore": "inspecting",   "course": "course",
    "formats": "formats",
}
# fmt: on
