"""The cache: one folder for everything that is kept, always absolute, always the user's own."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from ggmlpy.files import caches
from ggmlpy.files.caches import cache_directory
from ggmlpy.files.errors import OutputError

posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and modes are a matter of POSIX")
linux = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="these have places of their own")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a folder for temporary files of this test's own."""
    for name in ("GGMLPY_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "home"


@linux
def test_usual_place(home: Path) -> None:
    assert cache_directory() == home / ".cache" / "ggmlpy"
    assert cache_directory().is_dir()


@pytest.mark.parametrize(
    ("platform", "expected"),
    [("win32", "AppData/Local/ggmlpy/cache"), ("darwin", "Library/Caches/ggmlpy"), ("linux", ".cache/ggmlpy")],
)
def test_places_of_platforms(home: Path, platform: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches.sys, "platform", platform)
    assert cache_directory() == home / expected


def test_named_place_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("GGMLPY_CACHE", str(tmp_path / "named" / "deep"))
    assert cache_directory() == tmp_path / "named" / "deep"


@linux
@pytest.mark.parametrize("value", ["", "here", "./here", "../here"])
def test_empty_and_relative_paths_are_ignored(
    home: Path, tmp_path: Path, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("GGMLPY_CACHE", value)
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_directory() == home / ".cache" / "ggmlpy"
    assert not list(Path().iterdir())


@pytest.mark.parametrize("variable", ["GGMLPY_CACHE", "HOME"])
def test_temporary_files_where_the_place_cannot_be_written(
    tmp_path: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for name in (variable, "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "file"))
    assert cache_directory().parent == tmp_path / "tmp"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="GGMLPY_CACHE"):
        cache_directory()


@posix
def test_a_new_folder_is_private() -> None:
    assert stat.S_IMODE(cache_directory().stat().st_mode) == 0o700


@posix
def test_somebody_elses_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGMLPY_CACHE", str(tmp_path / "theirs"))
    monkeypatch.setattr(caches.os, "getuid", lambda: 12345)
    with pytest.raises(OutputError):
        cache_directory()


@posix
def test_a_folder_that_others_made_among_the_temporary_files_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name can be guessed; a link there would choose a folder of the user's that others fill."""
    (tmp_path / "file").write_text("")
    (tmp_path / "filled by others").mkdir()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / f"ggmlpy-{os.getuid()}").symlink_to(tmp_path / "filled by others")
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "file"))
    folder = cache_directory()
    assert folder.parent == tmp_path / "tmp"
    assert not folder.is_symlink()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert cache_directory() == folder
    assert not list((tmp_path / "filled by others").iterdir())


@posix
def test_files_that_others_may_write_are_not_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert not caches.is_own(file)
    file.write_text("")
    file.chmod(0o600)
    assert caches.is_own(file)
    (tmp_path / "link").symlink_to(file)
    assert not caches.is_own(tmp_path / "link")
    for mode in (0o620, 0o602):
        file.chmod(mode)
        assert not caches.is_own(file)


@posix
def test_others_may_no_longer_write_to_it(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setenv("GGMLPY_CACHE", str(folder))
    assert cache_directory() == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
