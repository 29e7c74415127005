"""The demo model that travels with the program, and what is made of it.

In ``model/`` lie an English base as Meta would have published it, two adapters as PEFT saves them, and texts that
neither has seen; all made by ``toolchain.makers.recipe``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ggmlpy.files.errors import MissingFileError

__all__ = ["ADAPTERS", "FOLDER", "SUMS", "Announce", "DemoFiles", "demo_files"]

FOLDER = Path(__file__).with_name("model")
ADAPTERS = ("chinese-llama-lora", "chinese-alpaca-lora")
SUMS = "SHA256SUMS"

Announce = Callable[[str], object]


@dataclass(frozen=True)
class DemoFiles:
    """What :func:`build` leaves in a folder."""

    folder: Path

    @property
    def merged(self) -> Path:
        """The merged checkpoint, a directory in Meta's layout."""
        return self.folder / "merged"

    @property
    def base_f16(self) -> Path:
        """The English base, converted."""
        return self.folder / "base-f16.bin"

    @property
    def f16(self) -> Path:
        """The merged model, converted."""
        return self.folder / "ggml-model-f16.bin"

    @property
    def q4_0(self) -> Path:
        """The merged model, quantized: the one that answers."""
        return self.folder / "ggml-model-q4_0.bin"


def demo_files() -> Path:
    """The folder of the demo model.

    Raises:
        MissingFileError: this installation does not have it.
    """
    if not (FOLDER / SUMS).is_file():
        raise MissingFileError(
            "the demo model is not part of this installation",
            path=FOLDER,
            next_step=f"name a model with -m, or make the demo: `train demo --output {FOLDER}`",
        )
    return FOLDER
