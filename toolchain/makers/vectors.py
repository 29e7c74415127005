"""Golden vectors for other programs: a family of tiny files made from a seed, and what each step must make of them.

:func:`make_vectors` fills a directory::

    manifest.json          every file: its digest, its size, how it was made, and the command that makes it again
    base/…                 checkpoints in Meta's layout: f16, f32, bf16, two shards, one wide enough for k-quants
    adapters/…             LoRA adapters in several spellings, one that grows the vocabulary, one as a ZIP
    to-hf/… merge/…        what these steps make of them
    convert/… quantize/…   GGML files in every container, type and era
    migrate/…
    logits/… text/…        what a model computes and writes, by era and build

A *case* is one output of a step (:mod:`toolchain.makers.vector_cases`). :mod:`toolchain.makers.vector_checks` runs
another program over the same inputs.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import FormatError, IntegrityError, MissingFileError, UsageError
from ggmlpy.files.paths import stays_inside
from ggmlpy.formats.containers import container_named
from ggmlpy.formats.opening import open_model
from ggmlpy.quantizers.migration import migrate
from ggmlpy.quantizers.whole_file import quantize_file
from llama_ref.conversion.checkpoints import plan_to_hf
from llama_ref.conversion.converting import plan_conversion
from llama_ref.text.conversation import Conversation
from llama_ref.text.logits import logits, write_logits
from llama_ref.text.main_loop import MainLoop, MainOptions
from llama_ref.text.model import Model
from lora.merging.merge import merge
from toolchain.terminal.console import TerminalConsole, lines_of
from toolchain.terminal.program import SOURCE_TREE
from toolchain.zoo.tiny_models import SHAPES, write_adapter, write_checkpoint, zip_directory

from .vector_cases import ADAPTERS, CHECKPOINTS, KINDS, N_PREDICT, PROMPT, TOKENS, ZIPPED, Case, cases

__all__ = ["MANIFEST", "digests_below", "make_vectors", "read_manifest"]

MANIFEST = "manifest.json"
Progress = Callable[[int, int], object]


def make_vectors(
    directory: str | os.PathLike[str], seed: int = 0, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Fill a new or empty directory and return its manifest.

    Args:
        progress: called with the cases made so far and their number.

    Raises:
        UsageError: the directory has something in it.
    """
    root = Path(directory)
    if root.exists() and any(root.iterdir()):
        raise UsageError(f"{root} is not empty: name a new directory")
    for name, how in CHECKPOINTS.items():
        write_checkpoint(root / name, SHAPES[how["shape"]], seed, how.get("dtype", "float16"), how.get("shards", 1))
    for index, (name, options) in enumerate(ADAPTERS.items()):
        write_adapter(root / name, SHAPES["tiny"], seed + 1 + index, **options)
    zip_directory(root / "adapters/peft", root / ZIPPED)
    inputs = digests_below(root, [root / "base", root / "adapters"])
    todo, made = cases(), []
    for done, case in enumerate(todo, 1):
        (root / case.output).parent.mkdir(parents=True, exist_ok=True)
        _MAKERS[case.kind](root, case)
        made.append({**asdict(case), "files": digests_below(root, [root / case.output]), "command": case.command})
        if progress:
            progress(done, len(todo))
    manifest = {"made_by": f"{SOURCE_TREE} vectors make {root.name} --seed {seed}", "inputs": inputs, "cases": made}
    with atomic_write(root / MANIFEST) as stream:
        stream.write((json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())
    return manifest


def digests_below(root: Path, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Digest and size of each file, by its name below ``root``."""
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                data = file.read_bytes()
                found[file.relative_to(root).as_posix()] = {"sha256": sha256(data).hexdigest(), "size": len(data)}
    return found


def _make_conversion(root: Path, case: Case) -> None:
    with plan_conversion(root / case.source, root / case.output, **case.options) as plan:
        plan.write()


def _make_migration(root: Path, case: Case) -> None:
    container, version = container_named(case.options["container"])
    with open_model(root / case.source) as model:
        migrate(model, root / case.output, container.name, version)


def _make_merge(root: Path, case: Case) -> None:
    merge(root / case.source, [root / name for name in case.adapters], root / case.output, **case.options)


def _make_export(root: Path, case: Case) -> None:
    with plan_to_hf(root / case.source, root / case.output) as plan:
        plan.write()


def _opened(root: Path, case: Case) -> Model:
    how = {name: case.options[name] for name in ("era", "build", "memory_f32")}
    return Model.from_file(root / case.source, numerics="exact", n_threads=1, **how)


def _make_logits(root: Path, case: Case) -> None:
    with _opened(root, case) as model:
        write_logits(root / case.output, logits(model, TOKENS, batch=case.options["batch"]))


def _make_text(root: Path, case: Case) -> None:
    out = io.BytesIO()
    with _opened(root, case) as model:
        conversation = Conversation(model, case.sampling(), case.options["era"])
        options = MainOptions(prompt=PROMPT.encode(), n_predict=N_PREDICT)
        MainLoop(conversation, options, TerminalConsole(out, lines_of(io.BytesIO(), out))).run()
    with atomic_write(root / case.output) as stream:
        stream.write(out.getvalue())


_MAKERS: dict[str, Callable[[Path, Case], object]] = {
    "convert": _make_conversion,
    "quantize": lambda root, case: quantize_file(root / case.source, root / case.output, **case.options),
    "migrate": _make_migration,
    "merge": _make_merge,
    "to-hf": _make_export,
    "logits": _make_logits,
    "text": _make_text,
}


def read_manifest(directory: str | os.PathLike[str]) -> list[Case]:
    """The cases of a directory that :func:`make_vectors` filled.

    Raises:
        FormatError: no manifest, or not one of these.
        IntegrityError: a file is not what was made.
    """
    root = Path(directory)
    path = root / MANIFEST
    if not path.is_file():
        raise MissingFileError("no manifest", path=path, next_step=f"`vectors make {root}`")
    try:
        manifest = json.loads(path.read_text("utf-8"))
        entries = [{key: value for key, value in entry.items() if key != "command"} for entry in manifest["cases"]]
        found = [_checked_case(Case(**{**entry, "adapters": tuple(entry["adapters"])})) for entry in entries]
        files = {**manifest["inputs"], **{name: it for case in found for name, it in case.files.items()}}
        wanted = {_inside(name): it["sha256"] for name, it in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError("not a manifest of vectors", path=path, cause=str(error)) from error
    for name, digest in wanted.items():
        if not (root / name).is_file() or sha256((root / name).read_bytes()).hexdigest() != digest:
            raise IntegrityError(
                "not the file that was made",
                path=root / name,
                cause="it was changed or removed since",
                next_step=f"{manifest.get('made_by')}, in a new directory",
            )
    return found


def _checked_case(case: Case) -> Case:
    """A case whose texts are texts, and whose files lie in the manifest's directory."""
    if case.kind not in KINDS or not isinstance(case.options, dict) or not isinstance(case.files, dict):
        raise ValueError(f"a case of the kind {case.kind!r:.40}")
    for name in (case.output, case.source, *case.adapters):
        _inside(name)
    return case


def _inside(name: str) -> str:
    """A name that leads nowhere else."""
    if not stays_inside(name):
        raise ValueError(f"{name[:80]!r} is not a file of this directory")
    return name
