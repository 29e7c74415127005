"""Kernels hand on bare addresses of arrays. Numba frees an array after its last use, and an address is none."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKERS = {"empty", "zeros", "ones", "full", "empty_like", "zeros_like"}


def made_here(function: ast.FunctionDef) -> Iterator[str]:
    """Names of the arrays that a function makes."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            targets, values = node.targets[0], node.value
            several = isinstance(targets, ast.Tuple) and isinstance(values, ast.Tuple)
            pairs = zip(targets.elts, values.elts) if several else [(targets, values)]
            for target, value in pairs:
                called = value.func if isinstance(value, ast.Call) else None
                if isinstance(called, ast.Attribute) and called.attr in MAKERS and isinstance(target, ast.Name):
                    yield target.id


def addressed(node: ast.AST) -> str | None:
    """The name of the array whose ``ctypes.data`` a node is."""
    if not (isinstance(node, ast.Attribute) and node.attr == "data" and isinstance(node.value, ast.Attribute)):
        return None
    inner = node.value.value
    while isinstance(inner, ast.Subscript):
        inner = inner.value
    return inner.id if node.value.attr == "ctypes" and isinstance(inner, ast.Name) else None


def too_early_freed(source: str) -> list[str]:
    """Arrays that nothing uses behind the statement that takes their address, which is in no loop."""
    found = []
    for function in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)):
        names = set(made_here(function))
        loops = [node for node in ast.walk(function) if isinstance(node, (ast.For, ast.While))]
        looped = {id(inner) for loop in loops for inner in ast.walk(loop)}
        for node in ast.walk(function):
            name = addressed(node)
            if name in names and id(node) not in looped:
                after = (each for each in ast.walk(function) if isinstance(each, ast.Name) and each.id == name)
                if not any(each.lineno > node.end_lineno for each in after):
                    found.append(f"{function.name}: {name}")
    return found


KERNELS = sorted(
    path
    for package in ("ggmlpy", "llama_ref", "lora")
    for path in (ROOT / package).rglob("*.py")
    if "ctypes.data" in path.read_text("utf-8")
)


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_an_array_outlives_its_address(path: Path) -> None:
    assert not too_early_freed(path.read_text("utf-8"))


def test_the_check_sees_it() -> None:
    early = "def f():\n    work = np.zeros(3)\n    at = np.int64(work.ctypes.data)\n    return load(at)\n"
    late = early.replace("return load(at)", "total = load(at)\n    return total + work[0]")
    assert too_early_freed(early) == ["f: work"]
    assert not too_early_freed(late)
