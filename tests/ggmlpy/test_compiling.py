"""The first use on a machine compiles; a person at a terminal is told of what, and only when it is so."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import pytest

from ggmlpy.machine import kernels
from ggmlpy.machine.compiling import compiling, watch_compiling
from tests.ggmlpy.models import write_tiny

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
from ggmlpy.machine.compiling import watch_compiling
watch_compiling(lambda name: print("compiling", name))
from ggmlpy.quantizers.rows import quantize_rows
import numpy as np
print(len(quantize_rows(np.zeros(32, np.float32), "q4_0", "2023-03-31")))
"""


def environment_of(cache: Path) -> dict[str, str]:
    return {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}


def test_each_function_is_told_and_loading_is_not(tmp_path: Path) -> None:
    said = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment_of(tmp_path), capture_output=True, text=True, check=True
        )
        for _ in range(2)
    ]
    *begun, ended, length = said[0].stdout.splitlines()
    assert set(begun) == {"compiling quantize_blocks"}  # its own name for all that it calls
    assert len(begun) > 1
    assert (ended, length) == ("compiling ", "20")
    assert said[1].stdout.split() == ["20"]


def test_watchers_take_turns_and_nothing_is_left_open() -> None:
    told: list[str] = []
    before = watch_compiling(told.append)
    try:
        with pytest.raises(KeyError), compiling("outer"), compiling("inner"):
            raise KeyError
        assert watch_compiling(None) == told.append
        with compiling("unwatched"):
            pass
    finally:
        watch_compiling(before)
    assert told == ["outer", "outer", ""]


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_terminal_is_told_where_the_code_is_kept_and_how_far_it_is(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "m.bin", type_name="f16")
    command = [sys.executable, str(ROOT / "cli.py"), "quantize", str(model), str(tmp_path / "q.bin"), "q4_0"]
    environment = environment_of(tmp_path / "kernels") | {"GGMLPY_CACHE": str(tmp_path / "cache")}
    first, second = (on_a_terminal(command, environment) for _ in range(2))
    assert f"compiling for this processor, once, up to a minute; kept in {tmp_path / 'cache'}" in first
    assert re.search(r"compiling quantize_blocks: \d+ functions \[00:\d\d\]", first)
    assert "compiling" not in second


def on_a_terminal(command: list[str], environment: dict[str, str], width: int = 80, code: int = 0) -> str:
    """What the command writes on stderr where that is a terminal."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, width, 0, 0))  # rows and columns
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # Linux says so at the end
            while part := os.read(ours, 4096):
                said += part
    os.close(ours)
    assert process.returncode == code, said
    return said.decode()


def cache_of_a_kernel(monkeypatch: pytest.MonkeyPatch, folder: Path, stamp: str) -> Any:
    """Numba's cache of one kernel as a process sees it whose sources have this stamp."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder))
    monkeypatch.setattr(kernels, "source_digest", lambda folder: stamp)
    return kernels.kernel(lambda x: x)._cache._cache_file


