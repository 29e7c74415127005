"""A job's answer is the answer that it would get alone, whatever else goes on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy.files.errors import UsageError
from llama_ref.text.model import Model
from llama_ref.text.sampling import SamplingOptions, log_softmax_of
from llama_ref.text.stop_words import StopWords
from toolchain.serve.engine import Busy, Engine
from toolchain.serve.jobs import Finished, best_tokens

PROMPTS = ["介绍北京", "怎么做披萨？", "讲一个故事", "The capital of", "12加7等于多少？", "a"]


@given(st.lists(st.text("abE", max_size=5), max_size=12), st.lists(st.text("abE", min_size=1, max_size=3), max_size=3))
def test_stop_words_cut_where_the_whole_text_has_the_first_of_them(parts, words):
    stops, shown = StopWords(tuple(words)), ""
    for part in parts:
        shown += stops.feed(part)
        if stops.found:
            break
    shown += stops.rest()
    text = "".join(parts)
    places = [text.find(word) for word in words if word in text]
    assert stops.found == bool(places)
    # a longer word that began earlier may end after the shorter one was seen
    assert text.startswith(shown)
    assert not any(word in shown for word in words)


def test_a_job_says_what_the_model_says_alone(engine, heard):
    prompt = engine.tokenizer.encode_first("介绍北京")
    job = heard(prompt, sampling=SamplingOptions(seed=7), max_tokens=40, logprobs=0)
    engine.submit(job.job)
    end = job.end()
    tokens = list(engine.model.generate(prompt, max_tokens=40, sampling=SamplingOptions(seed=7)))
    assert job.text == "".join(token.text for token in tokens)
    assert [piece.token.id for piece in job.pieces] == [token.id for token in tokens]
    assert [piece.token.logprob for piece in job.pieces] == pytest.approx([token.logprob for token in tokens], abs=1e-9)
    assert (end.reason, end.completion_tokens) == ("stop", len(tokens))


def test_many_jobs_at_once_say_what_each_says_alone(engine, heard):
    def job(n: int) -> object:
        prompt = engine.tokenizer.encode_first(PROMPTS[n % len(PROMPTS)])
        return heard(prompt, sampling=SamplingOptions(seed=n), max_tokens=24)

    alone = []
    for n in range(18):
        one = job(n)
        engine.submit(one.job)
        one.end()
        alone.append(one.text)
    together = [job(n) for n in range(18)]
    engine.submit(*(one.job for one in together))
    for one in together:
        one.end()
    assert [one.text for one in together] == alone
    assert len(set(alone)) > 6


def test_what_a_cache_still_holds_is_not_read_again_and_gives_the_same(path, heard):
    with_reuse = Engine(Model.from_file(path, n_ctx=256, n_threads=1), places=1)
    try:
        text = "Below is an instruction. " * 5
        reused = []
        for question in ("one", "two", "one"):
            job = heard(with_reuse.tokenizer.encode_first(text + question), max_tokens=12)
            with_reuse.submit(job.job)
            end = job.end()
            fresh = list(with_reuse.model.generate(job.job.prompt, max_tokens=12))
            assert job.text == "".join(token.text for token in fresh)
            reused.append(end.reused_tokens)
        assert reused[0] == 0
        assert reused[1] > 20
    finally:
        with_reuse.close()


def test_a_prompt_is_scored_as_logits_say(engine, heard):
    prompt = engine.tokenizer.encode_first("北京是中国的首都，xyz. " * 60)[:200]
    assert len(prompt) > 128, "more than one batch"
    job = heard(prompt, max_tokens=0, logprobs=2, echo=True)
    engine.submit(job.job)
    assert job.end() == Finished("length", len(prompt), 0, seconds=pytest.approx(0, abs=60))
    logits = engine.model.evaluate(prompt, 0, cache=engine.model.new_cache())
    assert job.scored.tokens[0] is None
    for place, score in enumerate(job.scored.tokens[1:], 1):
        assert score.logprob == pytest.approx(log_softmax_of(logits[place - 1], prompt[place]), abs=1e-9)
        assert score.best[0][0] == int(np.argmax(logits[place - 1]))


def test_bias_and_penalties(engine, heard):
    prompt = engine.tokenizer.encode_first("介绍北京")
    wanted = engine.tokenizer.encode("你好")[-1]
    always = heard(prompt, max_tokens=5, bias={wanted: 100.0})
    never = heard(prompt, max_tokens=5, bias={wanted: 100.0}, frequency_penalty=2.0, presence_penalty=2.0)
    greedy = SamplingOptions(temp=0, repeat_penalty=1.0)
    always.job.sampling = never.job.sampling = greedy
    engine.submit(always.job, never.job)
    always.end(), never.end()
    assert [piece.token.id for piece in always.pieces] == [wanted] * 5
    assert [piece.token.id for piece in never.pieces] == [wanted] * 5, "100 outweighs 4 + 2 * 5"


def test_a_cancelled_job_makes_room(engine, heard):
    endless = [heard(engine.tokenizer.encode_first(f"{n}"), max_tokens=200) for n in range(3)]
    for each in endless:
        each.job.sampling = SamplingOptions(temp=0, repeat_penalty=1.0)
        each.job.bias = dict.fromkeys(engine.tokenizer.ends, -100.0)
    engine.submit(*(each.job for each in endless))
    for each in endless:
        each.first.wait(30)
        each.job.cancel()
    after = heard(engine.tokenizer.encode_first("a"), max_tokens=3)
    engine.submit(after.job)
    assert after.end().reason in ("length", "stop")
    assert {each.end().reason for each in endless} <= {"cancelled", "length"}


def test_a_full_queue_and_impossible_prompts_are_refused(engine, heard):
    with pytest.raises(Busy):
        engine.submit(*(heard([1], max_tokens=1).job for _ in range(33)))
    with pytest.raises(UsageError, match="300 tokens, the context 256"):
        engine.submit(heard([1] * 300).job)
    with pytest.raises(UsageError, match="empty"):
        engine.submit(heard([]).job)


def test_a_job_that_nobody_waits_for_leaves_the_queue(path, heard):
    engine = Engine(Model.from_file(path, n_ctx=256, n_threads=1), places=1, queue=2)
    try:
        prompt = engine.tokenizer.encode_first("x")
        working = heard(prompt, max_tokens=200, bias=dict.fromkeys(engine.tokenizer.ends, -100.0))
        engine.submit(working.job)
        working.first.wait(30)
        gone = [heard(prompt, max_tokens=1) for _ in range(2)]
        engine.submit(*(each.job for each in gone))
        for each in gone:
            each.job.cancel()
        engine.submit(heard(prompt, max_tokens=1).job, heard(prompt, max_tokens=1).job)
    finally:
        engine.close()


def test_a_mistake_ends_one_job_and_not_the_server(path, heard, monkeypatch):
    engine = Engine(Model.from_file(path, n_ctx=128, n_threads=1), places=1)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(engine.model, "evaluate", lambda *_, **__: [][1])
            broken = heard([1, 2], max_tokens=3)
            engine.submit(broken.job)
            assert "a mistake of the server: IndexError: list index" in broken.end().message
        whole = heard([1], max_tokens=3)
        engine.submit(whole.job)
        assert whole.end().reason in ("length", "stop")
    finally:
        engine.close()


def test_closing_cancels_what_is_left(path, heard):
    closing = Engine(Model.from_file(path, n_ctx=128, n_threads=1), places=1)
    jobs = [heard(closing.tokenizer.encode_first("x"), max_tokens=100) for _ in range(3)]
    closing.submit(*(each.job for each in jobs))
    closing.close()
    assert [each.end().reason for each in jobs][-1] == "cancelled"
    with pytest.raises(Busy):
        closing.submit(heard([1]).job)


def test_the_best_tokens_of_equal_logits_are_in_the_order_of_their_ids():
    scored = best_tokens(np.array([1, 3, 3, 2], np.float32), 0, 3)
    assert [token for token, _ in scored.best] == [1, 2, 3]
    assert sum(np.exp(value) for _, value in scored.best) + np.exp(scored.logprob) == pytest.approx(1)
