"""What all commands share: the parser, its help, how a command is declared, and the options that many have."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from toolchain.terminal import program
from toolchain.terminal.talk import complain, remark, say
from toolchain.terminal.widths import continued, fitted

from .mistakes import OF_OTHERS, command_of_others, hint_for_argument, hint_for_missing, meant, missing_dash

USUAL_MODEL = "GGMLPY_MODEL"  # the environment's name of the model that is meant where none is named
LONGEST_PATH = 4096  # a prompt is longer, or names no file

Commands = Any  # argparse's sub-parser action has no public name
Arguments = Any  # a parser or a group of its options


class HelpFormatter(argparse.HelpFormatter):
    """Examples stay commands, for they are pasted; everything else is filled."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if not text.startswith("example:"):
            return super()._fill_text(text, width, indent)
        broken = (continued(line, width) if line.startswith(" ") else fitted(line, width) for line in text.splitlines())
        return "\n".join(part for lines in broken for part in lines)

    def start_section(self, heading: str | None) -> None:
        super().start_section(heading and "\n".join(fitted(heading, self._width)))


class Parser(argparse.ArgumentParser):
    """One line says what is wrong, with the name that was probably meant; the next one where help is."""

    def error(self, message: str) -> NoReturn:
        complain(message + hint_for_missing(message, self, getattr(self, "_given", ())))
        remark(f"see: {self.prog} --help")
        self.exit(2)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser = getattr(found, "parser", self)
            hint = hint_for_argument(unknown[0], parser, found)
            parser.error(f"no option or argument {unknown[0].partition('=')[0]!r} here{hint}")
        return found

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        options = self._option_string_actions
        for argument in args or ():
            if argument in OF_OTHERS and argument not in options and "--model" in options:
                self.error(f"no option {argument!r} here; {OF_OTHERS[argument]}")
        if option := missing_dash(args or (), options):
            self.error(f"a dash is missing: {option}")
        self._given = tuple(args or ())  # for the hint of an error
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            hint = command_of_others(value, action.choices) or meant(value, action.choices)
            self.error(f"no command {value!r}{hint or '; there are ' + ', '.join(action.choices)}")
        super()._check_value(action, value)


def dashed(argument: str) -> str:
    """``--top_k`` is ``--top-k``; values after ``=`` stay as they are."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


# ── declaring a command ──────────────────────────────────────────────────────────────────────────────────────────────


def command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str, **more: Any
) -> argparse.ArgumentParser:
    """A sub-parser with what all commands share: ``-q``, ``-v`` and examples in its help.

    Args:
        example: commands without the program's name, one per line.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog="example:\n" + "\n".join(f"  {program.name()} {line}" for line in example.splitlines()),
        formatter_class=HelpFormatter,
        **more,
    )
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("-q", "--quiet", action="store_true", help="no messages, no progress bar")
    volume.add_argument("-v", "--verbose", action="store_true", help="more messages; at the end, time and memory")
    parser.set_defaults(run=run, parser=parser)
    return parser


def group(commands: Commands, name: str, summary: str, action: str) -> argparse.ArgumentParser:
    """A sub-parser of sub-parsers; its help leads to theirs."""
    more = f"{program.name()} {name} {action} --help explains {action} and shows an example; so for the others."
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary, epilog=more)
    return parser


