"""Whole GGUF files against those of the real llama-quantize: types, keys, order, bytes, refusals, options."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections import Counter

import pytest

from ggmlpy import UsageError, open_model
from ggmlpy.files.errors import FormatError
from ggmlpy.formats.eras import TODAY, quantizing_era
from ggmlpy.formats.file_types import file_type_of
from ggmlpy.formats.gguf import open_gguf
from ggmlpy.formats.importance import open_importance
from ggmlpy.quantizers.gguf_plan import GgufOptions, GgufRequest, parsed_override, planned, request_of
from ggmlpy.quantizers.whole_file import quantize_file
from tests.ggmlpy.models import write_tiny
from tests.quantized_today import input_file, manifest
from toolchain.commands.main import main

MODELS = "today-quants/models"
#: one run of each kind: (output, what the command line has besides input, output and type)
SOME = (
    "a4gqa.f16-Q4_0.gguf",
    "a4gqa.f16-Q2_K.gguf",
    "a4gqa.f16-Q3_K_M.gguf",
    "a4gqa.f16-Q4_K_M-im.gguf",
    "a4gqa.f16-Q5_0-im.gguf",
    "a4gqa.f16-Q4_K_M-imdat.gguf",
    "a4gqa.f16-Q4_K_M-imex.gguf",
    "a4gqa.f16-Q4_K_M-iminc.gguf",
    "a4gqa.f16-Q4_K_M-kv.gguf",
    "a4gqa.f16-Q4_K_M-prune.gguf",
    "a4gqa.f16-Q4_K_M-pure.gguf",
    "a4gqa.f16-Q4_K_M-leave.gguf",
    "a4gqa.f16-Q4_K_M-emb-out-pure.gguf",
    "a4gqa.f16-Q4_K_M-tt2.gguf",
    "a4gqa.f16-F16-tt.gguf",
    "a4gqa.f16-IQ4_XS.gguf",
    "a4gqa.f16-TQ2_0.gguf",
    "a4gqa.f16-IQ3_M.gguf",
    "a4gqa.f16-TQ2_0.gguf",
)


@pytest.fixture(scope="module")
def folder(golden):
    return golden(MODELS)


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory):
    """The inputs of the real runs, each made once."""
    made, home = {}, tmp_path_factory.mktemp("models")

    def make(name: str):
        if name not in made:
            made[name] = input_file(folder, name, home / name)
        return made[name]

    return make


def command_of(run) -> list[str]:
    """The arguments of llama-quantize, which are ours too, but for the number of threads."""
    return shlex.split(run["cmd"].replace("\\", "\\\\"))[1:-1]


@pytest.mark.parametrize("output", SOME)
def test_the_real_tools_file(folder, model, tmp_path, monkeypatch, output):
    run = manifest(folder)["outputs"][output]
    arguments = command_of(run)
    arguments[-3] = str(model(run["input"]))
    arguments[-2] = str(tmp_path / "out.gguf")
    monkeypatch.chdir(folder)  # the path of the importance matrix as it was typed is in the file
    assert main(["quantize", *arguments, "-q"]) == 0
    assert hashlib.sha256((tmp_path / "out.gguf").read_bytes()).hexdigest() == run["sha256"]


def test_every_plan_and_every_refusal(folder, model):
    """Which type each tensor gets, in all runs, without quantizing."""
    n = 0
    for output, run in manifest(folder)["outputs"].items():
        if run["input"] not in manifest(folder)["inputs"]:
            continue
        words, files, n = command_of(run), [open_gguf(model(run["input"]))], n + 1
        request = requested(folder, words)
        if run["rc"]:
            with pytest.raises(FormatError):
                planned(files, request)
        else:
            assert [tensor.target.name for tensor in planned(files, request)] == run["types"].split(), output
    assert n > 300


def requested(folder, words) -> GgufRequest:
    values: dict[str, list[str]] = {}
    while words[0].startswith("--"):
        key = words.pop(0)
        flag = key in ("--pure", "--leave-output-tensor", "--allow-requantize")
        values.setdefault(key, []).append("" if flag else words.pop(0))
    options = GgufOptions(
        pure="--pure" in values,
        output=values.get("--output-tensor-type", [None])[0],
        embedding=values.get("--token-embedding-type", [None])[0],
        tensors=[tuple(word.rsplit("=", 1)) for word in values.get("--tensor-type", [])],
        importance=str(folder / values["--imatrix"][0]) if "--imatrix" in values else None,
        prune=[int(n) for n in values.get("--prune-layers", [])],
    )
    return request_of(words[2], TODAY, options, "--allow-requantize" in values, "--leave-output-tensor" in values)


def test_the_mixes_of_five_dates(golden, folder, model):
    """Until 2024-10-31 layers are counted in the order of the input."""
    mixes = json.loads((golden("today-quants/eras") / "mixes.json").read_text())
    opened = {}
    wrong = []
    for moment, models in mixes.items():
        date = moment.split()[-1]
        for name, file_types in models.items() if date.startswith("20") else ():
            known = name if f"{name}.gguf" in manifest(folder)["inputs"] else name.replace("f16", "bf16")
            if known not in opened:
                opened[known] = [open_gguf(model(f"{known}.gguf"))]
            for asked, types in file_types.items():
                request = GgufRequest(file_type_of(asked, date), quantizing_era(date))
                made = [as_f16(tensor.target.name) for tensor in planned(opened[known], request)]
                wrong += [(date, name, asked)] if made != [as_f16(kind) for kind in types.split()] else []
    assert not wrong


def as_f16(kind: str) -> str:
    """One of the inputs is at hand in bf16 only."""
    return kind.replace("bf16", "f16")


def test_keep_split_writes_as_many_files(folder, tmp_path):
    runs = manifest(folder)["keep_split"]
    parts = {}
    for output, record in runs["files"].items():
        name = record["input part"]
        parts[output] = tmp_path / name
        whole_part(folder, name, record["input part size"], tmp_path / name)
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == record["input part sha256"]
    first = next(iter(parts.values()))
    report = quantize_file(first, tmp_path / "a4gqa-ks.gguf", "Q4_K_M", options=GgufOptions(keep_split=True))
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in report.paths] == [
        record["sha256"] for record in runs["files"].values()
    ]


def whole_part(folder, name, size, target):
    from tests.quantized_today import _stored, weights

    head = (folder / f"{name}.head").read_bytes()
    target.write_bytes(head + bytes(size - len(head)))
    places = [(key, tensor.offset, tensor.shape, tensor.type.name) for key, tensor in open_gguf(target).tensors.items()]
    with target.open("r+b") as stream:
        for key, offset, shape, kind in places:
            stream.seek(offset)
            stream.write(_stored(weights("a4gqa", key, shape), kind).tobytes())


def test_quantized_inputs_are_refused_unless_insisted(folder, model, tmp_path):
    source = folder / "a4gqa.f16-Q4_0.gguf"
    with pytest.raises(FormatError, match=r"requantizing from type q4_0 is disabled.*--allow-requantize"):
        quantize_file(source, tmp_path / "out.gguf", "Q4_K_S")
    quantize_file(source, tmp_path / "out.gguf", "Q4_K_S", allow_requantize=True)
    with open_model(tmp_path / "out.gguf") as made:
        assert made.tensors["layers.0.attention.wq.weight"].type.name == "q4_K"


def test_an_importance_matrix_is_read_in_both_formats(folder):
    new, old = (open_importance(folder / f"a4gqa.imatrix.{kind}") for kind in ("gguf", "dat"))
    assert new.entries.keys() == old.entries.keys()
    assert (new.n_chunks, list(new.datasets)) == (old.n_chunks, list(old.datasets))
    for name, values in new.entries.items():
        assert values == pytest.approx(old.entries[name], rel=1e-5)


def test_the_importance_of_another_model_is_refused(folder, model, tmp_path):
    options = GgufOptions(importance=str(folder / "c8tied.imatrix.gguf"))
    with pytest.raises(FormatError, match=r"the importance of tensor 'blk\.0.* is that of another matrix"):
        quantize_file(model("a4gqa.f16.gguf"), tmp_path / "out.gguf", "Q4_K_M", options=options)
    assert not (tmp_path / "out.gguf").exists()


def test_a_cut_off_importance_matrix_is_refused(folder, tmp_path):
    data = (folder / "a4gqa.imatrix.dat").read_bytes()
    for size in (0, 3, 4, 9, 100, len(data) // 2):
        (tmp_path / "cut.dat").write_bytes(data[:size])
        with pytest.raises(FormatError):
            open_importance(tmp_path / "cut.dat")


@pytest.mark.parametrize("word", ["x", "x=int", "x=int:y", "x=bool:maybe", "x=str:" + "y" * 128, "=int:1"])
def test_a_key_to_set_must_be_of_its_form(word):
    with pytest.raises(UsageError, match="--override-kv takes KEY=TYPE:VALUE"):
        parsed_override(word)


def test_what_only_gguf_has_is_refused_elsewhere(golden, model, tmp_path):
    source = golden("ggml/T1_convert_f16/T1.p2.f16.bin")
    with pytest.raises(UsageError, match="take a GGUF file"):
        quantize_file(source, tmp_path / "out.bin", "q4_0", options=GgufOptions(pure=True))
    with pytest.raises(UsageError, match="writes GGUF"):
        quantize_file(source, tmp_path / "out.bin", "q4_0", "2024-06-10")
    with pytest.raises(UsageError, match="unknown era '2022-01-01'"):
        quantize_file(model("a4gqa.f16.gguf"), tmp_path / "out.gguf", "q4_0", "2022-01-01")
    with pytest.raises(UsageError, match="no tensor type 'q9_9'"):
        quantize_file(model("a4gqa.f16.gguf"), tmp_path / "out.gguf", "q4_0", options=GgufOptions(output="q9_9"))


def test_tensors_of_another_type_than_asked_for_are_told(tmp_path, capsys):
    """Rows of 32 values take no blocks of 256: what they became instead is what the file says."""
    source, target = write_tiny(tmp_path / "f16.gguf", "gguf", 3, "f16"), tmp_path / "out.gguf"
    assert main(["quantize", str(source), str(target), "q4_K_M"]) == 0
    with open_model(target) as made:
        # the output is meant to be q8_0 here: the mix says so
        types = Counter(t.type.name for t in made.stored if len(t.shape) == 2 and t.name != "output.weight")
    assert set(types) == {"q5_0", "q8_0"}
    told = [line for line in capsys.readouterr().err.splitlines() if "instead of" in line]
    assert sorted(re.findall(r"note: (\d+) tensors? became (\w+) instead of (q\d_K)", "\n".join(told))) == sorted(
        (str(types[kind]), kind, wanted) for kind, wanted in (("q5_0", "q4_K"), ("q8_0", "q6_K"))
    )
    assert main(["quantize", str(source), str(target), "q8_0"]) == 0
    assert "instead of" not in capsys.readouterr().err
