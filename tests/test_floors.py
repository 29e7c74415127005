"""The plan of the code, held to by its own imports: no arrow up, no circle, no file or function that grew too long.

Imports go cli → toolchain → lora → llama_ref → ggmlpy, and inside ggmlpy from top to bottom of ``ROOMS``. All imports
count: at the top of a file, inside functions, and those for type checkers alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STOREYS = ("ggmlpy", "llama_ref", "lora", "toolchain", "cli")  # each imports only what is before it, or itself
LIBRARIES = STOREYS[:3]
ROOMS = (("files", "machine"), ("formats",), ("quantizers",), ("look", "verify"))  # of ggmlpy; the front door sees all
LONGEST_FILE = 500
LONGEST_FUNCTION = 40
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

KERNELS = {  # longer functions, each with the reason
    "ggmlpy.quantizers.weighted_k_quants.quantize_blocks": "four steps over sixteen blocks share their arrays",
    "llama_ref.arithmetic.exact.k_quants.k_quants": "one product, in the order of additions of the original",
}


@cache
def modules() -> dict[str, Path]:
    """The product's files by the names of their modules."""
    paths = [ROOT / "cli.py", *(path for top in STOREYS for path in sorted((ROOT / top).rglob("*.py")))]
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths)}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def module_of(name: str) -> str:
    """The module that a dotted name is, or is in; "" for names of other packages."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name


def imported_names(module: str) -> Iterator[str]:
    """The absolute dotted names that a file imports, wherever in it."""
    is_package = modules()[module].name == "__init__.py"
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def arrows() -> dict[str, set[str]]:
    """For each module the modules of ours that it imports."""
    found = {module: {module_of(name) for name in imported_names(module)} for module in modules()}
    return {module: targets - {"", module} for module, targets in found.items()}


def height(module: str) -> tuple[int, int]:
    """Storey, and room within ggmlpy; its front door stands above the rooms."""
    top, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    rooms = [level for level, names in enumerate(ROOMS) if room in names and top == "ggmlpy"]
    return STOREYS.index(top), rooms[0] if rooms else len(ROOMS)


def upward() -> Iterator[tuple[str, str]]:
    for module, targets in arrows().items():
        yield from ((module, target) for target in targets if height(target) > height(module))


def circles() -> list[list[str]]:
    """Groups of modules that import each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in arrows()[module]:
            if target not in index:
                visit(target)
            if target in stack:
                low[module] = min(low[module], low[target])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(group)

    for module in modules():
        if module not in index:
            visit(module)
    return found


def functions(module: str) -> Iterator[tuple[str, int]]:
    """Names and lengths of a file's functions: lines of the body, without the docstring and without inner functions."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, FUNCTIONS):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            inner = [child for child in ast.walk(node) if isinstance(child, FUNCTIONS) and child is not node]
            lines = {line for statement in body for line in lines_of(statement)}
            yield node.name, len(lines.difference(*map(lines_of, inner)))


def lines_of(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def texts(module: str) -> Iterator[str]:
    """Every string of a file, docstrings included."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


# ── the plan ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_files_are_found() -> None:
    assert len(modules()) > 150
    assert "ggmlpy.formats.model_file" in arrows()["ggmlpy.formats.opening"], "relative imports are understood"
    assert "ggmlpy.quantizers.arrays" in arrows()["ggmlpy"], "imports for type checkers count"
    assert "ggmlpy.quantizers.rows" in arrows()["ggmlpy.quantizers.arrays"], "imports inside functions count"


def test_no_import_goes_up() -> None:
    assert sorted(upward()) == []


def test_no_modules_import_each_other() -> None:
    assert circles() == []


def test_every_folder_of_ggmlpy_has_its_place() -> None:
    folders = {module.split(".")[1] for module in modules() if module.count(".") > 1 and module.startswith("ggmlpy.")}
    assert folders == {room for rooms in ROOMS for room in rooms}


# ── sizes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_file_is_too_long() -> None:
    long = {m for m, path in modules().items() if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST_FILE}
    assert sorted(long) == []


def test_no_function_is_too_long() -> None:
    long = {f"{m}.{name}": size for m in modules() for name, size in functions(m) if size > LONGEST_FUNCTION}
    assert {name: size for name, size in long.items() if name not in KERNELS} == {}
    assert long.keys() >= KERNELS.keys(), "what became short leaves the list"


# ── who speaks ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_does_not_know_the_name_of_the_program(library: str) -> None:
    knowing = {m for m in modules() if m.split(".")[0] == library and any("python cli.py" in text for text in texts(m))}
    assert sorted(knowing) == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_neither_prints_nor_exits(library: str) -> None:
    speaking = set()
    for module in modules():
        if module.split(".")[0] == library:
            calls = {ast.unparse(node.func) for node in ast.walk(tree_of(module)) if isinstance(node, ast.Call)}
            speaking |= {f"{module}: {call}" for call in calls & {"print", "exit", "quit", "sys.exit", "os._exit"}}
    assert sorted(speaking) == []