def number(text: str) -> float:
    """The type of an option that takes a number: a finite one."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, not {text}")
    return value


def whole(least: int = 0, most: int = (1 << 31) - 1) -> Callable[[str], int]:
    """The type of an option that takes a whole number within bounds.

    >>> whole(1, 8)("3")
    3
    """

    def read(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be from {least:,} to {most:,}, not {text}")
        return value

    read.__name__ = "int"  # argparse names it where the text is no number
    return read


seed_number = whole(0, (1 << 32) - 1)  # what numpy's older generator takes


# ── options that many commands have ──────────────────────────────────────────────────────────────────────────────────


def writes(action: argparse.Action) -> argparse.Action:
    """Mark an argument as the name of a file that the command writes; see :func:`refuse_inputs_as_outputs`."""
    action.writes = True  # type: ignore[attr-defined]
    return action


def refuse_inputs_as_outputs(args: argparse.Namespace) -> None:
    """No command writes over a file that it was given to read; folders see to it themselves, for they hold several.

    Raises:
        UsageError: one of the outputs is one of the inputs.
    """
    from ggmlpy.files.paths import refuse_overwriting  # here: --help starts without the libraries

    actions = args.parser._actions if "parser" in args else ()
    outputs = {action.dest for action in actions if getattr(action, "writes", False)}
    values = {dest: _as_list(value) for dest, value in vars(args).items()}
    inputs = [value for dest, found in values.items() if dest not in outputs for value in found]
    for output in (value for dest in outputs for value in values.get(dest, ())):
        refuse_overwriting(output, inputs)


def _as_list(value: object) -> list[str]:
    """The texts of an argument that could name files."""
    items = value if isinstance(value, (list, tuple)) else [value]
    return [item for item in items if isinstance(item, str) and 0 < len(item) < LONGEST_PATH and "\0" not in item]


def json_option(parser: Arguments, what: str = "the result", instead_of: str = "") -> None:
    """``--json``."""
    instead = f" instead of {instead_of}" if instead_of else ""
    parser.add_argument("--json", action="store_true", help=f"print {what} as JSON on stdout{instead}")


def model_option(parser: Arguments, what: str = "a GGML or GGUF file", *, required: bool = True) -> None:
    """``-m``; without it, the model that the environment names."""
    usual = os.environ.get(USUAL_MODEL)
    what = f"{what} (default: ${USUAL_MODEL})" if required else what
    parser.add_argument("-m", "--model", default=usual, required=required and not usual, metavar="MODEL", help=what)


def model_or_demo(args: argparse.Namespace) -> str:
    """The model that is meant; where none is named, the demo model, which is made on the first call."""
    if args.model:
        return str(args.model)
    from toolchain.demo.default import default_model

    return str(default_model(partial(say, args)))


def chat_template_option(parser: Arguments) -> None:
    """``--chat-template``."""
    which = "the model's template of this name, or alpaca (default: the model's usual one, else alpaca)"
    parser.add_argument("--chat-template", metavar="NAME", help=which)


def threads_option(parser: Arguments, what: str = "number of threads (default: one per processor)") -> None:
    """``-t``."""
    parser.add_argument("-t", "--threads", type=int, metavar="N", help=what)


def era_option(parser: Arguments, what: str, default: str | None = None) -> None:
    """``--era``."""
    parser.add_argument("--era", default=default, metavar="DATE", help=what)


def tokenizer_option(
    parser: Arguments, what: str = "tokenizer.model, if not in the model's folder or its parent"
) -> None:
    """``--tokenizer``."""
    parser.add_argument("--tokenizer", metavar="FILE", help=what)


def dry_run_option(parser: Arguments) -> None:
    """``--dry-run``."""
    parser.add_argument("--dry-run", action="store_true", help="check everything, say what would be done, and stop")


def torch_format_option(parser: Arguments) -> None:
    """``--torch-format``."""
    what = "the version of torch whose torch.save bytes to write: 1.13 (default), 2.0, 2.6, …"
    parser.add_argument("--torch-format", default="1.13", metavar="V", help=what)


def junit_option(parser: Arguments, what: str = "the verdict") -> None:
    """``--junit``."""
    writes(parser.add_argument("--junit", metavar="FILE", help=f"also write {what} as JUnit XML, for a CI server"))


def arithmetic_options(
    parser: Arguments, era: str = "exact: whose arithmetic (default: that of the file's era)"
) -> None:
    """How to compute: ``--numerics``, ``--era``, ``--build``, ``--norm-eps``, the cache's precision, ``-t``."""
    parser.add_argument("--numerics", default="fast", metavar="HOW", help="fast (default), reference or exact")
    era_option(parser, era)
    parser.add_argument("--build", metavar="B", help="exact: scalar (default), avx2, avx512 or cmake-avx2")
    eps = "added in every norm (default: what the file says; 1e-6 where it says nothing)"
    parser.add_argument("--norm-eps", type=float, metavar="E", help=eps)
    parser.add_argument("--memory-f32", action="store_true", help="keep keys and values in f32, not f16")
    f16 = "keep keys and values in f16 in era 2023-03-19, where f32 is usual"
    parser.add_argument("--memory-f16", action="store_true", help=f16)
    threads_option(parser)


def arithmetic_of(args: argparse.Namespace) -> dict[str, Any]:
    """What :func:`arithmetic_options` says, as ``Model.from_file`` takes it."""
    names = ("numerics", "era", "build", "norm_eps", "memory_f32")
    return {**{name: getattr(args, name) for name in names}, "n_threads": args.threads}


def keeps_f32(args: argparse.Namespace, era: Any) -> bool:
    """Whether keys and values are kept in f32: where that was asked for, or was usual in an era."""
    from llama_ref.text.main_inputs import era_defaults

    return args.memory_f32 or (era_defaults(era).memory_f32 and not args.memory_f16)


def say_passed_over(args: argparse.Namespace, file: Any, n_ctx: int) -> None:
    """What a file says of its arithmetic that nothing looks at."""
    from llama_ref.arithmetic.model_keys import passed_over

    for note in passed_over(file, n_ctx):
        say(args, f"note: {note}")
