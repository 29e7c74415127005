"""Runs a script of node on the page's modules, each a file of its own, and gives back the JSON that it prints."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from toolchain.explore.assemble import modules

NODE = shutil.which("node")


def node(folder: Path, script: str, *arguments: object) -> Any:
    """What ``script`` prints, run in a folder that holds the modules; ``args`` are its arguments."""
    if NODE is None:
        pytest.skip("node is not installed: the page's arithmetic is not run")
    if not (folder / "package.json").exists():
        (folder / "package.json").write_text('{"type": "module"}')
        for name, text in modules().items():
            (folder / name).write_text(text, "utf-8")
    (folder / "script.js").write_text(PRELUDE + script, "utf-8")
    run = subprocess.run(
        [NODE, folder / "script.js", *map(str, arguments)], capture_output=True, text=True, encoding="utf-8"
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


PRELUDE = """
import fs from "node:fs";
const args = process.argv.slice(2);
const print = (value) => process.stdout.write(JSON.stringify(value));
const bytesOfFile = (path) => new Uint8Array(fs.readFileSync(path));
const numbersOf = (array) => Array.from(array, (x) => (Number.isFinite(x) ? x : String(x)));
"""
