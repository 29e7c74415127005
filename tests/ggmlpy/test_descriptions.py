"""The containers described for other programs: each description reads every kind of file that there is."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from ggmlpy import open_model
from ggmlpy.formats.containers import CONTAINERS, GGUF
from ggmlpy.formats.eras import ERAS, TODAY
from ggmlpy.formats.gguf import open_gguf, records_of
from ggmlpy.look.descriptions import DESCRIPTIONS, describe
from tests.ggmlpy.kaitai import parse
from toolchain.commands.main import main
from toolchain.zoo.model_files import write_file, write_rewritten

OLD = [(date, name) for date, era in ERAS.items() if not era.is_of_gguf for name in ("f16", "q4_0", "q4_1", "q8_0")]
OLD = [(date, name) for date, name in OLD if name in ERAS[date].types]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A tiny file of every container, version and layout of blocks."""
    folder = tmp_path_factory.mktemp("files")
    found = {}
    for date, name in OLD:
        found[f"{date} {name}"] = folder / f"{date}-{name}.bin"
        write_file(found[f"{date} {name}"], ERAS[date], name)
    for version, order in ((1, "<"), (2, "<"), (3, "<"), (3, ">")):
        found[f"gguf {version}{order}"] = folder / f"v{version}{'big' if order == '>' else ''}.gguf"
        write_rewritten(found[f"gguf {version}{order}"], version, order)
    found["gguf today"] = folder / "today.gguf"
    write_file(found["gguf today"], TODAY, "q4_0")
    return found


LITTLE = [*(f"{date} {name}" for date, name in OLD), "gguf 1<", "gguf 2<", "gguf 3<", "gguf today"]


