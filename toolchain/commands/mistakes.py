"""What was probably meant by an argument that is not taken here: one short hint behind the error."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence

from .downloads import looks_like_file

__all__ = [
    "OF_OTHERS",
    "command_of_others",
    "hint_for_argument",
    "hint_for_missing",
    "meant",
    "missing_dash",
    "translated",
]

# What other programs call an option, and what it is here. The names are looked up as they are typed, with dashes.
# fmt: off
OF_OTHERS: dict[str, str] = {
    **dict.fromkeys(("-ngl", "--n-gpu-layers", "--gpu-layers", "--gpu", "--device", "--main-gpu", "--tensor-split"),
                    "there is no GPU here, everything is computed on the processor"),
    **dict.fromkeys(("--max-tokens", "--max-new-tokens", "--num-predict", "--max-length"),
                    "the number of tokens is -n"),
    **dict.fromkeys(("--num-ctx", "--max-seq-len", "--context-length", "--context"), "the context is -c"),
    **dict.fromkeys(("--grammar", "--grammar-file", "--json-schema"), "there are no grammars here"),
    **dict.fromkeys(("-fa", "--flash-attn", "--cache-type-k", "--cache-type-v", "-ctk", "-ctv"),
                    "attention has one way here; --memory-f32 keeps keys and values in f32"),
    **dict.fromkeys(("--mmproj", "--image"), "there are no pictures here"),
    **dict.fromkeys(("-cnv", "--conversation", "-it", "-i-mode"), "a conversation is the command chat"),
    **dict.fromkeys(("-hf", "-hfr", "--hf-repo", "--hf-file", "-mu", "--model-url"),
                    "nothing is downloaded: hf download NAME --local-dir DIR, then -m"),
    "--no-mmap": "files are always mapped",
    "--model-path": "the model is -m",
    "--load-in-8bit": "quantize the model first",
    "--load-in-4bit": "quantize the model first",
}
# What other programs call a command (llama.cpp's with their prefix and ending), and what it is here.
COMMANDS_OF_OTHERS: dict[str, str] = {
    **dict.fromkeys(("main", "cli", "simple"), "generate"),
    **dict.fromkeys(("run", "talk", "interactive"), "chat"),
    **dict.fromkeys(("server", "api", "web"), "serve"),
    **dict.fromkeys(("convert-hf-to-gguf", "convert-lora-to-gguf", "convert-lora-to-ggml", "convert-pth-to-ggml"),
                    "convert"),
    **dict.fromkeys(("export-lora", "merge-lora", "merge-llama-with-chinese-lora"), "merge"),
    **dict.fromkeys(("gguf-dump", "show", "info", "dump"), "inspect"),
    **dict.fromkeys(("list", "ls", "check"), "doctor"),
    "finetune": "train",
}
# fmt: on
DOWNLOADS = ("pull", "download", "get", "fetch", "install")
_TYPED = str.maketrans("“”„‘’—–−", '"""\'\'---')  # what word processors and Chinese keyboards write for " ' and -


def translated(arguments: Sequence[str]) -> list[str]:
    """``help`` and ``version`` as words, which git, cargo and ollama take, are the options of these names."""
    if arguments[0] in ("version", "--version"):
        return ["--versions" if {"-v", "--verbose"} & {*arguments[1:]} else "--version"]
    if arguments[0] == "help":
        return [*arguments[1:], "--help"]
    return list(arguments)


def command_of_others(name: str, known: Iterable[str]) -> str:
    """What a command of llama.cpp, ollama or the scripts of 2023 is called here; nothing for other words.

    >>> command_of_others("llama-quantize", ["quantize"]), command_of_others("pull", [])
    ('; it is quantize here', '; nothing is downloaded here: hf download NAME --local-dir DIR')
    """
    plain = _stem(name)
    if plain in DOWNLOADS:
        return "; nothing is downloaded here: hf download NAME --local-dir DIR"
    ours = COMMANDS_OF_OTHERS.get(plain, plain)
    return f"; it is {ours} here" if ours in known else ""


def _stem(name: str) -> str:
    """``convert_hf_to_gguf.py`` and ``llama-quantize.exe`` without what says whose they are."""
    stem = re.sub(r"\.(py|exe|sh)$", "", name.rpartition("/")[2].lower())
    return stem.replace("_", "-").removeprefix("llama-")


def meant(name: str, known: Iterable[str]) -> str:
    """ "; did you mean --temp?", or nothing."""
    from difflib import get_close_matches

    near = get_close_matches(name, [*known], n=1)
    return f"; did you mean {near[0]}?" if near else ""


def missing_dash(arguments: Iterable[str], known: Iterable[str]) -> str:
    """The option that was typed with one dash, which argparse reads as a short option and its value.

    >>> missing_dash(["-model", "x"], ["-m", "--model"])
    '--model'
    """
    options = set(known)
    for argument in arguments:
        name = argument.partition("=")[0]
        if re.fullmatch(r"-[a-z][a-z_-]+", name) and name not in options and f"-{name}" in options:
            return f"-{name}"
    return ""


def hint_for_argument(argument: str, parser: argparse.ArgumentParser, found: argparse.Namespace) -> str:
    """What to say behind "no option or argument … here"; nothing where there is no guess."""
    name = argument.partition("=")[0]
    if name in OF_OTHERS:
        return f"; {OF_OTHERS[name]}"
    if argument.translate(_TYPED) != argument:
        plain = argument.translate(_TYPED)
        return f"; its quotes or dashes are those of a text, not of a command line: type {plain!r} by hand"
    if argument.startswith("-"):
        return meant(name, parser._option_string_actions)
    return _hint_for_value(argument, parser, found)


def _hint_for_value(value: str, parser: argparse.ArgumentParser, found: argparse.Namespace) -> str:
    """A value that stands alone: which option it may belong to."""
    for dest in ("lora", "adapter"):
        if getattr(found, dest, None) and dest in _options(parser):
            return "; separate adapters by commas, without blanks: --lora A,B"
    order = ("model", "file", "prompt", "output") if looks_like_file(value) else ("prompt", "output", "model")
    for dest in order:
        action = _options(parser).get(dest)
        if action is not None and getattr(found, dest, None) == action.default:
            quoted = f'"{value} …"' if dest == "prompt" else value
            return f"; did you mean {min(action.option_strings, key=len)} {quoted}?"
    return ""


def _options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {action.dest: action for action in parser._actions if action.option_strings and action.nargs is None}


def hint_for_missing(message: str, parser: argparse.ArgumentParser, given: Sequence[str] = ()) -> str:
    """Behind "the following arguments are required": all that the command takes, in its order.

    Where it takes options only, what was given alone was meant for the first that is missing.
    """
    if not message.startswith("the following arguments are required"):
        return ""
    places = [str(action.metavar or action.dest) for action in parser._actions if not action.option_strings]
    if places:
        return f"; the order is {' '.join(places)}" if len(places) > 1 else ""
    taking = {option for action in _options(parser).values() for option in action.option_strings}
    alone = [word for before, word in zip(["", *given], given) if not word.startswith("-") and before not in taking]
    missing = [action for action in _options(parser).values() if "/".join(action.option_strings) in message]
    return f"; did you mean {min(missing[0].option_strings, key=len)} {alone[0]}?" if alone and missing else ""
