"""The model that answers where none is named: the demo model, merged, converted and quantized once, and then kept.

It is kept in the cache of :mod:`ggmlpy.files.caches`; each version of the demo model has a folder ``demo-<digest>`` in
it, named after the digest of its ``SHA256SUMS``. What makes the model is imported only where it has to be made: a
command that finds it starts as fast as with any other model.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from ggmlpy.files.caches import cache_directory
from ggmlpy.files.errors import OutputError

from .files import SUMS, Announce, DemoFiles, demo_files

__all__ = ["default_model"]


def default_model(announce: Announce = lambda words: None) -> Path:
    """The demo model, quantized; made on the first call, which ``announce`` hears about.

    Raises:
        MissingFileError: there is no demo model.
        OutputError: it cannot be written anywhere.
    """
    source = demo_files()
    digest = hashlib.sha256((source / SUMS).read_bytes()).hexdigest()[:16]
    cache = cache_directory()
    made = DemoFiles(cache / f"demo-{digest}")
    if not made.q4_0.is_file():
        from .building import build

        announce(f"no model was named: making the demo model, once, in {made.folder}")
        with tempfile.TemporaryDirectory(dir=cache, prefix="making-") as folder:
            files = DemoFiles(Path(folder) / "demo")
            files.folder.mkdir()
            build(files, announce)
            shutil.rmtree(files.merged)
            _move(files.folder, made.folder)
    return made.q4_0


def _move(folder: Path, target: Path) -> None:
    """Rename; where another process was quicker, its folder stays."""
    try:
        folder.rename(target)
    except OSError as error:
        if not DemoFiles(target).q4_0.is_file():
            raise OutputError(f"cannot keep the demo model: {error.strerror}", path=target) from error
