"""Named initializations: what each promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy.files.errors import UsageError
from llama_ref.checkpoint import LazyTensor
from lora.merging.resize import INITIALIZATIONS, grow, spellings

OLD = np.random.default_rng(5).standard_normal((10, 6)).astype(np.float16)


def tensor(name: str = "tok_embeddings.weight") -> LazyTensor:
    return LazyTensor.of_array(name, OLD)


@given(st.sampled_from(INITIALIZATIONS), st.integers(10, 900), st.data())
def test_any_part_is_a_part_of_the_whole(init: str, n_vocab: int, data: st.DataObject) -> None:
    pieces = [[i % 10, (3 * i) % 10] for i in range(n_vocab - 10)]
    grown = grow(tensor(), n_vocab, init, seed=3, pieces=pieces)
    start = data.draw(st.integers(0, n_vocab))
    stop = data.draw(st.integers(start, n_vocab))
    whole = grown.numpy()
    assert np.array_equal(whole[:10], OLD)
    assert np.array_equal(grown.rows(start, stop), whole[start:stop])


def test_the_values() -> None:
    assert not grow(tensor(), 12, "zeros").numpy()[10:].any()
    assert np.allclose(grow(tensor(), 11, "mean").numpy()[10], OLD.astype("f8").mean(0), atol=1e-3)
    spelt = grow(tensor(), 11, "pieces", pieces=[[2, 4]]).numpy()[10]
    assert np.array_equal(spelt, ((OLD[2].astype("f4") + OLD[4].astype("f4")) / 2).astype("f2"))
    normal = grow(tensor(), 10_010, "normal", seed=1).numpy()[10:].astype("f4")
    assert abs(normal.std() - 0.02) < 1e-3
    assert abs(normal.mean()) < 1e-3


def test_seeds_and_names_give_different_numbers() -> None:
    rows = [grow(tensor(name), 11, "normal", seed=seed).numpy()[10] for name, seed in (("a", 1), ("a", 2), ("b", 1))]
    assert not np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], rows[2])
    assert np.array_equal(rows[0], grow(tensor("a"), 900, "normal", seed=1).numpy()[10])


def test_wrong_requests() -> None:
    for arguments, words in (
        ((9, "zeros"), "cannot be grown to 9"),
        ((11, "ones"), "unknown initialization 'ones'"),
        ((12, "pieces"), "2 new tokens, 0 spellings"),
    ):
        with pytest.raises(UsageError, match=words):
            grow(tensor(), *arguments)


def test_spellings(tokenizers: Path) -> None:
    import sentencepiece

    llama = sentencepiece.SentencePieceProcessor(model_file=str(tokenizers / "llama.model"))
    found = spellings(tokenizers / "llama.model", ["人工".encode(), "▁the".encode(), "哲".encode()])
    assert [[llama.id_to_piece(i) for i in ids] for ids in found] == [
        ["人", "工"],
        ["▁the"],
        ["<0xE5>", "<0x93>", "<0xB2>"],
    ]
