"""What a bug report needs: the versions of everything that takes part, the processor, and what is compiled for it."""

from __future__ import annotations

import platform
from importlib import metadata

from ggmlpy import __version__
from ggmlpy.files.caches import cache_directory
from ggmlpy.files.processors import available_processors

__all__ = ["versions"]

PACKAGES = ("numpy", "numba", "llvmlite", "sentencepiece", "safetensors", "tqdm")


def versions() -> dict[str, str]:
    """Names and values, in the order in which they are read."""
    from ggmlpy.machine.features import MACHINE  # imports llvmlite

    facts = {"ggmlpy": __version__, "python": f"{platform.python_version()} ({platform.python_implementation()})"}
    facts |= {name: _version(name) for name in PACKAGES}
    facts["system"] = platform.platform()
    facts["processor"] = f"{_processor() or MACHINE.cpu}, {available_processors()} usable"
    facts["kernels"] = f"{MACHINE.simd}, compiled for {MACHINE.cpu}{' (LLAMA_SIMD)' if MACHINE.override else ''}"
    facts["compiled code"] = str(cache_directory())
    return facts


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """The processor's name, where Linux tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            line = next((line for line in file if line.startswith("model name")), "")
    except OSError:
        return ""
    return line.partition(":")[2].strip()