# ── Kaitai Struct ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("which", LITTLE)
def test_the_kaitai_specification_reads_a_file_to_its_end(files, which):
    data = files[which].read_bytes()
    found = parse(describe("kaitai"), data)
    assert found["left"] == b""
    content = found["content"]["content"]
    if which.startswith("gguf"):
        file = open_gguf(files[which])
        assert [bytes(t["name"]).decode() for t in content["tensors"]] == list(file.tensors)
        assert [bytes(pair["key"]).decode() for pair in content["metadata"]] == list(file.metadata)
        assert len(data) - len(content["data"]) == file.data_offset
        return
    with open_model(files[which]) as model:
        assert [bytes(piece["text"]) for piece in content["vocabulary"]] == list(model.vocab)
        read = {bytes(t["name"]).decode(): (t["data"], tuple(reversed(t["dims"]))) for t in content["tensors"]}
        expected = {t.name: (t.raw().tobytes(), t.shape) for t in model.tensors.values()}
        assert read == expected


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The parser that the real compiler makes (npm's kaitai-struct-compiler and js-yaml, PyPI's kaitaistruct)."""
    pytest.importorskip("kaitaistruct")
    folder = tmp_path_factory.mktemp("parser")
    script = """
        const Compiler = require("kaitai-struct-compiler"), yaml = require("js-yaml"), fs = require("fs")
        const ksy = yaml.load(fs.readFileSync(0, "utf8")), compiler = Compiler.compile ? Compiler : new Compiler()
        compiler.compile("python", ksy, null, false).then(files => process.stdout.write(files["ggml_files.py"]))
    """
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    run = subprocess.run(["node", "-e", script], input=describe("kaitai"), capture_output=True, text=True)
    if "Cannot find module" in run.stderr:
        pytest.skip("npm's kaitai-struct-compiler and js-yaml are not in NODE_PATH")
    assert run.returncode == 0, run.stderr
    (folder / "ggml_files.py").write_text(run.stdout)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("ggml_files").GgmlFiles
    sys.path.remove(str(folder))


@pytest.mark.parametrize("which", LITTLE)
def test_the_compiled_parser_reads_the_same(compiled, files, which):
    found = compiled.from_file(str(files[which])).content.content
    own = parse(describe("kaitai"), files[which].read_bytes())["content"]["content"]
    assert [tensor.name for tensor in found.tensors] == [tensor["name"] for tensor in own["tensors"]]
    if which.startswith("gguf"):
        assert found.data == own["data"]
        assert [pair.key for pair in found.metadata] == [pair["key"] for pair in own["metadata"]]
    else:
        assert [tensor.data for tensor in found.tensors] == [tensor["data"] for tensor in own["tensors"]]
        assert [piece.text for piece in found.vocabulary] == [piece["text"] for piece in own["vocabulary"]]


# ── file(1), MIME types, ImHex ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(not shutil.which("file"), reason="file(1) is not installed")
def test_file_1_tells_every_container_and_version(files, tmp_path):
    assert main(["formats", "--as", "magic", "--out", str(tmp_path / "ggml.magic"), "-q"]) == 0
    run = ["file", "-b", "-m", str(tmp_path / "ggml.magic")]
    said = {which: subprocess.check_output([*run, str(path)], text=True).strip() for which, path in files.items()}
    assert said["2023-03-19 q4_0"].startswith("ggml model (unversioned), written until 2023-03-20, 1 layers")
    assert said["2023-03-30 q4_0"].startswith("ggmf model v1, written 2023-03-20 to 2023-03-30, 1 layers")
    assert said["2023-03-31 q4_0"].startswith("ggjt model v1, written 2023-03-31 to 2023-05-11, 1 layers")
    assert said["2023-05-19 q4_0"].startswith("ggjt model v2, written 2023-05-12 to 2023-05-18, 1 layers")
    assert said["2023-08-21 q4_0"].startswith("ggjt model v3, written 2023-05-19 to 2023-08-20, 1 layers")
    assert said["gguf 1<"].startswith("GGUF model v1, written 2023-08,")
    assert "v3, written since 2023-10, 12 tensors" in said["gguf 3<"]
    assert said["gguf 3>"] == "GGUF model v3, big-endian"
    with open_model(files["2023-03-31 q4_0"]) as model:
        assert f"{model.hparams.n_embd} wide, vocabulary of {model.hparams.n_vocab}" in said["2023-03-31 q4_0"]
    kinds = {subprocess.check_output([*run, "--mime-type", str(path)], text=True).strip() for path in files.values()}
    assert kinds == {f"application/x-{name}" for name in ("ggml", "ggmf", "ggjt", "gguf")}


def test_mime_types_match_the_files(files):
    root = ET.fromstring(describe("mime"))
    names = {"m": "http://www.freedesktop.org/standards/shared-mime-info"}
    types = {kind.get("type"): kind.find("m:magic/m:match", names) for kind in root.findall("m:mime-type", names)}
    for path in files.values():
        magic = int.from_bytes(path.read_bytes()[:4], "little")
        matching = [kind for kind, match in types.items() if int(match.get("value"), 16) == magic]
        assert len(matching) == 1
    assert {match.get("type") for match in types.values()} == {"little32"}


def test_the_imhex_pattern_declares_every_field_and_uses_nothing_undeclared():
    text = describe("imhex")
    records = [record for c in CONTAINERS.values() for record in (c.header, c.token, c.tensor)]
    records += [record for v in GGUF.versions for record in (records_of(v).header, records_of(v).tensor)]
    for name in {field.name for record in records for field in record}:
        assert f" {name};" in text or f" {name}[" in text or name == "padding", name
    assert text.count("{") == text.count("}")
    assert text.count("(") == text.count(")")
    structs = {line.split()[1] for line in text.splitlines() if line.startswith("struct ")}
    used = set(re.findall(r"\b(?:ggml|ggmf|ggjt|gguf)\w*(?= \w+[;\[])", text))
    assert used == structs - {"model_file"}


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", DESCRIPTIONS)
def test_each_is_printed_or_written(kind, tmp_path, capsys):
    assert main(["formats", "--as", kind]) == 0
    assert capsys.readouterr().out == describe(kind)
    assert main(["formats", "--as", kind, "--out", str(tmp_path / "out"), "-q"]) == 0
    assert (tmp_path / "out").read_text("utf-8") == describe(kind)


def test_another_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["formats", "--as", "word"])
    assert "kaitai" in capsys.readouterr().err
