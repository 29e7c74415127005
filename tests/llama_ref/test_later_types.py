"""Models in the tensor types that only GGUF has are computed alike by the reference and by the fast arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from ggmlpy import open_model
from llama_ref import Model
from llama_ref.arithmetic.fast.backend import FastBackend
from llama_ref.arithmetic.reference import ReferenceBackend
from tests.ggmlpy.test_later_types import LATER, write_gguf_of
from toolchain.commands.main import main

TOKENS = [1, 5, 7, 3]


@pytest.mark.parametrize("record", LATER, ids=str)
def test_the_fast_logits_are_the_references(record, tmp_path):
    """But for the rounding of vectors to eight bits."""
    path, logits = write_gguf_of(tmp_path / "m.gguf", record), []
    for arithmetic in (ReferenceBackend, lambda file: FastBackend(file, "2023-08-21", 1)):
        with open_model(path) as file, Model(file, arithmetic(file)) as model:
            logits.append(model.evaluate(TOKENS, 0))
    assert np.isfinite(logits[0]).all()
    assert np.corrcoef(logits[0].reshape(-1), logits[1].reshape(-1))[0, 1] > 0.99


def test_what_is_widened_is_told_with_the_memory_it_takes(tmp_path, capfd):
    record = next(record for record in LATER if record.name == "iq3_s")
    path = write_gguf_of(tmp_path / "m.gguf", record)
    main(["generate", "-m", str(path), "-p", "A", "-n", "1"])
    assert "widening iq3_s in memory: " in capfd.readouterr().err
