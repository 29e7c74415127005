"""Inputs that are not on this disk: a model's name on Hugging Face, or an address. The answer is the download to run.
A pipe, and a path of Windows, are no files either.

Nothing here opens a connection: what a command reads is a file that the person has, and can check.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import PurePosixPath

__all__ = ["INPUTS", "check_inputs", "is_hub_name", "looks_like_file"]

# The arguments, of all commands, that name a file or a folder to read. Texts, outputs and numbers are not among them.
# fmt: off
INPUTS = (
    "model", "base", "lora", "adapter", "compare_with", "tokenizer", "source", "input", "input_dir", "directory",
    "file", "files", "paths", "a", "b", "first", "second", "extra", "prompts", "draft_model",
)
# fmt: on
NO_INPUTS = {
    ("crawl", "model"),
    ("perplexity", "file"),
    ("imatrix", "file"),
    ("quality", "file"),
    ("tokenizer", "file"),
}  # a name at an endpoint, and texts

_HUB_NAME = re.compile(r"(?:hf:|hf://)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/?")
_HUB_ADDRESS = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/([\w.-]+/[\w.-]+)"
    r"(?:/(?:tree|blob|resolve|raw)/([^/?#]+)(?:/([^?#]+))?)?/?(?:[?#].*)?"
)
_ADDRESS = re.compile(r"(?:https?|ftp|s3|gs)://\S+")
_FILE = re.compile(
    r".*\.(bin(\.\d+)?|gguf|ggml|pth|pt|ckpt|safetensors|model|json|jsonl|zip|txt|npy|onnx)", re.IGNORECASE
)
_SIZE = re.compile(r"\d+(\.\d+)?[BbMm]")  # models/7B is a folder that is missing, not a name
_BROWSER = ("pan.baidu.com", "drive.google.com")


def check_inputs(args: argparse.Namespace) -> None:
    """Refuse what has to be downloaded first, with the command that does it.

    Raises:
        MissingFileError: an input is an address, or is not here and looks like a name on Hugging Face.
    """
    for name in _named(args):
        step = None if os.path.exists(name) else _no_file(name) or _download(name)
        if step:
            from ggmlpy.files.errors import MissingFileError

            cause, next_step = step
            raise MissingFileError("not on this disk", path=name, cause=cause, next_step=next_step)


def looks_like_file(name: str) -> bool:
    """Whether a word is the name of a file: one that is here, or one with the ending of a model."""
    return os.path.exists(name) or bool(_FILE.fullmatch(name)) or bool(_ADDRESS.fullmatch(name))


def is_hub_name(name: str) -> bool:
    """Whether a word that names no file looks like a model's name on Hugging Face."""
    match = _HUB_NAME.fullmatch(name)
    return bool(match) and not _FILE.fullmatch(name) and not _is_folder(name)


def _named(args: argparse.Namespace) -> Iterator[str]:
    for key in INPUTS:
        if (args.command, key) in NO_INPUTS:
            continue
        value = getattr(args, key, None)
        for given in value if isinstance(value, list) else [value]:
            text = given[0] if isinstance(given, tuple) else given  # an adapter and its factor
            if isinstance(text, str):
                yield from [text] if "://" in text else text.split(",") if key == "lora" else [text]


def _no_file(name: str) -> tuple[str, str] | None:
    """Why a name is not that of a file here, whatever is on the disk, and what to do; None where it may be.

    >>> _no_file("models/7B/model.bin")
    >>> _no_file("models\\\\7B\\\\model.bin")[1]
    'write it with slashes: models/7B/model.bin'
    """
    if name == "-":
        return "files are mapped into memory, which a pipe cannot be", "write it to a file first, and name that"
    if os.sep == "/" and "\\" in name:
        return "backslashes separate folders on Windows only", f"write it with slashes: {name.replace(chr(92), '/')}"
    return None


def _download(name: str) -> tuple[str, str] | None:
    """Why an input is not here, and what to run; None for an ordinary path.

    >>> _download("models/7B"), _download("ggml/model.bin")
    (None, None)
    >>> _download("hfl/chinese-alpaca-lora-7b")[1]
    'hf download hfl/chinese-alpaca-lora-7b --local-dir chinese-alpaca-lora-7b, then give chinese-alpaca-lora-7b'
    """
    name = name.strip()
    if match := _HUB_ADDRESS.fullmatch(name):
        return "this is an address, and models are read from the disk", _from_hub(match[1], match[2], match[3])
    if _ADDRESS.fullmatch(name):
        return "this is an address, and models are read from the disk", _from_address(name)
    match = _HUB_NAME.fullmatch(name)
    if not match or not is_hub_name(name):
        return None
    return "it looks like a name on Hugging Face, and models are read from the disk", _from_hub(match[1])


def _is_folder(name: str) -> bool:
    """Whether a name with one slash rather means a folder of this disk that is missing."""
    return os.path.isdir(name.split("/", 1)[0]) or bool(_SIZE.fullmatch(PurePosixPath(name).name))


def _from_hub(repository: str, revision: str | None = None, file: str | None = None) -> str:
    folder = repository.rpartition("/")[2]
    chosen = f" {shlex.quote(file)}" if file and _FILE.fullmatch(file) else ""
    at = f" --revision {shlex.quote(revision)}" if revision and revision != "main" else ""
    got = f"{folder}/{file}" if chosen else folder
    return f"hf download {repository}{chosen}{at} --local-dir {folder}, then give {got}"


def _from_address(address: str) -> str:
    if any(host in address for host in _BROWSER):
        return "open it in a browser, save the file, and give its path"
    file = PurePosixPath(re.split(r"[?#]", address)[0]).name or "model.bin"
    return f"curl -L -o {shlex.quote(file)} {shlex.quote(address)}, then give {file}"
