"""LoRA adapters: convert, to llama.cpp's files and back; and ``--lora``, as its main has it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.terminal.program import spoken
from toolchain.terminal.talk import print_json, say

from .options import Arguments, number

if TYPE_CHECKING:
    from ggmlpy import ModelFile

__all__ = ["add_adapter_options", "add_lora", "convert_adapter", "is_adapter", "lora_options"]

ADAPTER_FILES = {"gguf": "ggml-lora-{}.gguf", "ggla": "ggml-adapter-model.bin"}


def add_adapter_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("of a LoRA adapter (a PEFT directory, or a .gguf or .bin of llama.cpp)")
    base = "Hugging Face folder of the model that the adapter belongs to; its config.json is enough"
    group.add_argument("--base", metavar="DIR", help=base)


def is_adapter(path: str) -> bool:
    """Whether convert is given an adapter instead of a model."""
    from lora.exchange.reading import is_lora_file
    from lora.merging.adapter_config import CONFIG

    return (Path(path) / CONFIG).is_file() or is_lora_file(path)


def convert_adapter(args: argparse.Namespace) -> int:
    """To GGUF or ggla from a PEFT directory, else to a PEFT directory."""
    to_peft = Path(args.model).is_file()
    files, notes = _to_peft(args) if to_peft else _from_peft(args)
    for path in files:
        say(args, f"{path}: {path.stat().st_size:,} bytes")
    for note in notes:
        say(args, f"note: {spoken(note)}")
    if args.json:
        print_json({"files": [{"path": str(path), "size": path.stat().st_size} for path in files], "notes": notes})
    return 0


def _to_peft(args: argparse.Namespace) -> tuple[list[Path], list[str]]:
    from ggmlpy.files.errors import UsageError
    from llama_ref.checkpoint.params import read_config_json
    from lora.exchange.reading import open_lora_file
    from lora.exchange.to_peft import write_peft

    if not args.outfile:
        raise UsageError("name the directory to write: --outfile DIR")
    adapter = open_lora_file(args.model)
    notes = [f"left out, as llama.cpp does: {', '.join(adapter.ignored)}"] if adapter.ignored else []
    heads = read_config_json(Path(args.base) / "config.json") if args.base else None
    return list(write_peft(adapter, heads, args.outfile, args.base or "")), notes


def _from_peft(args: argparse.Namespace) -> tuple[list[Path], list[str]]:
    from ggmlpy.files.errors import UsageError
    from lora.exchange.ggla import write_ggla
    from lora.exchange.gguf_adapter import write_gguf_adapter
    from lora.merging.adapter import open_adapter

    kind = args.container or ("ggla" if str(args.outfile).endswith(".bin") else "gguf")
    if kind not in ADAPTER_FILES:
        raise UsageError(f"an adapter becomes gguf or ggla, not {kind}")
    outtype = args.outtype or ("f32" if args.ftype in (None, "0") else "f16")
    outfile = Path(args.outfile or Path(args.model) / ADAPTER_FILES[kind].format(outtype))
    with open_adapter(args.model) as adapter:
        if kind == "ggla":
            write_ggla(adapter, outfile)
            return [outfile], adapter.notes
        base = args.base or adapter.config.base_model
        if not base or not Path(base).is_dir():
            raise UsageError(f"the model of this adapter is not here ({base or 'not named'}): name it with --base DIR")
        return [outfile], [*adapter.notes, *write_gguf_adapter(adapter, base, outfile, outtype=outtype)]


# ── while a model runs ───────────────────────────────────────────────────────────────────────────────────────────────


class _Scaled(argparse.Action):
    """Adapters in the order given: ``--lora FILE`` and ``--lora-scaled FILE FACTOR``."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        name, factor = (values, "1") if isinstance(values, str) else values
        try:
            namespace.lora = [*(namespace.lora or []), (name, number(factor))]
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise argparse.ArgumentError(self, f"FACTOR must be a finite number, not {factor}") from error


def lora_options(parser: Arguments) -> None:
    """``--lora`` and its kin, for commands that compute."""
    what = "add a LoRA adapter (GGUF or ggla) to the model; may be repeated"
    parser.add_argument("--lora", action=_Scaled, metavar="FILE", help=what)
    scaled = "the same, multiplied by FACTOR"
    parser.add_argument("--lora-scaled", action=_Scaled, dest="lora", nargs=2, metavar=("FILE", "FACTOR"), help=scaled)
    base = "the same model in f16 or f32: the matrices that the adapters change are taken from it"
    parser.add_argument("--lora-base", metavar="FILE", help=base)


def add_lora(args: argparse.Namespace, file: ModelFile) -> ModelFile:
    """The open model with the adapters that were asked for; says what they cost."""
    if not args.lora:
        return file
    from ggmlpy import open_model
    from ggmlpy.files.errors import UsageError
    from lora.exchange.applying import apply_adapters

    if args.numerics == "exact":
        raise UsageError("--numerics exact knows no adapters: merge them first, or take reference or fast")
    base = open_model(args.lora_base) if args.lora_base else None
    try:
        for note in apply_adapters(file, args.lora, base):
            say(args, f"note: {spoken(note)}")
    finally:
        if base is not None:
            base.close()
    return file
