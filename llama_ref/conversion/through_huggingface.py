"""GGUF from what is no Hugging Face directory, as if it had become one: a merge, or Meta's checkpoint of LLaMA 3.

The file is the one that writing the directory and converting it would give; only its small files are written, and only
for as long as they are read.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ggmlpy.files.errors import FormatError
from ggmlpy.formats.tensor_names import rename
from llama_ref.checkpoint import Checkpoint, LazyTensor
from llama_ref.checkpoint.folder import Folder
from llama_ref.checkpoint.params import read_config_json

from .checkpoints import plan_to_hf
from .huggingface_to_gguf.plan import plan_gguf
from .plan import Plan

__all__ = ["Pretended", "plan_as_directory", "plan_from_meta"]


@dataclass(frozen=True)
class Pretended:
    """A directory that is not there.

    Attributes:
        name: of the directory, of which the converter makes the model's name.
        home: where its files come from, for messages.
        small: its files but for the weights.
        files: the weight files, with their tensors under Hugging Face's names.
        checkpoint: the model.
    """

    name: str
    home: Path
    small: Mapping[str, bytes]
    files: Mapping[str, Sequence[LazyTensor]]
    checkpoint: Checkpoint


def plan_as_directory(pretended: Pretended, outfile: str | os.PathLike[str], **options: Any) -> Plan:
    """Check the conversion of a directory that is not there.

    Args:
        outfile, options: as for :func:`.huggingface_to_gguf.plan.plan_gguf`.

    Raises: as :func:`.converting.plan_conversion`.
    """
    with tempfile.TemporaryDirectory(prefix="directory-") as above:
        directory = Path(above) / pretended.name
        directory.mkdir()
        for file, content in pretended.small.items():
            (directory / file).write_bytes(content)
        try:
            params = read_config_json(directory / "config.json")
            weights = replace(pretended.checkpoint, params=params), _order(pretended.files)
            return plan_gguf(Folder.of(directory), outfile, weights=weights, **options)
        except FormatError as error:
            error.path = str(error.path).replace(str(directory), str(pretended.home))
            raise


def _order(files: Mapping[str, Sequence[LazyTensor]]) -> list[str]:
    """The Meta names as the converter comes upon them: sorted in a safetensors file, elsewhere as stored."""
    names = [(file, [tensor.name for tensor in tensors]) for file, tensors in sorted(files.items())]
    found = [name for file, each in names for name in (sorted(each) if file.endswith(".safetensors") else each)]
    return [rename(name, "meta") for name in found if not name.endswith("inv_freq")]


def plan_from_meta(
    source: str | os.PathLike[str], outfile: str | os.PathLike[str] | None, *, tokenizer: Any = None, **options: Any
) -> Plan:
    """Check the conversion of Meta's checkpoint of LLaMA 3 to GGUF; as for :func:`.converting.plan_conversion`."""
    home = Path(source)
    export = plan_to_hf(source, home / "unwritten", tokenizer=tokenizer)
    small = {name: text.encode() for name, text in export.texts.items()} | export.made
    small |= {path.name: path.read_bytes() for path in export.copies}
    try:
        pretended = Pretended(home.resolve().name, home, small, export.files, export.checkpoint)
        plan = plan_as_directory(pretended, outfile or home, **options)
    except BaseException:
        export.checkpoint.close()
        raise
    plan.notes, plan.checkpoint = [*export.notes, *plan.notes], export.checkpoint
    return plan
