"""doctor: what is in a folder, and what to do with it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from toolchain.terminal.program import name, spoken, spoken_within
from toolchain.terminal.talk import print_json, put

from .options import Commands, command, json_option

if TYPE_CHECKING:
    from toolchain.look.doctor import Diagnosis


def add_doctor(commands: Commands) -> None:
    parser = command(
        commands,
        "doctor",
        run_doctor,
        "Look at a folder: what is there, what fits together, what does not, and the commands to run next.",
        "doctor files",
    )
    parser.add_argument("directory", metavar="DIR")
    json_option(parser, "the diagnosis")


def run_doctor(args: argparse.Namespace) -> int:
    from toolchain.look.doctor import examine

    diagnosis = examine(args.directory)
    if args.json:
        _print_as_json(diagnosis)
    else:
        _print_diagnosis(args.directory, diagnosis)
    return diagnosis.exit_code


def _print_as_json(diagnosis: Diagnosis) -> None:
    document = diagnosis.as_dict()
    for step in document["steps"]:
        step["command"] = f"{name()} {step['command']}"
    print_json(spoken_within(document))


def _print_diagnosis(directory: str, diagnosis: Diagnosis) -> None:
    from toolchain.look.next_steps import in_words

    for finding in diagnosis.found:
        put(f"{finding.kind:<10} {finding.path}", f"{'':<10} {finding.words}")
    if not diagnosis.found:
        put(f"no model, adapter, tokenizer or GGML file in {directory}")
    parts = {
        "fits": diagnosis.fits,
        "does not fit": diagnosis.misfits,
        "bad": diagnosis.bad,
        "left over": diagnosis.leftovers,
    }
    for title, lines in parts.items():
        if lines:
            put("", title, *(f"  {spoken(line)}" for line in lines))
    if diagnosis.steps:
        memory = f", {in_words(diagnosis.free_memory)} of memory" if diagnosis.free_memory is not None else ""
        put("", f"next ({in_words(diagnosis.free_disk)} of disk{memory} free)")
    for step in diagnosis.steps:
        needs = f"{in_words(step.disk)} of disk, {in_words(step.memory)} of memory"
        put(f"  {name()} {step.command}", f"      {step.why}: {needs}")
        if step.obstacle:
            put(f"      but {step.obstacle}")