def test_no_process_loads_what_another_is_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tests that quantized q3_K at the same time after an update once got the code of q2_K."""
    cache_of_a_kernel(monkeypatch, tmp_path, "old sources").save("q2_K", "old code of q2_K")
    writer, reader = (cache_of_a_kernel(monkeypatch, tmp_path, "new sources") for _ in range(2))
    seen, write = [], writer._save_data

    def watched(name: str, data: str) -> None:
        seen.append(reader.load("q3_K"))
        write(name, data)
        seen.append(reader.load("q3_K"))

    writer._save_data = watched
    writer.save("q3_K", "code of q3_K")
    assert set(seen) <= {None, "code of q3_K"}
    assert reader.load("q3_K") == "code of q3_K"
    assert len(list(tmp_path.rglob("*.nbc"))) == 1  # the old code is gone


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and modes are a matter of POSIX")
@pytest.mark.parametrize("pattern", ["*.nbc", "*.nbi"])
def test_code_that_others_could_have_written_is_not_loaded(
    tmp_path: Path, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = cache_of_a_kernel(monkeypatch, tmp_path, "sources")
    cache.save("q3_K", "code")
    assert cache.load("q3_K") == "code"
    (file,) = tmp_path.rglob(pattern)
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o666)
    assert cache.load("q3_K") is None


def test_a_damaged_index_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = cache_of_a_kernel(monkeypatch, tmp_path, "sources")
    cache.save("q3_K", "code")
    (file,) = tmp_path.rglob("*.nbi")
    file.write_bytes(file.read_bytes()[:-3])
    assert cache.load("q3_K") is None
    cache.save("q3_K", "code")
    assert cache.load("q3_K") == "code"


def test_without_a_place_kernels_are_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "file"))
    assert kernels.kernel(lambda x: x + 1)(2) == 3


@pytest.mark.parametrize("settings", ["disable_jit: 1", "cache_dir: .nb", "opt: nonsense", "- not a mapping", "{"])
def test_the_working_directory_has_no_say(tmp_path: Path, settings: str) -> None:
    """Numba would read this file, and a stranger's folder that one works in may have one."""
    (tmp_path / ".numba_config.yaml").write_text(f"{settings}\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("NUMBA_CACHE_DIR", None)
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "20"
    assert done.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == [".numba_config.yaml"]


def test_a_relative_folder_for_code_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(numba.config, "CACHE_DIR", ".nb")
    kernels.kernel(lambda x: x)
    assert not list(tmp_path.iterdir())


def test_one_file_imports_numba() -> None:
    """``ggmlpy.machine.jit`` sees to it that the working directory has no say; a second door would have none to see."""
    found = {
        str(file.relative_to(ROOT))
        for top in ("ggmlpy", "llama_ref", "lora", "toolchain")
        for file in (ROOT / top).rglob("*.py")
        if re.search(r"^\s*(from|import) numba\b", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert found == {str(Path("ggmlpy/machine/jit.py"))}


def test_two_processes_that_save_at_once_keep_their_code_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (cache_of_a_kernel(monkeypatch, tmp_path, "sources") for _ in range(2))
    first._load_index = dict  # both have looked before either has saved
    write = second._save_data

    def late(name: str, data: str) -> None:
        first.save("q3_K", "code of q3_K")
        write(name, data)

    second._save_data = late
    second.save("q2_K", "code of q2_K")
    reader = cache_of_a_kernel(monkeypatch, tmp_path, "sources")
    assert reader.load("q3_K") in (None, "code of q3_K")
    assert reader.load("q2_K") in (None, "code of q2_K")


def kernel_over(inner: Any, number: int) -> Any:
    """A kernel that closes over a compiled function, which is another object each time."""
    called = kernels.inlined(inner)

    def outer(x: int) -> int:
        return int(called(x)) + number

    return kernels.kernel(outer)


def test_code_is_found_again_whatever_a_kernel_closes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba's own key of such a kernel is another one in each process."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def once(x: int) -> int:
        return x

    def twice(x: int) -> int:
        return 2 * x

    kinds = [(once, 1), (once, 2), (twice, 1)]
    made = [[kernel_over(*kind) for kind in kinds] for _ in range(2)]
    codegen = made[0][0].targetctx.codegen()
    first, again = ([each._cache._index_key("signature", codegen) for each in row] for row in made)
    assert first == again
    assert len(set(first)) == 3


FACTORS = """
import math, sys
from ggmlpy.machine.kernels import inlined, kernel

def times(factor):
    def part(n):  # large enough for the compiler to call it, rather than to put it in place
        total = 0.0
        for i in range(n):
            for k in range(n):
                total += math.sin(i) * math.cos(k) + math.tan(i) * math.exp(k) + math.log(1.0 + i) * math.atan(k)
            if total > 1e9:
                total = math.sinh(total) * math.asinh(total) + math.cosh(total) + math.log1p(total)
        return n * factor + 0 * total

    part = inlined(part)

    def whole(n):
        return part(n) + part(n + 1) - part(n + 2) + part(n + 3)

    return kernel(whole)

for factor in sys.argv[1:]:
    print(int(times(int(factor))(1)))
"""


def test_code_that_two_processes_compiled_keeps_its_own_parts_in_a_third(tmp_path: Path) -> None:
    """Parts of one name, each the first that its process compiled."""
    (tmp_path / "factors.py").write_text(FACTORS, encoding="utf-8")

    def run(*factors: str) -> list[str]:
        command = [sys.executable, str(tmp_path / "factors.py"), *factors]
        done = subprocess.run(command, env=environment_of(tmp_path), capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert [run("2"), run("3"), run("2", "3")] == [["8"], ["12"], ["8", "12"]]
