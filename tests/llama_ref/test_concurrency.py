"""One model used by several threads, by conversations in turns, by a forked child, and after it was closed."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggmlpy.files.errors import UsageError
from llama_ref.text.conversation import Conversation
from llama_ref.text.model import Model
from llama_ref.text.sampling import SamplingOptions
from tests.conftest import ROOT
from tests.llama_ref.random_models import Shape, write_random_model

PROMPTS = ([1, 5, 9, 13], [1, 40, 41], [1, 2, 3, 4, 5, 6, 7])
NUMERICS = ["fast", "reference", "exact"]
CHILD_SECONDS = 60


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_random_model(tmp_path_factory.mktemp("model") / "m.bin", Shape(n_layer=2), "q4_0")


def open_one(path, numerics, n_threads=2):
    return Model.from_file(path, numerics=numerics, n_ctx=32, n_threads=n_threads)


def text(model, prompt, n=12):
    """Longer than the context once, so that it is swapped too."""
    return [token.id for token in model.generate(prompt, max_tokens=n, sampling=SamplingOptions(seed=3))]


def race(model, rounds, n=12):
    """Texts of as many threads as there are prompts, which begin together: [prompt][round]."""
    start = threading.Barrier(len(PROMPTS))

    def texts(prompt):
        start.wait(20)
        return [text(model, prompt, n) for _ in range(rounds)]

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        return [future.result(CHILD_SECONDS * 10) for future in [pool.submit(texts, prompt) for prompt in PROMPTS]]


@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize("n_threads", [1, 3])
def test_threads_that_share_a_model_get_the_texts_that_they_would_get_alone(path, numerics, n_threads):
    with open_one(path, numerics, n_threads) as model:
        raced = race(model, 3)  # a fresh model: even its first use is shared
        assert raced == [[text(model, prompt)] * 3 for prompt in PROMPTS]


@pytest.mark.slow
@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize("n_threads", range(1, 9))
def test_hundreds_of_rounds_of_threads_that_share_a_model(path, numerics, n_threads):
    with open_one(path, numerics, n_threads) as model:
        alone = [text(model, prompt, 40) for prompt in PROMPTS]
        assert race(model, 100, 40) == [[each] * 100 for each in alone]


@pytest.mark.parametrize("numerics", NUMERICS)
def test_evaluations_by_threads_with_caches_of_their_own(path, numerics):
    """Batches of one token and of many, with one row of logits and with all: nobody writes into another's."""
    with open_one(path, numerics) as model:
        alone = [model.evaluate(prompt, 0).tobytes() for prompt in PROMPTS]

        def evaluate(prompt):
            cache = model.new_cache()
            for _ in range(20):
                model.evaluate(prompt[:1], 0, last_only=True, cache=cache)
                rows = model.evaluate(prompt, 0, cache=cache)
            return rows.tobytes()

        with ThreadPoolExecutor(len(PROMPTS)) as pool:
            assert list(pool.map(evaluate, PROMPTS)) == alone


@pytest.mark.parametrize("numerics", NUMERICS)
def test_conversations_in_turns_do_not_mix(path, numerics):
    with open_one(path, numerics) as model:
        alone = [text(model, prompt, 40) for prompt in PROMPTS]
        together = [model.generate(p, max_tokens=40, sampling=SamplingOptions(seed=3)) for p in PROMPTS]
        seen = [[] for _ in PROMPTS]
        for _ in range(40):
            for tokens, generator in zip(seen, together):
                tokens.extend(token.id for token in [next(generator, None)] if token)
        assert seen == alone


@settings(max_examples=30)
@given(order=st.lists(st.integers(0, 2), max_size=60))
def test_conversations_in_any_order_do_not_mix(path, order):
    with open_one(path, "reference") as model:
        talks = [Conversation(model, SamplingOptions(seed=3)) for _ in PROMPTS]
        says = [talk.say(prompt, max_tokens=20) for talk, prompt in zip(talks, PROMPTS)]
        seen = [[] for _ in PROMPTS]
        for who in order:
            seen[who].extend(token.id for token in [next(says[who], None)] if token)
        for tokens, prompt in zip(seen, PROMPTS):
            assert tokens == text(model, prompt, 20)[: len(tokens)]


