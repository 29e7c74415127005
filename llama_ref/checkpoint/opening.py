"""Opening a model without asking in which layout it is."""

from __future__ import annotations

import os
from pathlib import Path

from ggmlpy.files.errors import MissingFileError

from .folder import Folder, directory_of
from .huggingface import open_huggingface
from .layout import Checkpoint
from .meta import open_meta

__all__ = ["open_checkpoint"]


def open_checkpoint(path: str | os.PathLike[str] | Folder) -> Checkpoint:
    """Open the model in a directory (or that a file belongs to), Meta's layout or Hugging Face's.

    The tensors come under Meta names, joined over shards, and in Meta's order of rows in either case. The directory is
    listed once and its configuration read once.

    Args:
        path: the directory, a file in it, or the record of a directory that was looked at already.

    Raises:
        MissingFileError: there is no model; says what there is instead.
        FormatError: a file is bad, or the files do not fit together.
    """
    folder = path if isinstance(path, Folder) else Folder.of(directory_of(path))
    layout = folder.layout
    if layout is None:
        raise _no_model(folder)
    checkpoint = open_meta(folder) if layout == "meta" else open_huggingface(folder)
    if folder.shards and folder.parts:
        checkpoint.notes.append(f"{folder.path} holds both layouts; {layout} was read")
    return checkpoint


def _no_model(folder: Folder) -> MissingFileError:
    cause, next_step = None, f"`doctor {folder.path}`"
    if folder.matching("adapter_model.*"):
        cause = "it holds a LoRA adapter, which is a change to a model, not a model"
        next_step = f"`merge --base BASE_DIR --lora {folder.path} --output OUT_DIR`"
    elif ggml := folder.matching("ggml-*.bin"):
        cause = f"it holds {ggml[0].name}, which is converted already"
        next_step = f"`identify {ggml[0]}`"
    elif inner := [name for name in folder.directories if _holds_weights(folder.path / name)]:
        cause = f"the models are one level below: {', '.join(inner[:5])}"
        next_step = f"name {folder.path / inner[0]}"
    return MissingFileError(
        "no model here",
        path=folder.path,
        expected="consolidated.00.pth with params.json, or model*.safetensors or pytorch_model*.bin with config.json",
        found=", ".join(folder.names[:8]) or "an empty directory",
        cause=cause,
        next_step=next_step,
    )


def _holds_weights(directory: Path) -> bool:
    try:
        return Folder.of(directory).holds_weights
    except OSError:
        return False
