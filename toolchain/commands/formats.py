"""formats: the containers described for other programs."""

from __future__ import annotations

import argparse

from toolchain.terminal.talk import put_text, say

from .options import Commands, command, writes

KINDS = ("kaitai", "imhex", "magic", "mime")  # ggmlpy.look.descriptions says what each is; help starts without it


def add_formats(commands: Commands) -> None:
    parser = command(
        commands,
        "formats",
        run_formats,
        "Describe the containers (ggml, ggmf, ggjt, GGUF) for other programs: as a Kaitai Struct specification, a "
        "pattern for ImHex, lines for file(1), or MIME types.",
        "formats --as magic --out ggml.magic\nformats --as kaitai --out ggml_files.ksy\nformats --as imhex",
    )
    parser.add_argument("--as", dest="kind", required=True, choices=KINDS, help="for which program")
    writes(parser.add_argument("--out", metavar="F", help="the file to write (default: standard output)"))


def run_formats(args: argparse.Namespace) -> int:
    from ggmlpy.files.atomic import atomic_write
    from ggmlpy.look.descriptions import DESCRIPTIONS, describe

    text = describe(args.kind)
    if not args.out:
        put_text(text, end="")
        return 0
    with atomic_write(args.out) as stream:
        stream.write(text.encode())
    say(args, f"{args.out}: for {DESCRIPTIONS[args.kind]}")
    return 0
