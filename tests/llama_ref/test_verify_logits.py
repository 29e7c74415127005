"""Whose logits are these: every golden file is recognised, and what was done otherwise is named by trying."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import cli
from ggmlpy import open_model
from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.formats.eras import ERAS
from llama_ref.arithmetic.choosing import create_backend
from llama_ref.conversion.converting import plan_conversion
from llama_ref.text.logits import logits, write_logits
from llama_ref.text.model import Model
from tests.llama_ref.random_models import Shape, write_random_model
from tests.today import huggingface_directory
from toolchain.verify.logits import read_logits, verify_logits
from toolchain.verify.recomputing import OPERATIONS, Swapped
from toolchain.verify.ways import ways_of

DATA = Path(__file__).resolve().parent.parent / "data" / "ggml"
BUILD_OF = {"s": "scalar", "v2": "avx2", "v5": "avx512"}
ERA_OF = {era.pin: era.date for era in ERAS.values()}
MANIFESTS = {pin: json.loads((DATA / f"T1_logits_{pin}" / "manifest.json").read_text()) for pin in ERA_OF}
GROUPS = sorted({(name.split(".")[1], name.split(".")[2]) for m in MANIFESTS.values() for name in m["files"]})
QUICK = [("p0", "q4_0"), ("p2", "q4_0"), ("p4", "q5_1"), ("p5", "q8_0")]
TOKENS = [1, *range(3, 15)]


def golden_names(pin: str, kind: str) -> list[str]:
    return [name for name in MANIFESTS[pin]["files"] if name.startswith(f"T1.{pin}.{kind}.")]


def model_file(pin: str, kind: str, golden, folder: Path) -> Path:
    if kind == "f16":
        return golden(f"ggml/T1_convert_f16/T1.p{min(int(pin[1]), 2)}.f16.bin")
    if kind != "f32":
        return golden(f"ggml/T1_quant_{pin}/T1.{kind}.bin")
    with plan_conversion(DATA / "T1_input", folder / "f32.bin", outtype="f32") as plan:
        plan.write()
    return folder / "f32.bin"


def check_group(pin: str, kind: str, golden, folder: Path, options: dict | None = None) -> None:
    """Every golden file of a model is recognised as its own era, build, cache and batches."""
    known: dict = {}
    for name in golden_names(pin, kind):
        path = golden(f"ggml/T1_logits_{pin}/{name}")
        tokens = MANIFESTS[pin]["tokens"]
        report = verify_logits(path, model_file(pin, kind, golden, folder), tokens, known=known, **(options or {}))
        _, _, _, build, cache, mode, _, _ = name.split(".")
        ways = [found.way for found in report.identical]
        wanted = (ERA_OF[pin], BUILD_OF[build], cache == "kv32")
        batch = 1 if mode == "loop" and build != "s" else None
        assert any((w.era, w.build, w.memory_f32) == wanted and w.batch == batch for w in ways), report.sentence()
        assert report.exit_code == 0
        for way in ways:  # and what is named beside it really coincides
            assert np.array_equal(known[way].view(np.uint32), np.fromfile(path, np.uint32).reshape(known[way].shape))


@pytest.mark.parametrize(("pin", "kind"), QUICK)
def test_golden_logits_are_recognised(pin, kind, golden, tmp_path):
    check_group(pin, kind, golden, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("pin", "kind"), GROUPS)
def test_all_golden_logits_are_recognised(pin, kind, golden, tmp_path):
    check_group(pin, kind, golden, tmp_path)


def test_where_builds_coincide_all_are_named(golden):
    name = "T1.p2.q4_0.v2.kv16.batch.t1.f32"
    model = golden("ggml/T1_quant_p2/T1.q4_0.bin")
    report = verify_logits(DATA / "T1_logits_p2" / name, model, MANIFESTS["p2"]["tokens"], era="2023-03-31")
    assert {found.way.build for found in report.identical} == {"avx2", "cmake-avx2"}
    assert "2023-03-31 avx2, f16 cache, all tokens at once" in report.sentence()


# Deviations on a random model.


@pytest.fixture
def model(tmp_path) -> Path:
    return write_random_model(tmp_path / "m.bin", Shape(n_layer=2), "q4_0")


def computed(model: Path, batch: int | None = None, tokens=TOKENS, **how) -> np.ndarray:
    with Model.from_file(model, numerics="exact", n_ctx=128, **how) as opened:
        return logits(opened, tokens, batch=batch)


def verified(values: np.ndarray, model: Path, tokens=TOKENS, **options):
    path = model.parent / "theirs.npy"
    write_logits(path, values)
    return verify_logits(path, model, tokens, **{"era": "2023-03-31", **options})


def test_the_last_token_alone_is_enough(model):
    report = verified(computed(model, build="avx2")[-1:], model)
    assert report.shape == (1, 61)
    assert any(found.way.build == "avx2" for found in report.identical)


def test_raw_files_are_read(model, tmp_path):
    values = computed(model)
    values.tofile(tmp_path / "theirs.bin")
    assert verify_logits(tmp_path / "theirs.bin", model, TOKENS, era="2023-03-31").exit_code == 0
    np.testing.assert_array_equal(read_logits(tmp_path / "theirs.bin", len(TOKENS), 61), values)


def test_the_precision_of_the_cache_is_told(model):
    report = verified(computed(model, memory_f32=True), model)
    assert [found.way.memory_f32 for found in report.identical] == [True]
    assert verified(computed(model, memory_f32=True), model, memory_f32=False).exit_code == 1


def test_other_batches_are_found_by_trying(tmp_path):
    model = write_random_model(tmp_path / "m.bin", Shape(n_layer=2), "f32")
    tokens = [3 + i % 50 for i in range(90)]
    values = computed(model, batch=16, build="avx2", memory_f32=True, tokens=tokens)
    report = verified(values, model, tokens, build="avx2")
    assert [found.way.batch for found in report.identical] == [16]
    assert report.causes == ["tokens were evaluated 16 at a time"]
    assert verified(values, model, tokens, build="avx2", batch=1).exit_code == 1


@pytest.mark.parametrize("operation", ["norm", "rotary embedding", "attention", "silu", "matrix products"])
def test_an_operation_done_otherwise_is_named(operation, model):
    with open_model(model) as file:
        exact, plain = (create_backend(name, file, era="2023-03-31") for name in ("exact", "reference"))
        values = logits(Model(file, Swapped(exact, plain, OPERATIONS[operation]), n_ctx=64), TOKENS)
        exact.close()
    report = verified(values, model, build="scalar", memory_f32=False)
    assert report.exit_code == 1
    assert f"{operation} in plain float32 arithmetic: identical then" in report.causes
    assert not any("identical then" in cause and not cause.startswith(operation) for cause in report.causes)


def test_two_deviations_are_not_called_one(model):
    with open_model(model) as file:
        exact, plain = (create_backend(name, file, era="2023-03-31") for name in ("exact", "reference"))
        values = logits(Model(file, Swapped(exact, plain, ("silu_mul", "attention")), n_ctx=64), TOKENS)
        exact.close()
    report = verified(values, model, build="scalar", memory_f32=False)
    assert report.exit_code == 1
    assert not any("identical then" in cause for cause in report.causes)


def test_the_token_where_they_part_is_told(model):
    values = computed(model)
    values[7:] += np.float32(0.25)
    report = verified(values, model)
    assert f"tokens 0 to 6 are identical; it differs from token 7 (id {TOKENS[7]}) on" in report.causes
    assert (report.closest.first_token, report.closest.same_tokens) == (7, 7)
    values = computed(model)
    values[3, 5] = np.nextafter(values[3, 5], np.float32(9))
    report = verified(values, model)
    assert f"only token 3 (id {TOKENS[3]}) differs" in report.causes
    assert (report.closest.different, report.closest.max_ulp) == (1, 1)
    assert report.plausible


def test_plain_arithmetic_is_plausible_and_nonsense_is_not(model):
    with Model.from_file(model, numerics="reference", n_ctx=64) as opened:
        plain = logits(opened, TOKENS)
    report = verified(plain, model)
    assert (report.exit_code, report.plausible) == (1, True)
    report = verified(np.random.default_rng(0).standard_normal(plain.shape).astype(np.float32), model)
    assert (report.exit_code, report.plausible) == (1, False)
    assert report.causes[-1].startswith("no single operation")


def test_ways_are_those_that_know_the_types(model, tmp_path):
    with open_model(model) as file:
        eras = {way.era for way in ways_of(file, 5)}
        assert eras == {"2023-03-19", "2023-03-30", "2023-03-31", "2023-04-30"}
    late = write_random_model(tmp_path / "late.bin", Shape(), "q5_1", "2023-08-21")
    with open_model(late) as file, pytest.raises(UsageError, match="no exact arithmetic 2023-03-31 runs"):
        list(ways_of(file, 5, era="2023-03-31"))


def test_bad_files_are_refused(model, tmp_path):
    for name, content in (("short.bin", b"\0" * 40), ("odd.bin", b"\0" * 41), ("x.npy", b"\x93NUMPY no array")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FormatError):
            verify_logits(tmp_path / name, model, TOKENS)
    np.save(tmp_path / "wide.npy", np.zeros((len(TOKENS), 61)))
    with pytest.raises(FormatError, match="not float32"):
        verify_logits(tmp_path / "wide.npy", model, TOKENS)
    with pytest.raises(FormatError, match="cannot be read"):
        verify_logits(tmp_path / "missing.npy", model, TOKENS)


def test_the_command(model, tmp_path, capsys):
    tokens = ",".join(map(str, TOKENS))
    asked = ["verify", "--logits", str(tmp_path / "theirs.npy"), "--model", str(model), "--tokens", tokens, "-q"]
    values = computed(model, build="avx2", batch=1)
    write_logits(tmp_path / "theirs.npy", values)
    assert cli.main(asked) == 0
    out = capsys.readouterr().out
    assert out.startswith("logits: identical bit for bit to ")
    assert "2023-03-31 avx2, f16 cache, batches of 1" in out
    values[2:] *= 2
    write_logits(tmp_path / "theirs.npy", values)
    assert cli.main([*asked, "--era", "2023-03-31", "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert (record["verdict"], record["closest"]["first_token"]) == ("differs", 2)
    assert cli.main([*asked, "--build", "avx2", "--batch", "1"]) == 1
    assert "likely cause: tokens 0 to 1 are identical" in capsys.readouterr().out
    assert cli.main(["verify", "--logits", "x.npy", "-q"]) == 2


WHOSE = {  # golden logits -> whose they are said to be
    "yarn-attn.transformers.npy": "what transformers computes, but for rounding",
    "yarn-attn.llamacpp.npy": "what llama.cpp computes, but for rounding",
    "bias.transformers.npy": "what llama.cpp computes, but for rounding",
    "yarn-mscale.transformers.npy": "nearest to what llama.cpp computes",  # GGUF has no place for mscale
}


@pytest.mark.parametrize("name", WHOSE)
def test_logits_of_a_model_of_today_are_one_program_s(name, vectors, tmp_path):
    case = name.split(".")[0]
    tokens = json.loads((vectors / "today-models/logits/manifest.json").read_text())["cases"][case]["tokens"]
    model, _ = huggingface_directory(vectors, case, tmp_path / case)
    with plan_conversion(model, tmp_path / "m.gguf", outtype="f32") as plan:
        plan.write()
    report = verify_logits(vectors / "today-models/logits" / name, tmp_path / "m.gguf", tokens)
    assert report.sentence().startswith(WHOSE[name])
    assert report.exit_code == ("but for rounding" not in WHOSE[name])
    assert ("transformers" in report.truths) == (case == "yarn-attn")
    told = [line for line in report.lines() if line.endswith("from what transformers computes")]
    assert len(told) == (case == "yarn-attn")
