"""The exact backend against the real llama.cpp's logits, bit for bit, and its invariants on random models."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggmlpy.files.errors import UsageError
from ggmlpy.formats.eras import ERAS
from llama_ref.arithmetic.exact.backend import half_tables, rules_of
from llama_ref.arithmetic.exact.offered import BUILDS, SUPPORTED
from llama_ref.conversion.converting import plan_conversion
from llama_ref.text.logits import logits
from llama_ref.text.model import Model
from tests.llama_ref.random_models import Shape, write_random_model

DATA = Path(__file__).resolve().parent.parent / "data" / "ggml"
BUILD_OF = {"s": "scalar", "v2": "avx2", "v5": "avx512"}
ERA_OF = {era.pin: era.date for era in ERAS.values()}
MANIFESTS = {pin: json.loads((DATA / f"T1_logits_{pin}" / "manifest.json").read_text()) for pin in ERA_OF}
FILES = [name for manifest in MANIFESTS.values() for name in manifest["files"]]
TYPES = {date: [t for t in era.type_names if not t.endswith("K")] for date, era in ERAS.items()}


@pytest.fixture(scope="session")
def model_of(tmp_path_factory, golden):
    """The T1 model file of a pin and a type: f32 and f16 run at every era, so one file of each will do."""
    folder = tmp_path_factory.mktemp("T1")

    def find(pin: str, kind: str) -> Path:
        if kind == "f16":
            return golden("ggml/T1_convert_f16") / "T1.p2.f16.bin"
        if kind != "f32":
            return golden(f"ggml/T1_quant_{pin}/T1.{kind}.bin")
        path = folder / "T1.f32.bin"
        if not path.exists():
            with plan_conversion(DATA / "T1_input", path, outtype="f32") as plan:
                plan.write()
        return path

    return find


@pytest.mark.parametrize("name", FILES)
def test_equals_llama_cpp(name, model_of, golden):
    _, pin, kind, build, cache, mode, _, _ = name.split(".")
    manifest = MANIFESTS[pin]
    how = {"numerics": "exact", "era": ERA_OF[pin], "build": BUILD_OF[build], "memory_f32": cache == "kv32"}
    with Model.from_file(model_of(pin, kind), n_ctx=128, **how) as model:
        ours = logits(model, manifest["tokens"], batch=1 if mode == "loop" else None)
    if hashlib.sha256(ours.tobytes()).hexdigest() != manifest["files"][name]["sha256"]:
        theirs = np.fromfile(golden(f"ggml/T1_logits_{pin}/{name}"), np.float32).reshape(ours.shape)
        differing = np.count_nonzero(ours.view(np.uint32) != theirs.view(np.uint32))
        pytest.fail(f"{differing} of {ours.size} floats differ, by {np.abs(ours - theirs).max():.3g} at most")


def test_every_era_and_build_offered_is_covered():
    covered = {(ERA_OF[name.split(".")[1]], BUILD_OF[name.split(".")[3]]) for name in FILES}
    offered = {(era, build) for era, builds in SUPPORTED.items() for build in builds}
    assert offered - covered == {("2023-03-31", "cmake-avx2")}  # see test_cmake_build


def test_tables_equal_llama_cpp(data):
    exp, silu = half_tables(rules_of("2023-03-31", "scalar"))
    for name, ours in (("exp", exp), ("silu", silu)):
        theirs = np.fromfile(data / "ggml" / "tables" / f"table_{name}_f16.u16", "<u2").view(np.float16)
        numbers = ~np.isnan(theirs)
        np.testing.assert_array_equal(ours[numbers], theirs.astype(np.float32)[numbers])


# type, memory_f32, batch: sha256 of the real CMake build's logits of T1, for the tokens of the manifest
# fmt: off
CMAKE = [
    ("f32", False, 1, "f6ddfe4d6cdfb6e9f87032a52a84caf54ea814924193bf9f93d212a91d7d03df"),
    ("f32", False, 8, "24c8aba14c31fb9dc07e4f98f9d53541de335a272a53c4be07634f5ffd2bee5e"),
    ("f32", False, None, "b5817a90511c1006d4e8d6a60c3078946bb2e88744a7dd0220bdc5aa08425348"),
    ("f32", True, 1, "43ba291849ed0c7655360c1152ab98f4e623235eecc0e7d0d044ebb2f48d39dc"),
    ("f32", True, 8, "a845cba71935cb379e54d1f34622a09ba49a144c86898fd194cfb8fba5471093"),
    ("f32", True, None, "97a08aa97b2f298ff5e7d7230035f16ac84870cd6f8634df19af65421758c2e9"),
    ("f16", False, 1, "c9448abed6d99fb2d3837ea780f5ea471f77943d1b73759524c148cccbb27688"),
    ("f16", False, 8, "c9448abed6d99fb2d3837ea780f5ea471f77943d1b73759524c148cccbb27688"),
    ("f16", False, None, "a15c44b94fc1e5aa4e9d3c3cfec106e04590e42f5043fe56a700eaf7af301210"),
    ("f16", True, 1, "2c1b7c5475a5b215b47b400461a48ee0aa60d5b30e2c651abb1585a8efe0839a"),
    ("f16", True, 8, "2c1b7c5475a5b215b47b400461a48ee0aa60d5b30e2c651abb1585a8efe0839a"),
    ("f16", True, None, "2c1b7c5475a5b215b47b400461a48ee0aa60d5b30e2c651abb1585a8efe0839a"),
    ("q4_0", False, 1, "311f4759f767a1569d41455d7d555bc50e6db990460ff99d60d42618e55ee551"),
    ("q4_0", False, 8, "311f4759f767a1569d41455d7d555bc50e6db990460ff99d60d42618e55ee551"),
    ("q4_0", False, None, "bba0ed55a6edba80fd0f2e0454674dec98875210e78fb368cd5482922434eca8"),
    ("q4_0", True, 1, "8ea444b664d40900e59703466dcd5466b84053f2ddc675c7114c45743b213006"),
    ("q4_0", True, 8, "cfda11567174bf582ed9d2f20db45b8f6299aa41c908b83b5eeebbcd829097b4"),
    ("q4_0", True, None, "e32b4f9874697aeb0890e434b86025746cbf22eb52e9b8bf1af73138c1a36dda"),
    ("q4_1", False, 1, "caeca10d450954e34a2448f4a057fb848aeee57c8de9cdfc088dce9642c43ba3"),
    ("q4_1", False, 8, "d9509ab4681e5b8148f27784dd907faa0d0a8094dbe117be34d7bcb9a4ec625d"),
    ("q4_1", False, None, "0bb0a4de82465af163864058c46487dc5e6770b77b3f4e70f5043568e2d1ebb7"),
    ("q4_1", True, 1, "1ceaceb2fb3aa92af235a585bf2b74d8c424d07920100b9b6cdc18725b0114ed"),
    ("q4_1", True, 8, "f36eed7a170bee786ece732d684f336bec32fe6ce48f9fa657135d472939193d"),
    ("q4_1", True, None, "c5ad40f0e69c9296e1f9ce504a2760391b88aab848e9c98bf7a4a5f86481f997"),
]
# fmt: on


@pytest.mark.parametrize(("kind", "memory_f32", "batch", "sha256"), CMAKE)
def test_cmake_build(kind, memory_f32, batch, sha256, model_of):
    how = {"numerics": "exact", "build": "cmake-avx2", "memory_f32": memory_f32, "n_ctx": 128}
    with Model.from_file(model_of("p2", kind), **how) as model:
        ours = logits(model, MANIFESTS["p2"]["tokens"], batch=batch)
    assert hashlib.sha256(ours.tobytes()).hexdigest() == sha256


SHAPE_CASES = json.loads((DATA / "logits_shapes.json").read_text())


def case_name(case):
    heads = "x".join(map(str, case["shape"][:2]))
    cache = "kv32" if case["memory_f32"] else "kv16"
    return f"{case['era']}-{case['build']}-{case['kind']}-{heads}-{cache}-{case['batch']}-{case['seed']}"


@pytest.mark.parametrize("case", SHAPE_CASES, ids=case_name)
def test_equals_llama_cpp_in_other_shapes(case, tmp_path):
    """Heads of 32, 64, 80 and 128, odd vocabularies, widths of any number of blocks; k-quants too."""
    shape = Shape(*case["shape"])
    path = write_random_model(tmp_path / "m.bin", shape, case["kind"], case["era"])
    rng = np.random.RandomState(case["seed"])
    tokens = [1, *rng.randint(3, shape.n_vocab, case["n_tokens"] - 1).tolist()]
    how = {name: case[name] for name in ("era", "build", "memory_f32")}
    with Model.from_file(path, numerics="exact", n_ctx=128, **how) as model:
        ours = logits(model, tokens, batch=case["batch"])
    assert hashlib.sha256(ours.tobytes()).hexdigest() == case["sha256"]


@pytest.mark.slow
def test_same_bits_without_avx(model_of, tmp_path):
    """Everything again on a processor that has neither AVX nor fused multiply-add."""
    names = [name for name in FILES if ".p2." in name or ".p5.q5_1" in name]
    environment = os.environ | {
        "NUMBA_CPU_NAME": "x86-64",
        "NUMBA_CPU_FEATURES": "+sse2",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    wanted = " or ".join(name.removeprefix("T1.").removesuffix(".f32") for name in names)
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-k", wanted, "-p", "no:cacheprovider"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


# Invariants on random models.

SHAPES = st.builds(
    Shape,
    n_head=st.integers(1, 3),
    head_dim=st.sampled_from([32, 64, 96, 128]),
    n_layer=st.integers(1, 2),
    n_vocab=st.integers(5, 70),
    n_mult=st.sampled_from([32, 64, 160]),
)


def run(path, tokens, splits=(), **how):
    """Logits of `tokens`, evaluated in batches that end at `splits`."""
    with Model.from_file(path, n_ctx=len(tokens) + 3, **how) as model:
        edges = sorted({0, *splits, len(tokens)})
        return np.concatenate([model.evaluate(tokens[a:b], a) for a, b in pairwise(edges)])


@st.composite
def cases(draw, builds=BUILDS):
    era = draw(st.sampled_from(sorted(ERAS)))
    build = draw(st.sampled_from([b for b in SUPPORTED[era] if b in builds]))
    kind = draw(st.sampled_from(TYPES[era]))
    shape = draw(SHAPES)
    tokens = draw(st.lists(st.integers(0, shape.n_vocab - 1), min_size=1, max_size=40))
    splits = draw(st.sets(st.integers(1, len(tokens)), max_size=4))
    how = {"numerics": "exact", "era": era, "build": build, "memory_f32": draw(st.booleans())}
    return era, kind, shape, tokens, splits, how


@settings(max_examples=30)
@given(cases(builds=("scalar",)))
def test_scalar_builds_do_not_depend_on_batches(tmp_path_factory, case):
    era, kind, shape, tokens, splits, how = case
    path = write_random_model(tmp_path_factory.mktemp("m") / "m.bin", shape, kind, era)
    np.testing.assert_array_equal(run(path, tokens, splits, **how), run(path, tokens, **how))


@settings(max_examples=20)
@given(cases(), st.integers(2, 5))
def test_threads_change_nothing(tmp_path_factory, case, n_threads):
    era, kind, shape, tokens, splits, how = case
    if era == "2023-03-19":
        return  # there they did: llama.cpp of that day summed the values of each thread apart
    path = write_random_model(tmp_path_factory.mktemp("m") / "m.bin", shape, kind, era)
    one = run(path, tokens, splits, n_threads=1, **how)
    np.testing.assert_array_equal(run(path, tokens, splits, n_threads=n_threads, **how), one)


@settings(max_examples=30)
@given(cases())
def test_agrees_with_the_reference(tmp_path_factory, case):
    """f32 and f16 weights within rounding; eight-bit activations within 5 % of the logits' spread."""
    era, kind, shape, tokens, splits, how = case
    if kind in ("q4_0", "q4_1") and era < "2023-04":
        return  # activations in four bits: close to the reference only in the mean, see below
    path = write_random_model(tmp_path_factory.mktemp("m") / "m.bin", shape, kind, era)
    exact = run(path, tokens, splits, **how)
    reference = run(path, tokens, splits, numerics="reference", memory_f32=how["memory_f32"])
    tolerance = {"f32": 0.01, "f16": 0.02}.get(kind, 0.1)  # the exp and silu tables hold f16: 3 digits
    assert np.sqrt(np.mean((exact - reference) ** 2)) <= tolerance * reference.std()


