"""Work ahead of the writer: in order, within bounds, and errors come through."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ggmlpy.files.ordered import Workers
from llama_ref.checkpoint import open_checkpoint
from lora.merging.adapter import open_adapter
from lora.merging.stream import MergedModel


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_results_come_in_order_and_not_too_far_ahead(n_threads: int) -> None:
    lock, started = threading.Lock(), []

    def work(i: int) -> int:
        with lock:
            started.append(i)
        time.sleep(0.001 * (i % 3))
        return i * i

    with Workers(n_threads) as workers:
        for i, result in enumerate(workers.ordered(work, range(40))):
            assert result == i * i
            assert len(started) <= i + n_threads + 2


def test_an_error_comes_through_and_stops_the_rest() -> None:
    done = []

    def work(i: int) -> int:
        if i == 3:
            raise KeyError("three")
        done.append(i)
        return i

    with Workers(2) as workers, pytest.raises(KeyError, match="three"):
        list(workers.ordered(work, range(1000)))
    assert max(done) < 20


def test_blocks_of_a_merged_tensor(data: Path) -> None:
    folder = data / "merge" / "v11-llama"
    with open_checkpoint(folder / "base" / "7B") as base, open_adapter(folder / "lora") as adapter:
        model = MergedModel(base, [adapter])
        for name in ("tok_embeddings.weight", "layers.1.attention.wq.weight", "layers.0.feed_forward.w2.weight"):
            whole = model.tensor(name).numpy()
            block = model.tensor(name, rows=slice(5, 33), columns=slice(16, 50)).numpy()
            assert np.array_equal(block, whole[5:33, 16:50])
        assert model.tensor("norm.weight", rows=slice(3, 9)).numpy().shape == (6,)
        assert "changed by lora" in model.tensor("layers.0.attention.wq.weight").source
        assert "replaced by lora" in model.tensor("output.weight").source


def test_memory_is_given_back_on_the_way(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, released = data / "merge" / "v11-llama", []
    monkeypatch.setattr("lora.merging.stream.RELEASE_EVERY", 100_000)
    with open_checkpoint(folder / "base" / "7B") as base, open_adapter(folder / "lora") as adapter:
        monkeypatch.setattr(type(base), "release", lambda self: released.append("base"))
        model = MergedModel(base, [adapter])
        for name in base.tensors:
            list(model.tensor(name).chunks())
    assert len(released) == sum(t.nbytes for t in model.checkpoint.tensors.values()) // 100_000
