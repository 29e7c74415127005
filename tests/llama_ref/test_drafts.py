"""Drafts change neither the text nor a logit: whatever is proposed, whatever the sampler, wherever the context ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.make_model import FTYPES, random_model
from ggmlpy.files.errors import UsageError
from ggmlpy.formats.model_params import ModelParams
from llama_ref.text.conversation import Conversation
from llama_ref.text.drafts import Drafter, DraftModel, continuation
from llama_ref.text.model import Model
from llama_ref.text.sampling import SamplingOptions


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    target = tmp_path_factory.mktemp("m") / "m.bin"
    random_model(target, ModelParams.from_header(300, 64, 32, 2, 2, 32, FTYPES["q4_0"]), version=3)
    return target


def told(model, tokens, n, **options):
    """Tokens, logits and evaluations."""
    calls, seen = [], []
    conversation = Conversation(model, on_sample=lambda sample, logits: seen.append(logits.copy()), **options)
    evaluate = model.evaluate
    model.evaluate = lambda batch, *args, **kwargs: calls.append(len(batch)) or evaluate(batch, *args, **kwargs)
    try:
        text = [token.id for token in conversation.say(tokens, max_tokens=n)]
    finally:
        del model.evaluate
    return text, np.array(seen), calls, conversation


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(3, 299), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.8, 1.5]),
    st.sampled_from([1, 3, 8, 20]),
    st.integers(1, 1000),
)
def test_the_text_and_all_logits_are_the_same(path, tokens, temperature, draft, seed):
    sampling = SamplingOptions(temp=temperature, seed=seed, repeat_penalty=1.0, top_k=3)
    with Model.from_file(path, numerics="fast", n_ctx=48, n_threads=1) as model:
        options = {"sampling": sampling, "ignore_eos": True, "n_keep": 2}
        plain, logits, _, _ = told(model, tokens * 3, 70, **options)  # longer than the context
        drafted, same, _, _ = told(model, tokens * 3, 70, draft=draft, **options)
    assert drafted == plain
    assert np.array_equal(same.view(np.uint32), logits.view(np.uint32))


def test_a_text_that_repeats_itself_takes_fewer_evaluations(path):
    sampling = SamplingOptions(temp=0.0, repeat_penalty=1.0)
    with Model.from_file(path, numerics="fast", n_ctx=256, n_threads=1) as model:
        _, _, plain, _ = told(model, [5, 6, 7] * 6, 200, sampling=sampling, ignore_eos=True)
        text, _, calls, conversation = told(model, [5, 6, 7] * 6, 200, sampling=sampling, ignore_eos=True, draft=8)
    assert len(text) == 200
    assert len(calls) < 0.9 * len(plain)
    assert conversation.timings.generation_tokens == 199
    assert conversation.n_past == 18 + 199


def test_a_conversation_with_drafts_is_saved_and_resumed(path, tmp_path):
    sampling = SamplingOptions(temp=0.0, repeat_penalty=1.0)
    with Model.from_file(path, numerics="fast", n_ctx=256, n_threads=1) as model:
        whole = told(model, [5, 6, 7] * 6, 60, sampling=sampling, ignore_eos=True)[0]
        first, _, _, conversation = told(model, [5, 6, 7] * 6, 30, sampling=sampling, ignore_eos=True, draft=8)
        conversation.save(tmp_path / "c.npz")
        again = Conversation.resume(tmp_path / "c.npz", model)
        assert first + [token.id for token in again.say(max_tokens=30)] == whole


def test_drafts_need_the_fast_arithmetic(path):
    with Model.from_file(path, numerics="reference") as model, pytest.raises(UsageError, match="numerics fast"):
        Conversation(model, draft=4)
    with Model.from_file(path) as model, pytest.raises(UsageError, match="at least 0"):
        Conversation(model, draft=-1)


def test_what_followed_before_is_proposed():
    assert continuation([1, 2, 3, 4, 9, 2, 3], 5) == [4, 9, 2, 3]
    assert continuation([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 2) == [5, 1]  # the last time
    assert continuation([1, 2, 3, 4, 5], 5) == []
    assert continuation([7], 5) == []
    assert continuation([1, 2, 1, 2], 0) == []


def test_drafts_that_lose_time_rest_longer_and_longer():
    drafter, text, drafts = Drafter(8), [1, 2, 3, 1, 2], 0
    drafter.took_one(1.0)
    for _ in range(1000):
        drafted = drafter.propose(text, 100)
        drafter.took(2.0) if drafted else drafter.took_one(1.0)
        if drafted:
            drafts += 1
            drafter.ended(0, len(drafted))
    assert 3 < drafts < 20


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Half as many layers, the same vocabulary."""
    target = tmp_path_factory.mktemp("m") / "small.bin"
    random_model(target, ModelParams.from_header(300, 32, 32, 2, 1, 16, FTYPES["q4_0"]), version=3, seed=5)
    return target


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(3, 299), min_size=1, max_size=9), st.sampled_from([0.0, 0.8]), st.sampled_from([1, 4, 9]))
def test_a_draft_model_changes_neither_text_nor_logits(path, small, tokens, temperature, draft):
    """Another model is mostly wrong, the model itself mostly right."""
    sampling = SamplingOptions(temp=temperature, seed=3, repeat_penalty=1.0, top_k=3)
    options = {"sampling": sampling, "ignore_eos": True, "n_keep": 2}
    for other in (small, path):
        with (
            Model.from_file(path, numerics="fast", n_ctx=48, n_threads=1) as model,
            Model.from_file(other, numerics="fast", n_ctx=48, n_threads=1) as draft_model,
        ):
            plain, logits, _, _ = told(model, tokens, 60, **options)
            drafted, same, _, _ = told(model, tokens, 60, draft=draft, draft_model=draft_model, **options)
        assert drafted == plain
        assert np.array_equal(same.view(np.uint32), logits.view(np.uint32))


def test_a_draft_model_continues_as_it_would_alone(path):
    with Model.from_file(path, numerics="fast", n_ctx=48, n_threads=1) as model:
        text, drafts = [5, 6, 7], DraftModel(model)
        for n_known in (3, 5, 4, 1):  # on with the draft, with a part of it, from far before
            alone = [*text[:n_known]]
            while len(alone) < n_known + 3:
                alone.append(int(model.evaluate(alone, 0, last_only=True).argmax()))
            drafted = drafts.continuation(text[:n_known], 3)
            assert drafted
            assert drafted == alone[n_known:][: len(drafted)]
            text = alone


def test_a_draft_model_needs_the_same_vocabulary_and_context(path, tmp_path):
    random_model(tmp_path / "o.bin", ModelParams.from_header(301, 64, 32, 2, 1, 32, FTYPES["q4_0"]), version=3)
    with Model.from_file(path, n_ctx=48) as model:
        with (
            Model.from_file(tmp_path / "o.bin", n_ctx=48) as other,
            pytest.raises(UsageError, match="301 pieces"),
        ):
            Conversation(model, draft=4, draft_model=other)
        with Model.from_file(path, n_ctx=32) as other, pytest.raises(UsageError, match="a context of 32"):
            Conversation(model, draft=4, draft_model=other)
