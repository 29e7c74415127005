"""The fast backend against the reference one: every kind of matrix, odd shapes, any split, any number of threads.

The vectors that meet quantized weights are quantized to 8 bits in the fast arithmetic. So there are two oracles: the
reference backend, from which it may differ by what that costs, and the reference backend with the same quantization of
vectors, from which it may differ by rounding only.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ggmlpy
from benchmarks.make_model import FTYPES, random_model
from ggmlpy.files.errors import UnsupportedError, UsageError
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.machine.features import MACHINE, SIMD
from llama_ref.arithmetic.fast import layouts as fast_layouts
from llama_ref.arithmetic.fast import read_ahead
from llama_ref.arithmetic.fast.backend import FastBackend
from llama_ref.arithmetic.fast.read_ahead import CANDIDATES, USUAL, ReadAhead
from llama_ref.arithmetic.reference import ReferenceBackend
from llama_ref.text.model import Model

SOME = ["f16", "q4_0-2023-03", "q5_1-2023-05", "q8_0-2023-08", "sixteens", "iq4_nl"]
SOME += ["q2_K", "q3_K", "q4_K", "q6_K", "iq4_xs"]
ELSEWHERE = os.environ.get("FAST_TEST_SOME") == "1"  # this is a run on another machine's instructions (see the end)
GGUF_ONLY = ("iq4_nl", "iq4_xs", "bf16")
FILES = [  # (version of ggjt, type) and what the kernels call it
    (1, "q4_0", "q4_0-2023-03"), (2, "q4_0", "q4_0-2023-05"), (3, "q4_0", "q4_0-2023-08"),
    (1, "q4_1", "q4_1-2023-03"), (2, "q4_1", "q4_1-2023-05"), (3, "q4_1", "q4_1-2023-08"),
    (1, "q5_0", "q5_0-2023-04"), (3, "q5_0", "q5_0-2023-05"), (1, "q5_1", "q5_1-2023-04"), (3, "q5_1", "q5_1-2023-05"),
    (1, "q8_0", "q8_0-2023-04"), (3, "q8_0", "q8_0-2023-08"), (1, "f16", "f16"), (1, "f32", "f32"),
    (1, "q4_2", "sixteens"), (1, "q4_3", "sixteens"), (3, "iq4_nl", "iq4_nl"), (3, "bf16", "bf16"),
]  # fmt: skip
FILES = [file for file in FILES if not ELSEWHERE or file[2] in SOME]
TOKENS = [1, 5, 100, 7, 5, 33, 2, 90, 11, 64, 3] * 4  # more than those that are few, and no multiple of a tile
K_QUANTS = [name for name in fast_layouts.SUPERBLOCKS if not ELSEWHERE or name in SOME]


class QuantizingReference(ReferenceBackend):
    """The reference, with vectors quantized as the fast backend does before they meet quantized matrices."""

    def matmul(self, w, x):
        kind = w.tensor.type
        return w.times(quantized(x, 256 if kind.layout in fast_layouts.SUPERBLOCKS else 32) if kind.quantized else x)


def quantized(x, blck_size):
    """x to 8 bits a block and back."""
    blocks = x.reshape(len(x), -1, blck_size)
    most = np.abs(blocks).max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        inverse = np.where(most > 1e-30, np.float32(127) / most, np.float32(0)).astype(np.float32)
    return (np.rint(blocks * inverse) * (most / np.float32(127))).astype(np.float32).reshape(x.shape)


def fast(path: Path, n_threads: int = 1, **options) -> Model:
    return Model.from_file(path, numerics="fast", n_threads=n_threads, **options)


def distance(a, b) -> float:
    """The root mean square of the difference, in units of b's standard deviation."""
    return float(np.sqrt(np.mean(np.square(a.astype(np.float64) - b))) / b.std())


def same_bits(a, b) -> bool:
    return a.shape == b.shape and np.array_equal(a.view(np.uint32), b.view(np.uint32))


def model_of(path: Path, n_vocab=97, n_embd=96, n_mult=32, n_head=3, n_layer=2, **options) -> Path:
    h = ModelParams.from_header(
        n_vocab, n_embd, n_mult, n_head, n_layer, n_embd // n_head, FTYPES[options.get("type_name", "q4_0")]
    )
    if options.get("type_name") in GGUF_ONLY:
        options |= {"container": "gguf", "version": 3}
    random_model(path, h, **options)
    return path


def oracle(path: Path, backend: type[ReferenceBackend], tokens, **options):
    with ggmlpy.open_model(path) as file, Model(file, backend(file), **options) as model:
        return model.evaluate(tokens, 0)


