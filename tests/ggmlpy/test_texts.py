"""Texts have an end, or are refused."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import pytest

from ggmlpy import FormatError
from ggmlpy.files.texts import LARGEST_PROMPT, read_bounded, read_stream
from llama_ref.text.main_inputs import read_prompt
from llama_ref.text.perplexity import read_text

devices = pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="there is no such device")


@devices
@pytest.mark.parametrize("part", [("FILE", "/dev/zero"), ("FILE", "-")])
def test_a_prompt_without_end_is_refused(part: tuple[str, str]) -> None:
    with open("/dev/zero", "rb") as zeros, pytest.raises(FormatError, match="at most 16,777,216 bytes"):
        read_prompt([part], zeros)


@devices
def test_a_text_without_end_is_refused() -> None:
    with pytest.raises(FormatError, match="too large"):
        read_text("/dev/zero")
    assert read_text("/dev/null") == b""


def test_up_to_the_bound_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"12345")
    assert read_bounded(tmp_path / "text", 5) == b"12345"
    with pytest.raises(FormatError, match="at most 4 bytes"):
        read_bounded(tmp_path / "text", 4)
    assert read_stream(io.BytesIO(b"12345"), 5) == b"12345"
    assert LARGEST_PROMPT > 1 << 20


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"text" * 50_000,))
    writer.start()
    assert read_prompt([("FILE", str(tmp_path / "pipe"))], io.BytesIO()) == b"text" * 50_000
    writer.join()