def test_four_bit_activations_stay_near_the_reference(tmp_path):
    tokens = list(range(3, 43))
    path = write_random_model(tmp_path / "m.bin", Shape(n_head=4, head_dim=64), "q4_0")
    reference = run(path, tokens, numerics="reference")
    for build in BUILDS:
        exact = run(path, tokens, numerics="exact", build=build)
        assert np.corrcoef(exact.ravel(), reference.ravel())[0, 1] > 0.95


def test_simd_builds_depend_on_batches(tmp_path):
    """The product with the values runs over masked zeros too, so a batch moves terms to other lanes."""
    tokens = list(range(3, 60))
    path = write_random_model(tmp_path / "m.bin", Shape(n_layer=2))
    how = {"numerics": "exact", "build": "avx2", "memory_f32": True}
    whole, single = (run(path, tokens, splits, **how) for splits in ((), range(1, len(tokens))))
    assert not np.array_equal(whole, single)
    np.testing.assert_allclose(whole, single, atol=0.05)


# Refusals.


def test_refuses_builds_it_does_not_have(tmp_path):
    path = write_random_model(tmp_path / "m.bin", Shape())
    with pytest.raises(UsageError, match="no build called 'sse'; there are scalar, avx2, avx512, cmake-avx2"):
        Model.from_file(path, numerics="exact", build="sse")
    with pytest.raises(UsageError, match=r"era 2023-05-19 is not offered for build avx512, only for scalar, avx2"):
        Model.from_file(path, numerics="exact", era="2023-05-19", build="avx512")


def test_refuses_types_the_era_did_not_know(tmp_path):
    path = write_random_model(tmp_path / "m.bin", Shape(), "q5_1", "2023-05-19")
    with pytest.raises(
        UsageError, match=r"2023-03-31 could not read tok_embeddings\.weight: its blocks are q5_1-2023-05"
    ):
        Model.from_file(path, numerics="exact", era="2023-03-31")


def test_refuses_an_unknown_era_and_unknown_numerics(tmp_path):
    path = write_random_model(tmp_path / "m.bin", Shape())
    with pytest.raises(UsageError, match="unknown era '2022-01-01'"):
        Model.from_file(path, numerics="exact", era="2022-01-01")
    with pytest.raises(UsageError, match="no numerics called 'quick'; there are fast, reference and exact"):
        Model.from_file(path, numerics="quick")
