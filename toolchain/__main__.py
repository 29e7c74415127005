"""``python -m toolchain``, which is also what ``python -m ggmlpy`` runs."""

from __future__ import annotations

import sys

from toolchain.commands.main import main

if __name__ == "__main__":
    sys.exit(main(door="python -m ggmlpy"))
