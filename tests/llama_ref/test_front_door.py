"""What ``from llama_ref import …`` gives, and what importing the package costs."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import llama_ref

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", llama_ref.__all__)
def test_each_name_is_a_documented_thing_and_not_a_module(name: str) -> None:
    thing = getattr(llama_ref, name)
    assert inspect.isclass(thing) or inspect.isfunction(thing)
    assert thing.__name__ == name
    assert inspect.getdoc(thing)
    assert name in dir(llama_ref)


def test_names_stay_what_they_are_when_their_modules_are_imported() -> None:
    for home in llama_ref._HOMES:
        importlib.import_module(f"llama_ref.{home}")
    assert not [name for name in llama_ref.__all__ if inspect.ismodule(getattr(llama_ref, name))]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'no_such_thing'"):
        getattr(llama_ref, "no_such_thing")  # noqa: B009


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, llama_ref; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, text=True)
    assert not {"numpy", "numba", "ggmlpy"} & set(done.stdout.split())


def test_paths_that_were_documented_in_version_1_1() -> None:
    from llama_ref.model import Model
    from llama_ref.sampling import SamplingOptions

    assert (Model, SamplingOptions) == (llama_ref.Model, llama_ref.SamplingOptions)