@pytest.mark.parametrize(("version", "name", "kind"), FILES)
@pytest.mark.parametrize("n_embd", [32, 160, 1184])
def test_a_single_product_of_every_type(tmp_path, version, name, kind, n_embd):
    """A model without layers is one product. Only the order of additions differs (and, rarely, a code by one)."""
    path = model_of(
        tmp_path / "m.bin", version=version, type_name=name, n_embd=n_embd, n_head=1, n_layer=0, n_vocab=101
    )
    tokens = TOKENS
    with fast(path) as model:
        logits = model.evaluate(tokens, 0)
    expected = oracle(path, QuantizingReference, tokens)
    assert np.median(np.abs(logits - expected)) < 1e-6 * expected.std()
    assert np.abs(logits - expected).max() < 0.02 * expected.std()


@pytest.mark.parametrize(("version", "name", "kind"), FILES)
def test_every_type_agrees_with_the_reference(tmp_path, version, name, kind):
    path = model_of(tmp_path / "m.bin", version=version, type_name=name, n_embd=160, n_head=5, n_vocab=101)
    tokens = [1, 5, 100, 7, 5, 33, 2, 90, 11, 64, 3]
    with fast(path) as model:
        logits = model.evaluate(tokens, 0)
        assert model.weights.layers[0].w1.kind == kind
    assert distance(logits, oracle(path, QuantizingReference, tokens)) < 0.01
    assert distance(logits, oracle(path, ReferenceBackend, tokens)) < (1e-4 if kind in fast_layouts.FLOATS else 0.05)


@pytest.mark.parametrize("name", ["q4_2", "q4_3"])
def test_some_types_are_widened_without_changing_a_value(tmp_path, name):
    path = model_of(tmp_path / "m.bin", version=1, type_name=name, n_layer=1)
    with ggmlpy.open_model(path) as file:
        tensor = file.tensors["layers.0.feed_forward.w2.weight"]
        wide = fast_layouts.widen(tensor).view(fast_layouts.SIXTEENS).reshape(tensor.shape[0], -1)
        values = wide["codes"].astype(np.float32) * wide["d"][..., None] + wide["m"][..., None]
        assert np.array_equal(values.reshape(tensor.shape), tensor.numpy())


@pytest.mark.parametrize("name", K_QUANTS)
@pytest.mark.parametrize("n_embd", [256, 1536])
def test_a_single_product_of_every_type_of_k_quants(tmp_path, name, n_embd):
    """Straight from the blocks of the file; 101 rows are not a multiple of what is multiplied together."""
    path = model_of(tmp_path / "m.bin", version=3, type_name=name, n_embd=n_embd, n_head=1, n_layer=0, n_vocab=101)
    tokens = TOKENS
    with fast(path) as model:
        logits = model.evaluate(tokens, 0)
        matrix = model.weights.output
        assert matrix.kind == name
        assert np.shares_memory(matrix.blocks, model.file.tensors["output.weight"].raw())
    expected = oracle(path, QuantizingReference, tokens)
    assert np.median(np.abs(logits - expected)) < 2e-6 * expected.std()
    assert np.abs(logits - expected).max() < 0.02 * expected.std()


@settings(max_examples=4 if ELSEWHERE else 12)
@given(st.sampled_from(K_QUANTS), st.sampled_from([1, 2, 4]), st.integers(20, 150), st.data())
def test_k_quants_of_any_shape_and_any_split(tmp_path_factory, name, n_head, n_vocab, data):
    """One batch = any split of it = any number of threads, to the last bit; beside other types of the same model."""
    path = tmp_path_factory.mktemp("m") / "m.bin"
    other = data.draw(st.sampled_from([None, "f16", "q4_0", "q6_K"]))
    shape = {"n_embd": 256, "n_head": n_head, "n_mult": 256, "n_vocab": n_vocab, "n_layer": 1}
    path = model_of(path, version=3, type_name=name, output_type=other, **shape)
    n = data.draw(st.integers(1, 45))
    tokens = data.draw(st.lists(st.integers(0, n_vocab - 1), min_size=n, max_size=n))
    cuts = sorted(data.draw(st.sets(st.integers(1, n), max_size=4)) | {0, n})
    with fast(path, 1, n_ctx=n) as model:
        whole = model.evaluate(tokens, 0)
    with fast(path, 2, n_ctx=n) as model:
        pieces = [model.evaluate(tokens[a:b], a) for a, b in itertools.pairwise(cuts)]
        last = model.evaluate(tokens[-1:], n - 1, last_only=True)
    assert same_bits(np.concatenate(pieces), whole)
    assert same_bits(last, whole[-1])
    assert distance(whole, oracle(path, QuantizingReference, tokens, n_ctx=n)) < 0.02
    path.unlink()


