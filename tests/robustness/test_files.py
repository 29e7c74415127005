"""Files as they come: unreadable, vanishing, behind links, of any name, written by two at once."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import scenes
from tests.docs.blocks import run
from tests.robustness.conftest import WRITERS, contents, partials

needs_links = pytest.mark.skipif(os.name == "nt", reason="symbolic links need a privilege on Windows")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "中文 目录"
    made.mkdir()
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def mere_mortal() -> Iterator[None]:
    """Permissions count, for root too: Linux lets it put its power to override them aside for a while."""
    if os.name == "nt":
        pytest.skip("Windows has no such permissions")
    if os.geteuid() != 0:
        yield
        return
    if not sys.platform.startswith("linux"):
        pytest.skip("root may read and write everything")
    before = capabilities()
    capabilities(before[0] & ~0b110)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    yield
    capabilities(before[0])


def capabilities(effective: int | None = None) -> tuple[int, ...]:
    """This thread's low capabilities (effective, permitted, inheritable); the effective ones are set where given."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    if effective is not None:
        data[0] = effective
        assert libc.capset(header, data) == 0
    return data[0], data[1], data[2]


def said_in_one_line(code: int, said: str, *words: str) -> None:
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 3, said
    assert len(errors) == 1, said
    assert "Traceback" not in said
    for word in words:
        assert word in errors[0]


@pytest.mark.parametrize("name", WRITERS)
def test_names_with_spaces_and_chinese_characters(name: str, right, folder: Path) -> None:
    writer = WRITERS[name]
    writer.scene(folder)
    output = writer.output.replace("out", "我的 模型")
    code, said = run([output if word == writer.output else word for word in writer.argv])
    assert code == 0, said
    if output.endswith(".pth"):  # the folder inside is called as the file, as torch.save does it
        assert run(list(writer.argv))[0] == 0
        (_, theirs), (_, ours) = (run(["fingerprint", path]) for path in (output, writer.output))
        assert theirs.split()[0] == ours.split()[0]
    else:
        assert contents(folder / output) == right(name)


def test_a_model_of_a_chinese_name_speaks(folder: Path) -> None:
    scenes.quantized(folder)
    os.rename("ggml-model-q4_0.bin", "模型 q4_0.bin")
    for argv in (
        ["generate", "-m", "模型 q4_0.bin", "-p", "你好", "-n", "2", "-q", "--numerics", "reference"],
        ["inspect", "模型 q4_0.bin"],
        ["hexdump", "模型 q4_0.bin", "--field", "n_vocab"],
        ["report", "模型 q4_0.bin", "--html", "报告 1.html", "-q"],
        ["identify", "模型 q4_0.bin"],
    ):
        code, said = run(argv)
        assert code == 0, said
    assert "模型 q4_0.bin" in Path("报告 1.html").read_text("utf-8")


@pytest.mark.usefixtures("mere_mortal")
@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_may_not_be_written(name: str, folder: Path) -> None:
    writer = WRITERS[name]
    writer.scene(folder)
    os.mkdir("locked")
    os.chmod("locked", 0o500)
    code, said = run([f"locked/{word}" if word == writer.output else word for word in writer.argv])
    said_in_one_line(code, said, "locked", "Next: ")
    assert os.listdir("locked") == []


@pytest.mark.usefixtures("mere_mortal")
@pytest.mark.parametrize("command", ["identify", "inspect", "hexdump", "fingerprint", "generate -p x -m"])
def test_a_file_that_may_not_be_read(command: str, folder: Path) -> None:
    scenes.quantized(folder)
    os.chmod("ggml-model-q4_0.bin", 0)
    said_in_one_line(*run([*command.split(), "ggml-model-q4_0.bin"]), "ggml-model-q4_0.bin", "ermission")


