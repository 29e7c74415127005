#!/usr/bin/env python3
"""The door: ``python cli.py COMMAND …`` from a checkout, as ``ggmlpy COMMAND …`` is when installed.

The commands are in :mod:`toolchain.commands`.
"""

import sys

from toolchain.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
