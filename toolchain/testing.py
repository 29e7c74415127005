"""An assertion about what another program made of a checkpoint and its adapters, for the tests of other projects.

from toolchain.testing import assert_made_from

def test_our_merge(tmp_path):
    our_merge("models/7B", "alpaca-lora", tmp_path / "merged")
    assert_made_from(tmp_path / "merged", "models/7B", ["alpaca-lora"])
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from ggmlpy.testing import assert_right

from .verify.outputs import verify_output

__all__ = ["assert_made_from"]

Path = str | os.PathLike[str]


def assert_made_from(output: Path, source: Path, adapters: Sequence[Path] = (), *, era: str | None = None) -> None:
    """``output`` is what should come out of ``source`` and ``adapters``, whatever step lies between them.

    Raises:
        AssertionError: it is not; says what was done instead, if that is known.
        FormatError: a file can't be read, or no step leads from source to output.
    """
    __tracebackhide__ = True
    assert_right(verify_output(output, source, adapters, era=era))
