"""Sampling against llama.cpp's own choices, era by era, and against definitions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy.files.errors import FormatError, UsageError
from llama_ref.arithmetic.exact.expf import _fused, expf
from llama_ref.arithmetic.exact.std_sort import partial_sort, sort
from llama_ref.text.model import Model
from llama_ref.text.sampling import Mt19937, Sampler, SamplingOptions, _top_k, largest, log_softmax_of

ROWS = json.loads((Path(__file__).parents[1] / "data" / "ggml" / "sample_eras.json").read_text())["rows"]
ERAS = ("p0", "p1", "p2", "p3", "p4", "p5")
finite = st.floats(-30, 30, width=32)
logits_arrays = st.lists(finite, min_size=2, max_size=40).map(lambda values: np.array(values, np.float32))


@pytest.fixture(scope="module")
def models(golden) -> Callable[[str], Model]:
    @cache
    def model(pin: str) -> Model:
        path = golden(f"ggml/T1_quant_{pin}/T1.q4_0.bin")
        eps = 5e-6 if pin == "p5" else 1e-6
        return Model.from_file(path, numerics="exact", era=pin, memory_f32=pin == "p0", norm_eps=eps)

    return model


def sampled(model: Model, row: dict) -> list[int]:
    names = ("top_k", "top_p", "temp", "repeat_penalty", "repeat_last_n", "seed")
    sampler = Sampler(SamplingOptions(**{name: row[name] for name in names}), row["pin"])
    recent, tokens, n_past = [0] * 512 + row["prompt"], list(row["prompt"]), 0
    while len(recent) < 512 + len(row["prompt"]) + len(row["tokens"]):
        for start in range(0, len(tokens), 8):
            logits = model.evaluate(tokens[start : start + 8], n_past, last_only=True)
            n_past += len(tokens[start : start + 8])
        tokens = [sampler.choose(logits, recent).token]
        recent += tokens
    return recent[512 + len(row["prompt"]) :]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['pin']}-k{row['top_k']}-t{row['temp']}")
def test_the_tokens_that_llama_cpp_chose(models: Callable[[str], Model], row: dict) -> None:
    assert sampled(models(row["pin"]), row) == row["tokens"]


def test_partial_sort_of_libstdcxx(data: Path) -> None:
    for case in json.loads((data / "ggml" / "partial_sort.json").read_text())["cases"]:
        scores, k = case["scores"], case["k"]
        assert _top_k(np.array(scores, np.float32), k).tolist() == case["order"]
        if k:
            assert partial_sort(scores, k).tolist() == case["order"]


def test_sort_of_libstdcxx(data: Path) -> None:
    for case in json.loads((data / "ggml" / "sort.json").read_text())["cases"]:
        assert sort(case["scores"]).tolist() == case["order"]


@given(st.lists(finite, min_size=1, max_size=60, unique=True), st.data())
def test_without_ties_it_is_any_sort(scores: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(scores)))
    expected = sorted(range(len(scores)), key=lambda i: -scores[i])[:k]
    assert partial_sort(scores, k).tolist() == expected
    assert sort(scores).tolist()[:k] == expected
    assert _top_k(np.array(scores, np.float32), k).tolist() == expected


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, -math.inf, math.inf]), min_size=1, max_size=40), st.data())
def test_with_ties_it_is_still_the_largest_in_order(scores: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(scores)))
    order = partial_sort(scores, k).tolist()
    assert [scores[i] for i in sort(scores)] == sorted(scores, reverse=True)
    assert [scores[i] for i in order] == sorted(scores, reverse=True)[:k]
    assert len(set(order)) == k
    assert _top_k(np.array(scores, np.float32), k).tolist() == order


def test_the_mersenne_twister_of_the_standard() -> None:
    rng = Mt19937(5489)
    for _ in range(9999):
        rng.draw()
    assert rng.draw() == 4123659995  # [rand.predef] of the C++ standard


@given(st.integers(0, 2**32 - 1))
def test_its_state_can_be_kept(seed: int) -> None:
    rng, other = Mt19937(seed), Mt19937(0)
    rng.draw()
    other.state = rng.state
    assert [rng.canonical() for _ in range(3)] == [other.canonical() for _ in range(3)]


def test_a_state_of_another_length_is_refused() -> None:
    with pytest.raises(FormatError, match="625"):
        Mt19937(0).state = np.zeros(3, np.uint32)


def test_a_position_beyond_the_state_is_refused() -> None:
    rng = Mt19937(0)
    words = rng.state
    words[624] = 625
    with pytest.raises(FormatError, match="position"):
        rng.state = words


@given(logits_arrays, st.sampled_from(ERAS), st.integers(0, 50), st.floats(0, 1), st.floats(0.1, 3))
def test_every_choice_is_one_of_the_candidates(logits, era: str, top_k: int, top_p: float, temp: float) -> None:
    sample = Sampler(SamplingOptions(top_k=top_k, top_p=top_p, temp=temp), era).choose(logits, [0, 1])
    assert sample.token in sample.candidates
    assert len(sample.candidates) == len(sample.probabilities) >= 1
    assert abs(float(sample.probabilities.sum()) - 1) < 1e-3
    assert (sample.draw is None) == (len(sample.candidates) == 1)


@given(
    st.lists(st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1e38]), min_size=2, max_size=20),
    st.sampled_from(ERAS),
)
def test_broken_logits_do_not_break_it(values: list[float], era: str) -> None:
    sample = Sampler(SamplingOptions(), era).choose(np.array(values, np.float32), [0])
    assert 0 <= sample.token < len(values)


@given(logits_arrays, st.sampled_from(ERAS))
def test_temperature_0_takes_the_first_of_the_largest(logits, era: str) -> None:
    options = SamplingOptions(temp=0, repeat_penalty=1.0)
    assert Sampler(options, era).choose(logits, []).token == int(np.argmax(logits))


@given(logits_arrays)
def test_only_the_last_tokens_are_penalized(logits) -> None:
    options = SamplingOptions(repeat_last_n=2, seed=7)
    long, short = (Sampler(options).choose(logits, recent) for recent in ([1, 1, 1, 0, 0], [0, 0]))
    assert long.token == short.token
    assert long.probabilities.tolist() == short.probabilities.tolist()


@pytest.mark.parametrize("bad", [{"top_k": -1}, {"repeat_last_n": -1}, {"temp": math.nan}])
def test_senseless_options_are_refused(bad: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        SamplingOptions(**bad)


@given(st.lists(st.floats(-110, 95, width=32), min_size=1, max_size=50))
def test_expf_is_the_compiled_one(values: list[float]) -> None:
    from llama_ref.arithmetic.exact import libm

    x = np.array(values, np.float32)
    assert expf(x).view(np.uint32).tolist() == libm.expf(x).view(np.uint32).tolist()


def test_the_fused_fallback_of_expf_is_right_everywhere() -> None:
    x = np.random.default_rng(1).uniform(-103, 88, 2000).astype(np.float32)
    assert [_fused(float(value)) for value in x] == expf(x).tolist()


@given(logits_arrays, st.integers(0, 1))
def test_logprob_is_that_of_the_whole_vocabulary(logits, token: int) -> None:
    expected = np.exp(logits.astype(np.float64) - logits.max())
    assert math.isclose(log_softmax_of(logits, token), math.log(expected[token] / expected.sum()), abs_tol=1e-6)


@given(st.integers(1, 5), st.integers(1, 700), st.integers(0, 2**32 - 1), st.sampled_from([3, 50, 100_000]))
def test_the_largest_scores_are_those_of_a_sort(k, n, seed, values):
    """With strips and without, with ties and without."""
    scores = np.random.default_rng(seed).integers(0, values, max(n, k)).astype(np.float32)
    kth = np.sort(scores)[-k]
    assert largest(scores, k).tolist() == np.flatnonzero(scores >= kth).tolist()
