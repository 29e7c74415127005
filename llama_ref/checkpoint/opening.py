"""Opening a model without asking in which layout it is."""

from __future__ import annotations

import os
from pathlib import Path

from ggmlpy.files.errors import MissingFileError

from .huggingface import find_weight_files, open_huggingface
from .layout import Checkpoint, directory_of
from .meta import find_shards, open_meta

__all__ = ["layout_of", "open_checkpoint"]


def layout_of(directory: str | os.PathLike[str]) -> str | None:
    """ "meta", "huggingface", or None where the directory holds no model of either kind."""
    directory = Path(directory)
    has_meta, has_huggingface = bool(find_shards(directory)), bool(find_weight_files(directory))
    if has_meta and has_huggingface:
        return "meta" if (directory / "params.json").is_file() else "huggingface"
    return "meta" if has_meta else "huggingface" if has_huggingface else None


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open the model in a directory (or that a file belongs to), Meta's layout or Hugging Face's.

    The tensors come under Meta names, joined over shards, and in Meta's order of rows in either case.

    Raises:
        MissingFileError: there is no model; says what there is instead.
        FormatError: a file is bad, or the files do not fit together.
    """
    directory = directory_of(path)
    layout = layout_of(directory)
    if layout is None:
        raise _no_model(directory)
    checkpoint = open_meta(directory) if layout == "meta" else open_huggingface(directory)
    if find_shards(directory) and find_weight_files(directory):
        checkpoint.notes.append(f"{directory} holds both layouts; {layout} was read")
    return checkpoint


def _no_model(directory: Path) -> MissingFileError:
    cause, next_step = None, f"`doctor {directory}`"
    if list(directory.glob("adapter_model.*")):
        cause = "it holds a LoRA adapter, which is a difference and not a model"
        next_step = f"`merge --base BASE_DIR --lora {directory} --output OUT_DIR`"
    elif ggml := sorted(directory.glob("ggml-*.bin")):
        cause = f"it holds {ggml[0].name}, which is converted already"
        next_step = f"`identify {ggml[0]}`"
    elif inner := [path for path in sorted(directory.iterdir()) if path.is_dir() and _holds_model(path)]:
        cause = f"the models are one level below: {', '.join(path.name for path in inner[:5])}"
        next_step = f"name {inner[0]}"
    return MissingFileError(
        "no model here",
        path=directory,
        expected="consolidated.00.pth with params.json, or model*.safetensors or pytorch_model*.bin with config.json",
        found=", ".join(sorted(p.name for p in directory.iterdir())[:8]) or "an empty directory",
        cause=cause,
        next_step=next_step,
    )


def _holds_model(directory: Path) -> bool:
    return any(any(directory.glob(p)) for p in ("consolidated.*.pth", "model*.safetensors", "pytorch_model*.bin"))
