"""Drafts change neither the text nor a logit: whatever is proposed, whatever the sampler, wherever the context ends."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.bench_drafts import Told, counted, tasks
from benchmarks.make_model import FTYPES, random_model
from ggmlpy.files.errors import UsageError
from ggmlpy.formats.model_params import ModelParams
from llama_ref.text.conversation import Conversation
from llama_ref.text.drafts import Drafter, DraftModel, continuation
from llama_ref.text.model import Model
from llama_ref.text.sampling import SamplingOptions

WORDS = re.compile(r"[A-Za-z]+|\d|\s|.")


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
    assert continuation([1, 2, 3, 4, 9, 2, 3], 5) == ([4, 9, 2, 3], 2)
    assert continuation([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 2) == ([5, 1], 3)  # the last time
    assert continuation([8, 1, 2, 3, 4, 9, 1, 2, 5, 8, 1, 2], 2) == ([3, 4], 3)  # where more is the same
    assert continuation([1, 2, 3, 4, 5], 5) == ([], 0)
    assert continuation([7], 5) == ([], 0)
    assert continuation([1, 2, 1, 2], 0) == ([], 0)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 9))
def test_it_stood_there(tokens, most):
    found, same = continuation(tokens, most)
    assert bool(found) == (same >= 2)
    if found:
        last = tokens[-same:]
        places = [i for i in range(same, len(tokens)) if tokens[i - same : i] == last]
        assert any(tokens[i : i + most] == found for i in places)


def ids_of(*texts):
    """Words and characters as tokens; the same ones have the same number, mostly."""
    known: dict[str, int] = {}
    return [[3 + known.setdefault(word, len(known)) % 297 for word in WORDS.findall(text)] for text in texts]


@pytest.mark.parametrize(("name", "prompt", "answer"), [pytest.param(*task, id=task[0]) for task in tasks()])
def test_each_prompt_gives_the_same_text_and_logits(path, name, prompt, answer):
    """Whether the model is told the answer, so that drafts are right, or chooses by itself or by chance."""
    prompt, answer = ids_of(prompt, answer)
    with Model.from_file(path, numerics="fast", n_ctx=1024, n_threads=1) as model:
        for sampling in (None, SamplingOptions(temp=0.0), SamplingOptions(temp=0.9, seed=7)):
            found = []
            for draft in (0, 8):
                conversation = Conversation(model, draft=draft, sampling=sampling or SamplingOptions())
                if sampling is None:
                    conversation.sampler = Told(answer)
                conversation.take(prompt)
                conversation.evaluate()
                text, logits = [], []
                for _ in answer if sampling is None else range(40):
                    text.append(conversation.sample())
                    conversation.waiting.append(text[-1])
                    conversation.evaluate()
                    logits.append(conversation.logits.copy())
                found.append((text, np.array(logits).view(np.uint32)))
            assert found[0][0] == found[1][0]
            assert np.array_equal(found[0][1], found[1][1])


KINDS = {"quoting": 1.8, "editing": 1.8, "summarizing": 1.8, "others": 0.97}


@pytest.mark.parametrize(("name", "prompt", "answer"), [pytest.param(*task, id=task[0]) for task in tasks()])
def test_texts_that_repeat_the_prompt_gain_and_others_lose_nothing(name, prompt, answer):
    """As many evaluations as the policy asks for, words and characters being the tokens."""
    ids: dict[str, int] = {}
    texts = [[ids.setdefault(word, len(ids)) for word in WORDS.findall(text)] for text in (prompt, answer)]
    found = counted(*texts, most=8, step=0.2)
    assert found["gain"] >= KINDS[name.partition(":")[0]]


@pytest.mark.parametrize("step", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("n_different", [3, 10, 100])
def test_texts_that_only_seem_to_repeat_themselves_lose_little(step, n_different):
    """Chance repeats pairs of tokens all the time, and nothing follows from it."""
    chance = np.random.default_rng(n_different)
    for n in (100, 500):
        tokens = chance.integers(0, n_different, 300 + n).tolist()
        assert counted(tokens[:300], tokens[300:], most=8, step=step)["gain"] >= 0.97


def test_drafts_begin_again_where_a_text_begins_to_repeat_itself():
    chance = np.random.default_rng(1)
    noise = chance.integers(0, 4, 600).tolist()  # pairs that lead astray
    quoted = chance.integers(100, 9000, 200).tolist()
    assert counted([*quoted, *noise[:300]], noise[300:], most=8, step=0.25)["gain"] < 1.1
    assert counted([*quoted, *noise[:300]], [*noise[300:], *quoted], most=8, step=0.25)["gain"] > 1.2


def test_a_machine_on_which_further_tokens_cost_as_much_gets_no_drafts():
    tokens = list(range(400)) * 2
    found = counted(tokens[:500], tokens[500:], most=8, step=1.5)
    assert found["gain"] >= 0.97
    assert found["per pass"] < 1.2


def test_a_draft_model_that_is_wrong_is_asked_ever_less():
    class Wrong:
        def continuation(self, tokens, most):
            return [-1] * most

    drafter, drafts = Drafter(8, Wrong()), 0
    drafter.took_one(1.0)
    for token in range(1000):
        drafted = drafter.propose([*range(token)], 100)
        drafter.took(2.0) if drafted else drafter.took_one(1.0)
        drafts += bool(drafted)
        drafter.came(token)
    assert 1 < drafts < 20


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
