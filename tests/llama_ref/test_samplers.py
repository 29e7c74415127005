"""The compiled choice of several texts against numpy's of each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy.formats.eras import AUGUST_21, MARCH_31, era_of
from llama_ref.arithmetic.exact import choosing
from llama_ref.text.samplers import Samplers
from llama_ref.text.sampling import Mt19937, Sampler, SamplingOptions

ERAS = [era_of(name) for name in ("p0", "p1", "p2", "p3", "p4", "p5")]
numbers = st.floats(-30, 30, width=32)
few = st.sampled_from([-1.5, -0.0, 0.0, 2.0, 1e38, -1e38])
N_VOCAB, N_CTX = 12, 7

options = st.builds(
    SamplingOptions,
    top_k=st.sampled_from([0, 1, 3, 12, 40]),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0, 2.0]),
    temp=st.sampled_from([0.0, 1e-42, 0.1, 0.8, 1.0, 3.0]),
    repeat_penalty=st.sampled_from([0.0, 0.7, 1.0, 1.1, 1e38]),
    repeat_last_n=st.sampled_from([0, 1, 3, 64, 10**30]),
    seed=st.integers(0, 2**32 - 1),
)
tokens = st.lists(st.integers(0, N_VOCAB - 1), max_size=2 * N_CTX)


def rows(values: st.SearchStrategy[float], n_texts: int) -> st.SearchStrategy[np.ndarray]:
    size = n_texts * N_VOCAB
    return st.lists(values, min_size=size, max_size=size).map(
        lambda listed: np.array(listed, np.float32).reshape(n_texts, N_VOCAB)
    )


class Alone:
    """A text that numpy goes on with."""

    def __init__(self, how: SamplingOptions, era: object, prompt: list[int]) -> None:
        self.sampler = Sampler(how, era)  # type: ignore[arg-type]
        self.recent = [0] * N_CTX + prompt

    def choose(self, logits: np.ndarray) -> int:
        token = self.sampler.choose(logits, self.recent[-N_CTX:]).token
        self.recent.append(token)
        return token


@pytest.mark.parametrize("era", ERAS, ids=lambda era: era.date)
@given(data=st.data())
def test_each_text_gets_the_tokens_that_it_gets_alone(era, data) -> None:
    n_texts = data.draw(st.integers(1, 3))
    samplers = Samplers(n_texts, n_vocab=N_VOCAB, n_ctx=N_CTX, era=era)
    alone = []
    for text in range(n_texts):
        how, prompt = data.draw(options), data.draw(tokens)
        samplers.begin(text, how, prompt)
        alone.append(Alone(how, era, prompt))
    for _ in range(4):
        texts = data.draw(st.permutations(range(n_texts)).map(lambda order: order[: len(order) // 2 + 1]))
        logits = data.draw(rows(numbers, len(texts)) | rows(few, len(texts)))
        chosen = samplers.choose(texts, list(logits))
        assert chosen == [alone[text].choose(row) for text, row in zip(texts, logits, strict=True)]


@pytest.mark.parametrize("era", ERAS, ids=lambda era: era.date)
def test_a_large_vocabulary_and_many_draws(era) -> None:
    """Beyond the 312 numbers after which the generator makes new words."""
    rng = np.random.default_rng(1)
    n_vocab = 3000
    samplers = Samplers(1, n_vocab=n_vocab, n_ctx=64, era=era)
    how = SamplingOptions(temp=1.3, seed=5)
    samplers.begin(0, how, [1, 2])
    sampler, recent = Sampler(how, era), [0] * 64 + [1, 2]
    for _ in range(400):
        logits = (rng.standard_normal(n_vocab) * 4).astype(np.float32)
        recent.append(sampler.choose(logits, recent[-64:]).token)
        assert samplers.choose([0], [logits]) == recent[-1:]


@pytest.mark.parametrize("era", [MARCH_31, AUGUST_21], ids=lambda era: era.date)
@pytest.mark.parametrize("top_k", [1, 2, 40, 374, 375, 2999, 3000])
@pytest.mark.parametrize("values", [3, 40, 1000, 10**6])
def test_equal_scores_of_a_large_vocabulary(era, top_k: int, values: int) -> None:
    rng = np.random.default_rng(2)
    samplers = Samplers(1, n_vocab=3000, n_ctx=8, era=era)
    for seed in range(8):
        how = SamplingOptions(top_k=top_k, top_p=1.0, temp=1e4, seed=seed)
        samplers.begin(0, how, [])
        logits = rng.integers(-values, values, 3000).astype(np.float32)
        assert samplers.choose([0], [logits]) == [Sampler(how, era).choose(logits, [0] * 8).token]


@given(st.integers(0, 2**32 - 1))
def test_the_compiled_twister_is_seeded_alike(seed: int) -> None:
    words = np.zeros(choosing.MT_WORDS + 1, np.uint32)
    choosing.seed_twister(words, seed)
    assert words.tolist() == Mt19937(seed).state.tolist()


def test_numbers_that_are_none_are_left_to_numpy() -> None:
    logits = np.array([np.nan, np.inf, 0.0, -np.inf], np.float32)
    samplers = Samplers(1, n_vocab=4, n_ctx=8, era=MARCH_31)
    samplers.begin(0, SamplingOptions(seed=3), [1])
    alone, recent = Sampler(SamplingOptions(seed=3)), [0] * 8 + [1]
    for _ in range(5):
        recent.append(alone.choose(logits, recent[-8:]).token)
        assert samplers.choose([0], [logits]) == recent[-1:]
