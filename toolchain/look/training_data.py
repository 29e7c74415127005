"""What a file of training data is: instructions in a layout that ``instructions`` reads, or prepared rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ggmlpy.files.kinds import first_bytes
from ggmlpy.look.identify import Identification
from llama_ref.checkpoint.safetensors_file import SafetensorsFile
from lora.training.instructions import peek_layouts
from lora.training.prepared import KIND, PreparedData, is_prepared

from .foreign import identification

__all__ = ["prepared_rows", "training_data"]


def training_data(path: Path) -> Identification | None:
    """A file of training data; None if it is something else.

    Raises:
        FormatError: a safetensors file is damaged.
    """
    if not is_prepared(path):
        return _records(path)
    with SafetensorsFile(path) as file:
        return prepared_rows(path, file)


def _records(path: Path) -> Identification | None:
    layouts = peek_layouts(path)
    if not layouts:
        return None
    kinds = ", ".join(f"{count} {name}" for name, count in layouts.most_common())
    return identification(
        path,
        "instruction data",
        model=next(iter(layouts)) if len(layouts) == 1 else f"of the first {layouts.total()} records: {kinds}",
        readers="`instructions`" + (", `train prepare --records`" if _is_plain(path, layouts) else ""),
        next_step=f"`instructions {path} --output records.json`",
    )


def _is_plain(path: Path, layouts: Counter[str]) -> bool:
    """Whether these records need nothing before they are trained on: an array in Alpaca's layout, in UTF-8."""
    return set(layouts) == {"Alpaca"} and first_bytes(path).lstrip().startswith(b"[")


def prepared_rows(path: Path, file: SafetensorsFile) -> Identification | None:
    """An open file of prepared rows; None if its tensors are others."""
    if file.metadata.get("kind") != KIND:
        return None
    with PreparedData(path, file) as data:
        made, n_rows = data.metadata, len(data.train) + len(data.validation)
        words = (
            f"{made.get('what', 'rows')} of the recipe {made.get('recipe', 'unknown')}: {n_rows:,} rows of up to"
            f" {data.longest} tokens, {len(data.validation):,} of them held out"
        )
        stage = "instruct" if made.get("what") == "records" else "stage2"
        return identification(
            path,
            "safetensors, prepared training data",
            model=words,
            vocabulary=f"{data.n_vocab} pieces, tokenizer {made.get('tokenizer', 'unknown')[:16]}…",
            readers="both engines of `train`, `train export`",
            next_step=f"`train {stage} {path} --tokenizer TOKENIZER --base MODEL --output OUT`",
        )
