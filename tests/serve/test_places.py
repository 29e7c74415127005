"""How many answers are written at a time where nobody says."""

from __future__ import annotations

import pytest

from ggmlpy.files import mapping
from llama_ref.text.model import Model
from toolchain.commands.serving import _usual_places


@pytest.mark.parametrize(("caches", "places"), [(32, 8), (31, 4)])
def test_eight_unless_their_caches_fill_a_quarter_of_the_memory(path, monkeypatch, caches: int, places: int) -> None:
    with Model.from_file(path, n_ctx=64, n_threads=1) as model:
        cache = model.new_cache()
        monkeypatch.setattr(mapping, "physical_memory", lambda: caches * (cache.k.nbytes + cache.v.nbytes))
        assert _usual_places(model) == places
