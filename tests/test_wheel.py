"""What ``pip install`` puts there: the packages, their data, and a command that finds its module; Python only."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ggmlpy", "llama_ref", "lora", "toolchain")
SOURCE_TREE_ONLY = "toolchain/makers/"


def build(target: Path) -> tuple[Path, Path]:
    """The source distribution and the wheel."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (sdist,), (wheel,) = target.glob("*.tar.gz"), target.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    pytest.importorskip("hatchling")
    return build(tmp_path_factory.mktemp("dist"))


def sources(*folders: str) -> set[str]:
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return {
        path.relative_to(ROOT).as_posix() for path in paths if not {"__pycache__", ".ipynb_checkpoints"} & {*path.parts}
    }


def test_the_wheel_is_complete(built: tuple[Path, Path]) -> None:
    _, wheel = built
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        scripts = next(archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    assert "ggmlpy = toolchain.commands.main:main" in scripts
    wanted = {name for name in sources(*PACKAGES) if not name.startswith(SOURCE_TREE_ONLY)}
    assert wanted - names == set()
    assert {"ggmlpy/look/report.html", "toolchain/demo/model/SHA256SUMS"} <= wanted
    assert not [name for name in names if name.endswith((".so", ".pyd", ".dll", ".c"))]


def test_the_wheel_holds_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {*PACKAGES}
    assert not [name for name in names if name.startswith(SOURCE_TREE_ONLY)]
    for beside in ("licenses/LICENSE", "share/doc/ggmlpy/README.zh.md", "share/doc/ggmlpy/model-card.md"):
        assert [name for name in names if name.endswith(beside)], beside


def test_the_source_distribution_is_complete(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    top = {"LICENSE", "README.md", "README.zh.md", "cli.py", "mkdocs.yml", "pyproject.toml"}
    assert (top | sources(*PACKAGES, "tests", "docs", "benchmarks")) - names == set()


def test_two_builds_are_the_same_bytes(built: tuple[Path, Path], tmp_path: Path) -> None:
    again = build(tmp_path)
    assert [sha256(path.read_bytes()).digest() for path in again] == [
        sha256(path.read_bytes()).digest() for path in built
    ]


def test_what_the_wheel_lacks_is_said(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['toolchain.makers'] = None\n"
        "from toolchain.commands.main import main; sys.exit(main(sys.argv[1:]))"
    )
    for command in (["train", "demo", "--output", str(tmp_path)], ["vectors", "make", str(tmp_path)]):
        run = subprocess.run([sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 3
        assert run.stderr.startswith("error: this command comes with the source tree")
