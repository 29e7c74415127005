"""What the packages import is what pyproject.toml declares: nothing is missing there, and nothing is idle."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import ggmlpy

ROOT = Path(__file__).parents[1]
IMPORTED_AS = {"PyYAML": "yaml"}
PACKAGES = ("ggmlpy", "llama_ref", "lora", "toolchain")


def test_imports_are_the_declared_dependencies():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    imported = {name for path in files for name in imports_of(ast.parse(path.read_text(encoding="utf-8")))}
    foreign = imported - set(sys.stdlib_module_names) - set(PACKAGES)
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    declared = set(re.findall(r'^\s*"([A-Za-z0-9_]+)', block[1], re.MULTILINE))
    extras = re.search(r"^\[project.optional-dependencies\]\n(.*?)\n\n", text, re.DOTALL | re.MULTILINE)
    for name, packages in re.findall(r"^(\w+) = \[(.*?)\]", extras[1], re.DOTALL | re.MULTILINE):
        if name not in ("test", "docs"):
            declared |= {package.replace("-", "_") for package in re.findall(r'"([A-Za-z0-9_-]+)', packages)}
    assert foreign == {IMPORTED_AS.get(package, package) for package in declared}


def imports_of(node: ast.AST) -> Iterator[str]:
    """The first parts of all module names that are imported when the code runs, not just for the type checker."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    if isinstance(node, ast.ImportFrom) and not node.level and node.module:
        yield node.module.partition(".")[0]
    for child in ast.iter_child_nodes(node):
        yield from imports_of(child)


def test_the_lock_file_holds_versions_within_the_declared_bounds():
    """Each dependency has both bounds, and the locked version lies between them."""
    block = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE)
    lines = (ROOT / "requirements" / "test.lock").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if not line.startswith("#"))
    for name, low, high in re.findall(r'"([A-Za-z]+)>=([0-9.]+),<([0-9.]+)"', block[1]):
        version, *bounds = ([int(part) for part in text.split(".")] for text in (locked.pop(name), low, high))
        assert bounds[0] <= version < bounds[1]
    assert len(re.findall('"', block[1])) == 2 * len(re.findall(",<", block[1]))
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in locked)


def test_the_citation_names_this_version():
    assert f"version: {ggmlpy.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_oldest_versions_are_the_lower_bounds():
    """Those of the program, of its extras that the tests run, and of what starlette's test client needs."""
    project = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    declared = [
        block[1],
        *re.findall(r"^(?:completion|serve) = .*$", project, re.MULTILINE),
        *re.findall(r'"httpx.*?"', project),
    ]
    lines = (ROOT / "requirements" / "oldest.txt").read_text().splitlines()
    oldest = dict(line.split("==") for line in lines if not line.startswith("#"))
    bounds = dict(re.findall(r'"([A-Za-z0-9-]+)>=([0-9.]+)', " ".join(declared)))
    assert oldest.keys() == bounds.keys()
    assert all(f"{oldest[name]}.0".startswith(f"{low}.") for name, low in bounds.items())