VICTIMS = {
    "quantize": "ggml-model-f16.bin",
    "migrate": "p0-q4_0.bin",
    "from-hf": "llama-7b-hf/pytorch_model.bin",
    "to-meta": "ggml-model-f16.bin",
    "ggml-to-pth": "ggml-model-q4_0.bin",
    "convert to GGUF": "llama-7b-hf/pytorch_model.bin",
    "imatrix": "t.txt",
    "train prepare": "t.txt",
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_input_vanishes(name: str, folder: Path) -> None:
    """Between looking and opening, or before: the first file of the input is not there."""
    writer = WRITERS[name]
    writer.scene(folder)
    os.remove(VICTIMS.get(name, "models/7B/consolidated.00.pth"))
    said_in_one_line(*run(list(writer.argv)), "Next: ")
    assert not Path(writer.output).exists()


def test_the_input_shrinks_while_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """quantize reads, it does not map: a file cut off under its hands is an error, not a crash."""
    scenes.quantized(folder)
    from ggmlpy.quantizers import whole_file as module

    opened = module.open_model

    def open_then_cut(path: str, **more: object):
        model = opened(path, **more)
        os.truncate(path, 100_000)
        return model

    if os.name == "nt":
        pytest.skip("a mapped file cannot be cut on Windows")
    monkeypatch.setattr(module, "open_model", open_then_cut)
    said_in_one_line(*run(["quantize", "ggml-model-f16.bin", "out.bin", "q4_0"]), "ends early")
    assert not Path("out.bin").exists()
    assert partials(folder) == []


@needs_links
def test_a_link_as_output_is_followed(right, folder: Path) -> None:
    scenes.quantized(folder)
    os.mkdir("elsewhere")
    Path("elsewhere/real.bin").write_bytes(b"old")
    os.symlink("elsewhere/real.bin", "out.bin")
    code, said = run(list(WRITERS["quantize"].argv))
    assert code == 0, said
    assert os.path.islink("out.bin")
    assert contents(folder / "elsewhere/real.bin") == right("quantize")
    assert partials(folder) == []


@needs_links
def test_a_link_to_nowhere_and_a_link_to_itself(folder: Path) -> None:
    scenes.quantized(folder)
    os.symlink("gone/real.bin", "out.bin")
    said_in_one_line(*run(list(WRITERS["quantize"].argv)), "out.bin", "create the directory first")
    os.symlink("loop.bin", "loop.bin")
    said_in_one_line(*run(["identify", "loop.bin"]), "loop.bin")


@needs_links
def test_inputs_behind_links(right, folder: Path) -> None:
    scenes.merge(folder)
    os.rename("models", "real models")
    os.symlink("real models", "models")
    code, said = run(list(WRITERS["merge to q4_0"].argv))
    assert code == 0, said
    assert contents(folder / "out.bin") == right("merge to q4_0")


@pytest.mark.parametrize("name", ["quantize", "migrate"])
def test_the_output_is_a_folder(name: str, folder: Path) -> None:
    WRITERS[name].scene(folder)
    os.mkdir("out.bin")
    said_in_one_line(*run(list(WRITERS[name].argv)), "out.bin", "name a file inside it")
    assert os.listdir("out.bin") == []


def test_convert_names_a_file_in_a_folder(right, folder: Path) -> None:
    scenes.base(folder)
    os.mkdir("out.bin")
    code, said = run(list(WRITERS["convert"].argv))
    assert code == 0, said
    assert {"out.bin": contents(folder / "out.bin")["ggml-model-f16.bin"]} == {"out.bin": right("convert")["."]}


@pytest.mark.parametrize("name", ["quantize", "convert", "merge to q4_0", "migrate"])
def test_two_write_the_same_file(name: str, nursery, right, tmp_path: Path) -> None:
    """Each writes a file of its own beside the target; the last renaming wins, and both contents are whole."""
    writer, expected = WRITERS[name], right(name)
    folder = tmp_path / "run"
    folder.mkdir()
    writer.scene(folder)
    argv = [*writer.argv, "--force"] if name.startswith("merge") else list(writer.argv)
    children = [nursery.start(argv, folder) for _ in range(2)]
    codes = [child.wait() for child in children]
    assert codes == [0, 0], [child.said for child in children]
    assert contents(folder / writer.output) == expected
    assert partials(folder) == []


def test_two_merge_into_one_folder(nursery, right, tmp_path: Path) -> None:
    """Whoever comes second may be refused, but what stands there in the end is whole."""
    folder = tmp_path / "run"
    folder.mkdir()
    scenes.merge(folder)
    children = [nursery.start(list(WRITERS["merge"].argv), folder) for _ in range(2)]
    codes = [child.wait() for child in children]
    assert all("Traceback" not in child.said for child in children), [child.said for child in children]
    assert set(codes) <= {0, 2, 3}
    found = contents(folder / "out") if (folder / "out").exists() else {}
    assert found.items() <= right("merge").items()
    if codes == [0, 0] or (0 in codes and not partials(folder)):
        assert found == right("merge")
    shutil.rmtree(folder / "out", ignore_errors=True)
    code, said = nursery.run(list(WRITERS["merge"].argv), folder)
    assert (code, contents(folder / "out")) == (0, right("merge")), said


def test_surrogates_in_names(folder: Path) -> None:
    """Bytes in a name that are no UTF-8 (old archives of GBK) are printed escaped, not raised."""
    if os.name == "nt":
        pytest.skip("names are text on Windows")
    scenes.quantized(folder)
    try:
        os.rename("ggml-model-q4_0.bin", os.fsdecode("模型".encode("gbk") + b".bin"))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    (name,) = [name for name in os.listdir() if name.endswith(".bin") and not name.startswith("ggml")]
    code, said = run(["identify", name])
    assert code == 0, said
    code, said = run(["identify", "--json", name])
    assert code == 0, said
    json.loads(said)


def test_without_reading_at_an_offset(right, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no pread: threads then take turns."""
    monkeypatch.delattr(os, "pread", raising=False)
    scenes.quantized(folder)
    code, said = run([*WRITERS["quantize"].argv, "-t", "4"])
    assert code == 0, said
    assert contents(folder / "out.bin") == right("quantize")
