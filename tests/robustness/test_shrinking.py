"""A model file that another program cuts short while it is mapped: an error, never a bus error.

Each command is stopped at its first piece of work, the file is cut, and the command goes on. It runs in a process of
its own, for a bus error would end this one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.llama_ref.random_models import Shape, write_random_model

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows lets nobody cut a mapped file short")

CUT = """
import os, sys

def cut_after(module, owner, name, count=1):
    '''Cut the file when a function has been called so often.'''
    import importlib
    where = importlib.import_module(module)
    where = getattr(where, owner) if owner else where
    before, calls = getattr(where, name), []

    def then_cut(*args, **kwargs):
        result = before(*args, **kwargs)
        calls.append(1)
        if len(calls) == count:
            os.truncate(sys.argv[1], 4096)
        return result

    setattr(where, name, then_cut)

cut_after(*eval(sys.argv[2]))
from toolchain.commands.main import main
sys.exit(main(sys.argv[3:], "ggmlpy"))
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Tensors of several megabytes each, so that they are read in pieces."""
    return write_random_model(tmp_path / "m.bin", Shape(n_head=4, n_layer=2, n_vocab=9000, n_mult=256), "f16")


def command(model: Path, *argv: object, when: tuple[object, ...]) -> tuple[int, str]:
    call = [sys.executable, "-c", CUT, str(model), repr(when), *map(str, argv)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr


def is_refused(code: int, said: str) -> None:
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert (code, len(errors)) == (3, 1), said
    assert "Traceback" not in said
    assert "ends early: the file was changed while it was read" in errors[0]


OPENED = ("ggmlpy.formats.opening", "", "read_part")


@pytest.mark.parametrize("numerics", ["fast", "reference", pytest.param("exact", marks=pytest.mark.slow)])
def test_generate(model: Path, numerics: str) -> None:
    argv = ("generate", "-m", model, "-p", "a", "-n", 8, "--temp", 0, "--numerics", numerics)
    is_refused(*command(model, *argv, when=("llama_ref.text.conversation", "Conversation", "sample", 2)))


WHILE_IT_IS_READ = """
import os, sys
from ggmlpy.files.bus_errors import survive_cut_files, zeros_were_read
from ggmlpy.files.errors import TruncatedError
from llama_ref.text.model import Model

path, size = sys.argv[1], os.path.getsize(sys.argv[1])
assert survive_cut_files() and survive_cut_files()
model = Model.from_file(path, n_ctx=32, n_threads=2)
forward = model.backend.forward

def cut_and_forward(*args):
    os.truncate(path, size - 100_000)
    return forward(*args)

model.evaluate([1, 2], 0)
model.backend.forward = cut_and_forward
for _ in range(2):
    try:
        model.evaluate([1, 2], 0)
    except TruncatedError as error:
        print(zeros_were_read(), error.problem)
    os.truncate(path, size)  # whole again, by its length
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the signal ends the process")
def test_a_server_survives_a_file_that_is_cut_while_kernels_read_it(model: Path) -> None:
    """Zeros are read, and nothing that was computed with them is ever shown."""
    call = [sys.executable, "-c", WHILE_IT_IS_READ, str(model)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert [words for _, words in told] == ["the model ends early: the file was changed while it was read"] * 2
    assert [zeros for zeros, _ in told] == ["True", "True"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere there is no handler")
def test_the_signal_for_any_other_reason_ends_the_process() -> None:
    """Sent by a person here; broken memory is alike, and zeros in its place would be wrong numbers."""
    code = (
        "import os, signal; from ggmlpy.files.bus_errors import survive_cut_files; "
        "assert survive_cut_files(); os.kill(os.getpid(), signal.SIGBUS); print('lived')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (128 + signal.SIGBUS, "")


@pytest.mark.parametrize("other", ["a", "b"])
def test_compare(model: Path, tmp_path: Path, other: str) -> None:
    copy = tmp_path / "copy.bin"
    copy.write_bytes(model.read_bytes())
    pair = (model, copy) if other == "a" else (copy, model)
    is_refused(*command(model, "compare", *pair, when=("ggmlpy.verify.tensors", "", "same_bytes")))


def test_fingerprint(model: Path) -> None:
    is_refused(*command(model, "fingerprint", model, when=OPENED))


@pytest.mark.parametrize("more", [(), ("--requantize", "q8_0")])
def test_migrate(model: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    out = tmp_path / "out.bin"
    is_refused(*command(model, "migrate", model, out, *more, when=("ggmlpy.quantizers.migration", "", "_target")))
    assert [path.name for path in tmp_path.iterdir()] == ["m.bin"]


def test_quantize(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.bin"
    is_refused(*command(model, "quantize", model, out, "q4_0", when=("ggmlpy.quantizers.whole_file", "", "_moment")))
    assert [path.name for path in tmp_path.iterdir()] == ["m.bin"]


@pytest.mark.slow
def test_verify(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.bin"
    subprocess.run([sys.executable, "cli.py", "quantize", model, out, "q4_0"], cwd=ROOT, check=True, timeout=120)
    is_refused(
        *command(model, "verify", out, "--source", model, when=("ggmlpy.verify.judge", "", "container_differences"))
    )


def test_a_file_that_is_replaced_by_another_is_read_to_its_end(model: Path, tmp_path: Path) -> None:
    """As a download that ends with a renaming does it."""
    from ggmlpy import open_model
    from ggmlpy.verify.fingerprint import fingerprint

    with open_model(model) as opened:
        before = fingerprint(opened)
        (tmp_path / "new").write_bytes(b"another")
        os.replace(tmp_path / "new", model)
        opened.check_length()
        assert fingerprint(opened) == before


def test_report(model: Path, tmp_path: Path) -> None:
    argv = ("report", model, "--html", tmp_path / "r.html")
    is_refused(*command(model, *argv, when=("ggmlpy.look.report", "", "_sample")))


@pytest.mark.parametrize(
    ("step", "when"),
    [
        (("convert", "BASE", "--outfile", "OUT"), ("llama_ref.conversion.ggml", "", "_cast")),
        (("fingerprint", "BASE"), ("toolchain.verify.fingerprint", "", "_as_f32")),
    ],
    ids=["convert", "fingerprint"],
)
def test_a_checkpoint_of_torch(tmp_path: Path, step: tuple[str, ...], when: tuple[object, ...]) -> None:
    """Before each piece is read the file is asked for its length."""
    base = tmp_path / "base"
    shutil.copytree(ROOT / "toolchain/demo/model/base", base)
    argv = [{"BASE": base, "OUT": tmp_path / "out.bin"}.get(word, word) for word in step]
    is_refused(*command(base / "consolidated.00.pth", *argv, when=when))
    assert not (tmp_path / "out.bin").exists()
