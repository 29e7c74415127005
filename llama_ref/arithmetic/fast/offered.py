"""Which models the fast arithmetic computes. No code is compiled here, and the processor isn't asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggmlpy.files.errors import UnsupportedError

if TYPE_CHECKING:
    from ggmlpy.formats.model_file import ModelFile

__all__ = ["LANES", "check_rows"]

LANES = 16  # values that are worked on together


def check_rows(file: ModelFile) -> None:
    """Refuse rows that the kernels can't walk over.

    Raises:
        UnsupportedError: rows whose length is not a multiple of 16.
    """
    widths = {"n_embd": file.hparams.n_embd, "n_ff": file.n_ff, "n_head * head_dim": file.hparams.n_q}
    wrong = [name for name, n in widths.items() if n % LANES or n <= 0]
    if wrong:
        raise UnsupportedError(
            f"the fast arithmetic needs rows of a multiple of {LANES} values",
            path=file.path,
            field=wrong[0],
            found=", ".join(f"{name} {n}" for name, n in widths.items()),
            next_step="use --numerics reference",
        )