@st.composite
def shapes(draw):
    head_dim = draw(st.sampled_from([2, 6, 16, 20, 32, 48, 64, 80, 96, 128]))
    n_head = draw(st.integers(1, 5).filter(lambda n: head_dim * n % 32 == 0) | st.just(16))
    return {
        "n_embd": head_dim * n_head,
        "n_head": n_head,
        "n_mult": draw(st.sampled_from([32, 64, 96, 160])),
        "n_vocab": draw(st.integers(20, 150)),
        "n_layer": draw(st.integers(1, 2)),
        "seed": draw(st.integers(0, 1000)),
    }


@settings(max_examples=6 if ELSEWHERE else 25)
@given(shapes(), st.sampled_from(FILES), st.data())
def test_any_shape_any_split_any_number_of_threads(tmp_path_factory, shape, file, data):
    """One batch = any split of it = any number of threads, to the last bit; and close to the reference."""
    version, name, _ = file
    path = model_of(tmp_path_factory.mktemp("m") / "m.bin", version=version, type_name=name, **shape)
    n = data.draw(st.integers(1, 45))
    tokens = data.draw(st.lists(st.integers(0, shape["n_vocab"] - 1), min_size=n, max_size=n))
    cuts = sorted(data.draw(st.sets(st.integers(1, n), max_size=4)) | {0, n})
    memory_f32 = data.draw(st.booleans())
    with fast(path, 1, n_ctx=n, memory_f32=memory_f32) as model:
        whole = model.evaluate(tokens, 0)
    with fast(path, data.draw(st.sampled_from([2, 3])), n_ctx=n, memory_f32=memory_f32) as model:
        pieces = [model.evaluate(tokens[a:b], a) for a, b in itertools.pairwise(cuts)]
        last = model.evaluate(tokens[-1:], n - 1, last_only=True)
    assert same_bits(np.concatenate(pieces), whole)
    assert same_bits(last, whole[-1])
    expected = oracle(path, QuantizingReference, tokens, n_ctx=n, memory_f32=memory_f32)
    assert distance(whole, expected) < 0.02
    path.unlink()


def test_types_may_differ_within_a_model(tmp_path):
    """q4_0 matrices with an f16 output, as ftype 4 has it."""
    path = model_of(tmp_path / "m.bin", output_type="f16")
    tokens = list(range(40))
    with fast(path, 2) as model:
        logits = model.evaluate(tokens, 0)
        single = [model.evaluate([t], i, last_only=True) for i, t in enumerate(tokens)]
    assert same_bits(np.stack(single), logits)
    assert distance(logits, oracle(path, QuantizingReference, tokens)) < 0.02


def test_the_base_of_the_rotary_frequencies_and_epsilon_are_the_models(tmp_path):
    """GGUF files may name others than LLaMA's."""
    path = model_of(tmp_path / "m.bin", type_name="f32")
    tokens = [5, 4, 3, 2, 1, 0, 1, 2]
    with ggmlpy.open_model(path) as file:
        file.hparams = replace(file.hparams, rope_theta=500000.0)
        logits = []
        for backend in (FastBackend(file, "2023-03-31", 2), ReferenceBackend(file)):
            with Model(file, backend) as model:
                backend.norm_eps = 1e-2
                logits.append(model.evaluate(tokens, 0))
                model.file = ggmlpy.open_model(path)  # closing the model must not close the file of the next
    assert distance(*logits) < 1e-4


def test_a_long_context_and_batches_beyond_one_call(tmp_path):
    """2100 positions, given 300 and 1 at a time."""
    path = model_of(tmp_path / "m.bin", n_layer=1, n_embd=64, n_head=2)
    tokens = np.random.default_rng(0).integers(0, 97, 2100).tolist()
    with fast(path, 2, n_ctx=2112) as model:
        for start in range(0, 2100, 300):
            logits = model.evaluate(tokens[start : start + 300], start)
        again = model.evaluate(tokens[2099:], 2099, last_only=True)
    assert same_bits(again, logits[-1])
    expected = oracle(path, QuantizingReference, tokens, n_ctx=2112)
    assert distance(logits, expected[1800:]) < 0.02


def test_a_saved_cache_continues_as_if_never_saved(tmp_path):
    path = model_of(tmp_path / "m.bin")
    with fast(path) as model:
        model.evaluate([1, 2, 3, 4], 0)
        state = model.cache.save()
        expected = model.evaluate([5], 4)
    with fast(path) as model:
        model.cache.restore(state)
        assert same_bits(model.evaluate([5], 4), expected)


