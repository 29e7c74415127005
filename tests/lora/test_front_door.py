"""What ``from lora import …`` gives, and what importing the package costs."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lora
from ggmlpy.files.errors import ShapeError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", lora.__all__)
def test_each_name_is_a_documented_thing_and_not_a_module(name: str) -> None:
    thing = getattr(lora, name)
    assert inspect.isclass(thing) or inspect.isfunction(thing)
    assert thing.__name__ == name
    assert inspect.getdoc(thing)
    assert name in dir(lora)


def test_names_stay_what_they_are_when_their_modules_are_imported() -> None:
    for home in lora._HOMES:
        importlib.import_module(home)
    assert not [name for name in lora.__all__ if inspect.ismodule(getattr(lora, name))]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'no_such_thing'"):
        getattr(lora, "no_such_thing")  # noqa: B009


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, lora; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, text=True)
    assert not {"numpy", "numba", "ggmlpy", "llama_ref"} & set(done.stdout.split())


def test_the_options_of_functions_have_names() -> None:
    for name in ("merge", "plan_merge", "train", "write_adapter"):
        kinds = {parameter.kind for parameter in inspect.signature(getattr(lora, name)).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds


def test_a_written_adapter_is_read_as_it_was_given(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pairs = {
        f"layers.{i}.attention.{name}.weight": (
            rng.standard_normal((2, 8)).astype(np.float16),
            rng.standard_normal((8, 2)).astype(np.float16),
        )
        for i in range(2)
        for name in ("wq", "wv")
    }
    head = {"output.weight": rng.standard_normal((11, 8)).astype(np.float32)}
    lora.write_adapter(tmp_path / "new", pairs, head, r=2, alpha=6, base_model="a model")
    with lora.open_adapter(tmp_path / "new") as adapter:
        assert list(adapter.pairs) == list(pairs)
        for name, (a, b) in pairs.items():
            pair = adapter.pairs[name]
            assert pair.scale == 3
            np.testing.assert_array_equal(pair.a.numpy(), a)
            np.testing.assert_array_equal(pair.b.numpy(), b)
        np.testing.assert_array_equal(adapter.replaced["output.weight"].numpy(), head["output.weight"])
        assert (adapter.config.base_model, adapter.config.modules_to_save) == ("a model", ("lm_head",))


def test_half_a_pair_is_not_written(tmp_path: Path) -> None:
    a, b = np.zeros((2, 8), np.float16), np.zeros((8, 3), np.float16)
    with pytest.raises(ShapeError, match="do not form a pair"):
        lora.write_adapter(tmp_path / "new", {"layers.0.attention.wq.weight": (a, b)}, r=2, alpha=2)
    assert not (tmp_path / "new").exists()
