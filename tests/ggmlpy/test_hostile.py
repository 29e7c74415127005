"""Mutated files end in a FormatError or a correct read: no other exception, no allocation on paper's word."""

from __future__ import annotations

import contextlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggmlpy import CONTAINERS, FormatError, open_model
from ggmlpy.look.check import problems_of
from ggmlpy.look.contents import summarize
from ggmlpy.look.identify import identify
from tests.ggmlpy.models import write_tiny

CASES = [(name, version) for name, container in CONTAINERS.items() for version in container.versions]


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("originals")
    types = [("q4_0", *case) for case in CASES] + [("q5_1", "ggjt", 2), ("f16", "ggml", 0)]
    return [write_tiny(folder / f"{i}.bin", c, v, t).read_bytes() for i, (t, c, v) in enumerate(types)]


@st.composite
def mutations(draw):
    """Cuts, insertions and overwritten bytes, most of them where the header and the tensor headers are."""
    which = draw(st.integers(0, 99))
    edits = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["set", "cut", "insert", "number"]),
                st.floats(0, 1) | st.floats(0, 0.05),
                st.binary(min_size=1, max_size=8),
                st.sampled_from([0, 1, -1, 2, 31, 255, 2**16, 2**31 - 1, -(2**31), 2**24]),
            ),
            min_size=1,
            max_size=4,
        )
    )
    return which, edits


def mutate(data: bytes, edits) -> bytes:
    out = bytearray(data)
    for kind, where, junk, number in edits:
        at = int(where * len(out))
        if kind == "set":
            out[at : at + len(junk)] = junk
        elif kind == "cut":
            del out[at:]
        elif kind == "insert":
            out[at:at] = junk
        else:
            at -= at % 4
            out[at : at + 4] = number.to_bytes(4, "little", signed=True)
    return bytes(out)


def survive(path: Path) -> None:
    """Everything that looks at a file either raises a FormatError or returns."""
    for look in (open_and_read, identify):
        try:
            look(path)
        except FormatError as error:
            if str(path) not in str(error):
                pytest.fail(f"the message does not name the file: {error}")


def open_and_read(path: Path) -> None:
    with open_model(path) as model:
        list(problems_of(model))
        summarize(model)
        for tensor in model.tensors.values():
            with np.errstate(all="ignore"):
                assert tensor.numpy().shape == tensor.shape


@settings(max_examples=400)
@given(mutation=mutations())
def test_mutated_files_never_crash(mutation, originals, tmp_path_factory):
    which, edits = mutation
    path = tmp_path_factory.mktemp("mutated") / "m.bin"
    path.write_bytes(mutate(originals[which % len(originals)], edits))
    survive(path)


def test_nothing_is_allocated_on_the_word_of_a_header(tmp_path):
    """A file of 2 KB that promises two thousand million vocabulary entries costs kilobytes."""
    path = write_tiny(tmp_path / "m.bin")
    data = path.read_bytes()
    for offset in range(0, len(data), 4):
        path.write_bytes(data[:offset] + (2**31 - 1).to_bytes(4, "little") + data[offset + 4 :])
        tracemalloc.start()
        with contextlib.suppress(FormatError):
            open_model(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2 * len(data) + 200_000


def test_a_width_that_no_header_can_hold_elsewhere_is_survived(tmp_path):
    """n_ff follows from n_embd and is larger: identify once put it into a header of its own."""
    path = write_tiny(tmp_path / "m.bin", "ggml", 0)
    data = bytearray(path.read_bytes())
    data[8:12] = (2**31 - 1).to_bytes(4, "little")
    path.write_bytes(data[: len(data) // 2])
    assert identify(path).problems
