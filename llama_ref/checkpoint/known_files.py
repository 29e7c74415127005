"""Files that were published, by their SHA256: original weights, adapters, merged models, tokenizers, GGML files.

Sources: README.md and SHA256.md of Chinese-LLaMA-Alpaca (ymcui) from v1.0 to v5.0, which state the digests of merged
models for torch 1.13.0 and later; SHA256SUMS of llama.cpp in all its versions, 2023-03-20 to 2023-06-11; the LLaMA
tokenizer and the two grown ones as distributed with the adapters. The rows stand in ``known_files.txt``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BY_SHA256", "HUGGINGFACE_LAYOUT", "KNOWN_FILES", "KnownFile", "files_of"]

HUGGINGFACE_LAYOUT = " in Hugging Face's layout"


@dataclass(frozen=True)
class KnownFile:
    """One published file.

    Attributes:
        model: what it belongs to; all files of a model have the same words here.
        name: the file's name as published (``*.zip`` where only the kind is stated).
        sha256: its digest.
        kind: "original", "adapter", "merged", "ggml", "params" or "tokenizer".
        release: the list that first had it: "v4.0" of Chinese-LLaMA-Alpaca, "2023-04-20" of llama.cpp, or "".
    """

    model: str
    name: str
    sha256: str
    kind: str
    release: str = ""

    @property
    def listed_by(self) -> str:
        """Who published the digest, in words; "" where no list has it.

        >>> KnownFile("LLaMA-7B q4_0", "ggml-model-q4_0.bin", "", "ggml", "2023-04-20").listed_by
        'llama.cpp of 2023-04-20'
        """
        if not self.release:
            return ""
        return f"Chinese-LLaMA-Alpaca {self.release}" if self.release[0] == "v" else f"llama.cpp of {self.release}"


# fmt: off
_KINDS = (  # a word in the name of the file or of the model -> the kind
    ("params.json", "params"),
    ("ggml-model",  "ggml"),
    ("original",    "original"),
    ("merged",      "merged"),
    ("LoRA",        "adapter"),
    ("",            "tokenizer"),
)
# fmt: on


def _rows() -> Iterator[KnownFile]:
    for line in Path(__file__).with_name("known_files.txt").read_text("utf-8").splitlines():
        if not line.startswith("#"):
            sha256, name, release, model = line.split(maxsplit=3)
            kind = next(kind for word, kind in _KINDS if word in f"{name} {model}")
            yield KnownFile(model, name, sha256, kind, "" if release == "-" else release)


KNOWN_FILES: tuple[KnownFile, ...] = tuple(_rows())
BY_SHA256: dict[str, KnownFile] = {known.sha256: known for known in KNOWN_FILES}


def files_of(model: str) -> list[KnownFile]:
    """All published files of a model, in order of their names.

    >>> [known.name for known in files_of("merged Chinese-Alpaca-13B")]
    ['consolidated.00.pth', 'consolidated.01.pth']
    """
    return sorted((known for known in KNOWN_FILES if known.model == model), key=lambda known: known.name)