def test_rows_that_are_not_a_multiple_of_16_are_refused(tmp_path):
    path = model_of(tmp_path / "m.bin", type_name="f16", n_embd=40, n_head=2)
    with pytest.raises(UnsupportedError, match=r"multiple of 16.*--numerics reference"):
        fast(path)


def test_a_number_of_threads_must_be_positive(tmp_path):
    with pytest.raises(UsageError, match="at least 1"):
        fast(model_of(tmp_path / "m.bin"), n_threads=0)


@pytest.mark.parametrize("kind", ["q4_0", "q4_K", "f16"])
@pytest.mark.parametrize("n_texts", [1, 3, 9])
def test_a_token_of_each_of_several_texts_has_the_bits_of_a_text_alone(tmp_path, kind, n_texts):
    path = model_of(tmp_path / "m.bin", version=3, type_name=kind, n_embd=256, n_mult=256, n_head=4)
    rng = np.random.default_rng(n_texts)
    prompts = [rng.integers(0, 97, size).tolist() for size in rng.integers(1, 30, n_texts)]
    with fast(path, 2, n_ctx=32) as model:
        expected = [model.evaluate([*prompt, 5, 6], 0)[-2:] for prompt in prompts]
        caches = [model.new_cache() for _ in prompts]
        for prompt, cache in zip(prompts, caches, strict=True):
            model.evaluate(prompt, 0, cache=cache)
        for step, token in enumerate((5, 6)):
            rows = model.evaluate_each([(token, c.length, c) for c in caches])
            assert same_bits(rows, np.stack([both[step] for both in expected]))
        with pytest.raises(UsageError, match="of its own"):
            model.evaluate_each([(1, 0, caches[0]), (1, 1, caches[0])])


def test_several_texts_in_the_reference(tmp_path):
    path = model_of(tmp_path / "m.bin", type_name="f32")
    with Model.from_file(path, numerics="reference") as model:
        caches = [model.new_cache(), model.new_cache()]
        rows = model.evaluate_each([(7, 0, caches[0]), (8, 0, caches[1])])
        assert np.array_equal(rows[1], model.evaluate([8], 0)[0])
        assert [cache.length for cache in caches] == [1, 1]


def evaluate_forever(model, tokens):
    while True:
        model.evaluate(tokens, 0, last_only=True)


@pytest.mark.skipif(ELSEWHERE or sys.platform == "win32", reason="signals reach the main thread of the first process")
def test_ctrl_c_ends_a_long_prompt_at_once_and_leaves_the_model_usable(tmp_path):
    import signal

    path = model_of(tmp_path / "m.bin", n_layer=4, n_embd=512, n_head=4, n_mult=256)
    tokens = np.random.default_rng(0).integers(0, 97, 4000).tolist()
    with fast(path, 2, n_ctx=4000) as model:
        expected = model.evaluate(tokens[:5], 0)
        timer = threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGINT))
        timer.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            evaluate_forever(model, tokens)
        timer.join()
        assert time.monotonic() - started < 30
        assert same_bits(model.evaluate(tokens[:5], 0), expected)


