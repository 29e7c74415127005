"""What each class of error says, produced by an ordinary user's mistake: where, what, why, and what to do."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ggmlpy import open_model
from ggmlpy.files import errors
from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.look.check import check_model
from llama_ref.checkpoint import open_checkpoint, open_pth
from llama_ref.conversion.converting import plan_conversion
from llama_ref.text.chat import instruction_warning
from tests.docs import scenes


def missing(at: Path) -> None:
    open_model(at / "model.bin")


def bad_magic(at: Path) -> None:
    scenes.not_models(at)
    open_model(at / "model.bin")


def unsupported(at: Path) -> None:
    scenes.unknown_storage(at)
    open_checkpoint(at / "models/7B")


def truncated(at: Path) -> None:
    scenes.cut_off(at)
    with open_model(at / "ggml-model-q4_0.bin") as model:
        check_model(model)


def another_shape(at: Path) -> None:
    scenes.base(at)
    scenes.edited(at / "models/7B/params.json", dim=32, n_heads=2)
    open_checkpoint(at / "models/7B")


def two_vocabularies(at: Path) -> None:
    scenes.other_tokenizer(at)
    plan_conversion(at / "models/7B", at / "x.bin")


def damaged(at: Path) -> None:
    with open_pth(scenes.MERGE / "malicious/bad_crc.pth") as f:
        for tensor in f.values():
            tensor.numpy()
        f.check()


def not_json(at: Path) -> None:
    scenes.base(at)
    (at / "models/7B/params.json").write_text('{"dim": 64,}')
    open_checkpoint(at / "models/7B")


def no_folder(at: Path) -> None:
    with atomic_write(at / "nowhere/x.bin"):
        pass


def full(at: Path) -> None:
    with atomic_write(at / "x.bin", size=1 << 60):
        pass


CASES: dict[type[FormatError], tuple[Callable[[Path], None], str]] = {
    errors.MissingFileError: (missing, "model.bin: no such file. Next: check the name and the directory"),
    errors.BadMagicError: (
        bad_magic,
        "model.bin: bad magic: this is not a GGML model file (offset 0, field magic, expected 0x67676d6c ggml, "
        "0x67676d66 ggmf, 0x67676a74 ggjt, 0x46554747 gguf, found 0x4f44213c). Likely cause: this is a web page "
        "that was saved instead of the file. Next: download the file itself",
    ),
    errors.UnsupportedError: (
        unsupported,
        "unsupported storage QInt8Storage in tensor 'i16'; supported: DoubleStorage,",
    ),
    errors.TruncatedError: (
        truncated,
        "ggml-model-q4_0.bin: the file ends inside tensor 'layers.0.feed_forward.w2.weight' (offset 54464, field data, "
        "expected 7,680 bytes of q4_0, so a file of at least 62,144, found 5,536 left of 60,000). Likely cause: an "
        "interrupted download or copy, or a header that lies about shape or type. Next: compare the file's size with "
        "its source, then fetch or convert it again",
    ),
    errors.ShapeError: (another_shape, "has another shape than params.json implies"),
    errors.VocabularyError: (two_vocabularies, "the tokenizer has 500 pieces, the weights 320 rows (field n_vocab,"),
    errors.IntegrityError: (damaged, "does not have the CRC-32 that was written (offset 320,"),
    errors.OutputError: (
        no_folder,
        "x.bin: cannot write: No such file or directory. Next: create the directory first",
    ),
    errors.DiskSpaceError: (full, "x.bin: not enough disk space (expected 1,152,921,504,606,846,976 bytes free, found"),
    errors.FormatError: (not_json, "params.json: is not JSON"),
}


def test_every_class_has_a_case() -> None:
    classes = {getattr(errors, name) for name in errors.__all__}
    assert classes == {*CASES, UsageError}


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_text(kind: type[FormatError], tmp_path: Path) -> None:
    cause, words = CASES[kind]
    with pytest.raises(FormatError) as caught:
        cause(tmp_path)
    error = caught.value
    assert type(error) is kind
    assert words in str(error)
    assert error.path is not None
    assert str(error).startswith(f"{error.path}: {error.problem}")
    assert error.next_step, "an error says what to do"
    assert "\n" not in str(error)


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_no_error_about_a_file_lacks_a_next_step(kind: type[FormatError]) -> None:
    assert re.search(r"Next: .*(m/x\.bin|`doctor m`|file|name|space)", str(kind("bad", path="m/x.bin")))
    assert kind("bad", path="m/x.bin", next_step="go").next_step == "go"
    assert str(kind("bad")) == "bad"


def test_usage_errors_name_the_choices() -> None:
    with pytest.raises(UsageError, match=re.escape("2023-03-19, 2023-03-30, 2023-03-31")):
        open_era("2023-04-01")


def open_era(date: str) -> None:
    from ggmlpy import era_of

    era_of(date)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
def test_what_the_system_says_is_passed_on(number: int, tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_write(tmp_path / "x") as f:
            f.write(b"part")
            raise OSError(number, os.strerror(number))

    with pytest.raises(errors.OutputError, match=re.escape(os.strerror(number))):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_the_warning_about_base_models_is_the_one_that_the_page_quotes() -> None:
    page = " ".join((scenes.DATA.parents[1] / "docs" / "troubleshooting.md").read_text("utf-8").split())
    assert f"warning: {instruction_warning(49953)}" in page
