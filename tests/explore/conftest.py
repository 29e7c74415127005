"""Models of every tensor type, made once for all tests of the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ggmlpy.test_later_types import LATER, write_gguf_of
from tests.llama_ref.random_models import Shape, write_random_model

ERAS = {  # the types that are written in an era, each in the container of its time
    "2023-03-19": ("f32", "f16", "q4_0", "q4_1"),
    "2023-04-30": ("q4_0", "q4_2", "q5_0", "q5_1", "q8_0"),
    "2023-05-19": ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0"),
    "2023-08-21": ("q4_0", "q4_1", "q8_0", "q2_K", "q3_K", "q4_K", "q5_K", "q6_K"),
}


@pytest.fixture(scope="session")
def random_models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A model of each type, in each of its layouts."""
    folder, found = tmp_path_factory.mktemp("models"), []
    for era, kind in ((era, kind) for era, kinds in ERAS.items() for kind in kinds):
        wide = kind.endswith("_K")
        shape = Shape(head_dim=128 if wide else 32, n_layer=2, n_mult=256 if wide else 32)
        found.append(write_random_model(folder / f"{era}-{kind}.bin", shape, kind, era))
    return found + [write_gguf_of(folder / f"{record.layout}.gguf", record) for record in LATER]