@pytest.mark.parametrize(("asked", "megabytes", "threads"), [(None, 3, 3), (None, 20, 8), (None, 0, 1), (5, 0, 5)])
def test_each_thread_gets_a_megabyte_unless_somebody_asks(tmp_path, monkeypatch, asked, megabytes, threads):
    from llama_ref.arithmetic.fast import backend

    path = model_of(tmp_path / "m.bin", type_name="q4_0")
    monkeypatch.setattr(backend, "checked_threads", lambda n: n or 8)
    monkeypatch.setattr(backend, "BYTES_A_THREAD", path.stat().st_size // megabytes if megabytes else 1 << 20)
    with Model.from_file(path, n_threads=asked) as model:
        assert model.backend.n_threads == threads


def test_the_kernels_are_kept_where_the_user_can_write(tmp_path, monkeypatch):
    """A file appears in GGMLPY_CACHE; a damaged one is made again; a place that can't be written costs nothing else."""
    from llama_ref.arithmetic.fast import machine_code as fast_object

    made, code = [], b'{"names": []}\n' + bytes(1000)
    part = fast_object.Part((), USUAL, code)
    monkeypatch.setenv("GGMLPY_CACHE", str(tmp_path / "new" / "cache"))
    monkeypatch.setattr(fast_object, "_compile", lambda name: made.append(name) or code)
    monkeypatch.setattr(fast_object, "_link", lambda linked: part if linked == code else None)

    def load():
        monkeypatch.setattr(fast_object, "_LOADED", {})
        return fast_object._load("f16")

    assert load() == load() == part
    assert made == ["f16"]
    (path,) = (tmp_path / "new" / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert load() == part
    assert len(made) == 2
    monkeypatch.setenv("GGMLPY_CACHE", str(path / "not a directory"))
    monkeypatch.setattr(tempfile, "tempdir", str(path / "not a directory"))
    assert load() == part
    assert len(made) == 3


def test_how_rows_are_asked_for_is_measured_once_while_the_machine_is_quiet(tmp_path, monkeypatch):
    from llama_ref.arithmetic.fast import machine_code as fast_object

    code, busy, found = fast_object._compile("q8_0-2023-08"), [True], ReadAhead(2048, 2048, fast_layouts.OWN_STREAMS)
    measured, model = [], fast_object._load("model")
    monkeypatch.setenv("GGMLPY_CACHE", str(tmp_path))
    monkeypatch.setattr(fast_object, "_compile", lambda name: code)
    monkeypatch.setattr(fast_object, "others_at_work", lambda: busy[0])
    monkeypatch.setattr(fast_object, "fastest", lambda kind, *_: measured.append(kind) or found)

    def load():
        monkeypatch.setattr(fast_object, "_LOADED", {"model": model})
        return fast_object.load_kernels(["q8_0-2023-08"]).read_ahead["q8_0-2023-08"]

    assert load() == USUAL
    busy[0] = False
    assert load() == load() == found
    assert measured == ["q8_0-2023-08"]


@pytest.mark.parametrize("kind", ["f16", "q4_0", "q4_K"])  # one of each form that a vector may have
def test_every_way_of_asking_for_rows_gives_the_same_bits(tmp_path, monkeypatch, kind):
    from llama_ref.arithmetic.fast.machine_code import load_kernels

    path = model_of(tmp_path / "m.bin", version=3, type_name=kind, n_embd=512, n_head=4, n_mult=256)

    def logits(ahead):
        taken = lambda kinds: replace(load_kernels(kinds), read_ahead=dict.fromkeys(kinds, ahead))  # noqa: E731
        monkeypatch.setattr("llama_ref.arithmetic.fast.backend.load_kernels", taken)
        with fast(path, 2) as model:
            return model.evaluate([7], 0, last_only=True)

    expected = logits(USUAL)
    assert all(same_bits(logits(ahead), expected) for ahead in CANDIDATES)


def test_measuring_takes_one_of_the_ways(monkeypatch):
    from llama_ref.arithmetic.fast import machine_code as fast_object

    (rows, _, few), model = fast_object._load("f16").addresses, fast_object._load("model").addresses
    monkeypatch.setattr(read_ahead, "SIZE", 1 << 20)
    assert read_ahead.fastest("f16", rows, few, fast_object._callable(model[2])) in CANDIDATES


def digest_of_logits(folder: Path) -> str:
    """A digest of some logits, to compare between machines."""
    digest, simple = hashlib.sha256(), [(1, "q4_0"), (3, "q8_0"), (1, "q4_2"), (1, "f16"), (3, "iq4_nl")]
    for version, name in (*simple, *[(3, name) for name in K_QUANTS if name in SOME]):
        n_embd, n_mult = (256, 256) if name in K_QUANTS else (192, 32)
        path = model_of(folder / f"{name}.bin", version=version, type_name=name, n_embd=n_embd, n_mult=n_mult, n_head=2)
        with fast(path) as model:
            digest.update(model.evaluate(list(range(40)), 0).tobytes())
    return digest.hexdigest()


@pytest.mark.skipif(not ELSEWHERE, reason="part of the next test")
def test_digest(tmp_path):
    expected = os.environ["FAST_TEST_DIGEST"]
    assert expected in ("any", digest_of_logits(tmp_path))


@pytest.mark.skipif(ELSEWHERE, reason="this is that other machine")
@pytest.mark.parametrize("simd", ["vnni", "avxvnni", "avx2", "portable"])
def test_the_instructions_of_other_machines(tmp_path, simd):
    """The tests above, compiled for lesser processors, with the same bits."""
    if not MACHINE.is_x86 or simd == MACHINE.simd or not dict(SIMD)[simd] <= MACHINE.features:
        pytest.skip(f"this processor has no {simd}")
    expected = digest_of_logits(tmp_path)
    environment = {**os.environ, "LLAMA_SIMD": simd, "FAST_TEST_SOME": "1", "FAST_TEST_DIGEST": expected}
    chosen = "digest or single_product or every_type or any_shape"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", chosen]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert run.returncode == 0, run.stdout[-3000:]
