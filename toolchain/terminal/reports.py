"""One printer for every verdict: text, JSON or Markdown on stdout, JUnit XML into a file."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .program import spoken, spoken_within
from .talk import print_json, put, put_text

if TYPE_CHECKING:  # commands start without numpy
    from ggmlpy.verify.verdict import Verdict

__all__ = ["show"]


def show(args: argparse.Namespace, verdict: Verdict) -> int:
    """Show a verdict as the options ask (``--json``, ``--markdown``, ``--junit``, ``-v``); returns the exit code."""
    if getattr(args, "junit", None):
        from ggmlpy.files.atomic import atomic_write

        with atomic_write(args.junit) as stream:
            stream.write(spoken(verdict.junit()).encode())
    if args.json:
        print_json(spoken_within(verdict.as_dict()))
    elif getattr(args, "markdown", False):
        put_text(spoken(verdict.markdown()), end="")
    else:
        for line in verdict.lines(verbose=args.verbose):
            put(spoken(line))
        if verdict.closing():
            put(spoken(verdict.closing()))
    return verdict.exit_code
