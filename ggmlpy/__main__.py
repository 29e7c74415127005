"""``python -m ggmlpy COMMAND …``: the same as the command ``ggmlpy``.

The commands are in ``toolchain``, on top of the libraries, and no library imports upward. So this file does not import
them either: it hands the process over by name, as ``python -m toolchain`` would have started it.
"""

from __future__ import annotations

import runpy

if __name__ == "__main__":
    runpy.run_module("toolchain", run_name="__main__", alter_sys=True)