def test_a_saved_conversation_holds_its_own_cache(path, tmp_path):
    """Saved after another one spoke, it goes on where it was."""
    with open_one(path, "fast") as model:
        whole = text(model, PROMPTS[0], 12)
        talk = Conversation(model, SamplingOptions(seed=3))
        first = [token.id for token in talk.say(PROMPTS[0], max_tokens=5)]
        text(model, PROMPTS[1])
        talk.save(tmp_path / "talk.npz")
        resumed = Conversation.resume(tmp_path / "talk.npz", model)
        assert first + [token.id for token in resumed.say(max_tokens=7)] == whole


def test_one_conversation_in_two_threads_is_refused(path):
    """As long as the first is in the middle of its text; afterwards the other may go on."""
    with open_one(path, "fast") as model, ThreadPoolExecutor(1) as other:
        alone = text(model, PROMPTS[0])
        talk = Conversation(model, SamplingOptions(seed=3))
        first = talk.say(PROMPTS[0], max_tokens=12)
        seen = [next(first).id]
        with pytest.raises(UsageError, match="another thread is in the middle of a text"):
            other.submit(lambda: list(talk.say([5], max_tokens=1))).result(CHILD_SECONDS)
        assert seen + [token.id for token in first] == alone
        assert other.submit(lambda: len(list(talk.say([5], max_tokens=1)))).result(CHILD_SECONDS) == 1


FORKS = """
import os, sys
from llama_ref.text.model import Model

def texts(model):
    return [[token.id for token in model.generate(p, max_tokens=5)] for p in ([1, 5, 9], [1, 40])]

model = Model.from_file(sys.argv[1], numerics=sys.argv[2], n_ctx=64, n_threads=int(sys.argv[3]))
expected = texts(model)
if sys.argv[4] == "held":
    model._turn.acquire()  # as if another thread were evaluating
child = os.fork()
if not child:
    os._exit(0 if texts(model) == expected else 5)
_, status = os.waitpid(child, 0)
if sys.argv[4] == "held":
    model._turn.release()
sys.exit(os.waitstatus_to_exitcode(status) or (texts(model) != expected))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("held", ["free", "held"])
@pytest.mark.parametrize(("numerics", "n_threads"), [("fast", 1), ("fast", 2), ("reference", 1), ("exact", 2)])
def test_a_forked_child_evaluates_with_the_model_of_its_parent(path, numerics, n_threads, held):
    """Even if a thread of the parent was just evaluating; and the parent goes on."""
    argv = [sys.executable, "-c", FORKS, path, numerics, str(n_threads), held]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=CHILD_SECONDS)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_forked_child_of_the_exact_arithmetic_starts_threads_of_its_own(tmp_path):
    """A model wide enough for its work to be divided."""
    wide = write_random_model(tmp_path / "wide.bin", Shape(n_head=8, n_vocab=512, n_mult=256), "q4_0")
    script = "from llama_ref.arithmetic.exact import backend; backend.PARALLEL_WORK = 1 << 10\n" + FORKS
    argv = [sys.executable, "-c", script, wide, "exact", "2", "free"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=CHILD_SECONDS)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("numerics", NUMERICS)
def test_a_closed_model_says_so(path, numerics):
    model = open_one(path, numerics)
    going_on = model.generate(PROMPTS[0])
    next(going_on)
    model.close()
    model.close()
    for attempt in (lambda: model.evaluate([1], 0), lambda: next(going_on), lambda: model.generate([1, 2])):
        with pytest.raises(UsageError, match="was closed; open its file again"):
            attempt()


def test_closing_waits_for_an_evaluation(path):
    """No memory is given back under a kernel that reads it."""
    for _ in range(20):
        model, started = open_one(path, "fast"), threading.Event()

        def evaluate_for_ever(model=model, started=started):
            while True:
                model.evaluate(PROMPTS[2], 0)
                started.set()

        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(evaluate_for_ever)
            started.wait(20)
            model.close()
            with pytest.raises(UsageError, match="was closed"):
                done.result(CHILD_SECONDS)
