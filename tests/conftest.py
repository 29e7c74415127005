"""Where the tests find their oracles: small golden files in ``tests/data``, larger ones in ``../shared``."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests interrupt themselves; a shell's "&" had it ignored

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy: the matrices here are small, and -n takes all processors

settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("house"), derandomize=True)  # a change is judged by itself alone
settings.load_profile("ci" if os.environ.get("CI") else "house")


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"../shared/{name} is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def data() -> Path:
    """The golden files that travel with the repository."""
    return ROOT / "tests" / "data"


@pytest.fixture(scope="session")
def vectors() -> Path:
    """All golden files of the real tools (skips where they are not at hand)."""
    return _shared("vectors")


@pytest.fixture(scope="session")
def tokenizers() -> Path:
    """The real LLaMA and Chinese SentencePiece models (skips where they are not at hand)."""
    return _shared("tokenizers")


@pytest.fixture(scope="session")
def golden():
    """A golden file or folder by its name under ``vectors``: from ``tests/data`` if it travels with the repository,
    else from ``../shared/vectors`` (skips where that is not at hand)."""

    def find(name: str) -> Path:
        own = ROOT / "tests" / "data" / name
        return own if own.exists() else _shared("vectors") / name

    return find
