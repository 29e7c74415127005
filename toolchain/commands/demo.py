"""demo: the whole story on a tiny model."""

from __future__ import annotations

import argparse

from toolchain.terminal import program
from toolchain.terminal.talk import print_json, say

from .options import Commands, command, json_option


def add_demo(commands: Commands) -> None:
    parser = command(
        commands,
        "demo",
        run_demo,
        "The whole story on the embedded demo model: verify, merge, convert, quantize, before and after.",
        "demo\ndemo --output files",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="keep what is made, and lay out the tutorial's files (default: a temporary folder)",
    )
    parser.add_argument("--all", action="store_true", help="answer all ten prompts")
    json_option(parser, "the figures and answers")


def run_demo(args: argparse.Namespace) -> int:
    import tempfile
    from contextlib import nullcontext

    from toolchain.demo.story import copy_inputs, lay_out_today, lay_out_tutorial, tell_story
    from toolchain.demo.teller import Teller

    folder = nullcontext(args.output) if args.output else tempfile.TemporaryDirectory(prefix="ggmlpy-demo-")
    teller = Teller(silent=args.json or args.quiet)
    with folder as name:
        story = tell_story(name, teller, every_prompt=args.all)
        if args.output:
            copy_inputs(args.output)
            top = lay_out_tutorial(args.output)
            say(
                args,
                f"{args.output}: all files; with the name files, {program.name()} COMMAND --help has examples of them",
            )
            say(args, f"{top}: the files of the tutorial under their real names; each of its steps works there")
            say(args, f"{lay_out_today(args.output)}: a model of today with random weights, for its second half")
    if args.json:
        print_json(story)
    return 0
