#!/usr/bin/env python3
"""The door in the source tree: ``python cli.py COMMAND …``. Installed, it is ``ggmlpy COMMAND …``.

The commands are in :mod:`toolchain.commands`.
"""

from __future__ import annotations

import sys

from toolchain.commands.main import main as run
from toolchain.terminal.program import SOURCE_TREE


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    return run(argv, SOURCE_TREE)


if __name__ == "__main__":
    sys.exit(main())
