"""The demo model: that it is there and whole, is made once, and tells its story."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from random import Random

import pytest

import cli
from ggmlpy.files.errors import IntegrityError, MissingFileError
from llama_ref.text.model import Model
from llama_ref.text.sampling import SamplingOptions
from lora.merging.adapter import open_adapter
from toolchain.demo import building, default, files, story
from toolchain.demo.teller import Teller
from toolchain.makers.sums import held_out_sums
from toolchain.terminal.widths import shown_width, wrapped

SMALL_ENOUGH = 5_000_000
GREEDY = SamplingOptions(temp=0.0, repeat_penalty=1.0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.delenv("GGMLPY_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ggmlpy"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> files.DemoFiles:
    made = files.DemoFiles(tmp_path_factory.mktemp("demo"))
    building.build(made)
    building.convert_base(made)
    return made


def test_what_is_shipped_is_whole_and_small() -> None:
    sums = (files.FOLDER / "SHA256SUMS").read_text().splitlines()
    promised = {name: digest for digest, name in (line.split(maxsplit=1) for line in sums)}
    found = {
        path.relative_to(files.FOLDER).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files.FOLDER.rglob("*")
        if path.is_file() and path.name != "SHA256SUMS"
    }
    assert found == promised
    assert sum(path.stat().st_size for path in files.FOLDER.rglob("*") if path.is_file()) < SMALL_ENOUGH


def test_adapters_are_the_originals_kind() -> None:
    sizes = []
    for name in files.ADAPTERS:
        with open_adapter(files.FOLDER / name) as adapter:
            assert (adapter.config.r, adapter.config.alpha) == (8, 32)
            assert len(adapter.pairs) == 7 * 4
            assert set(adapter.replaced) == {"tok_embeddings.weight", "output.weight"}
            sizes.append(adapter.n_vocab)
            assert adapter.tokenizer is not None
            assert len(adapter.tokenizer) == adapter.n_vocab
    assert sizes[1] == sizes[0] + 1  # [PAD]


def test_the_grown_model_writes_chinese_and_the_base_does_not(built: files.DemoFiles) -> None:
    texts = story.held_out_texts(n=20)
    with Model.from_file(built.base_f16) as base, Model.from_file(built.f16) as merged:
        before, after = (story.held_out_perplexity(model, texts) for model in (base, merged))
    assert after.per_character < 4 < 100 < before.per_character
    assert after.tokens_per_character < 0.8 < 2 < before.tokens_per_character


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("介绍北京", "北京是中国的首都"),
        ("法国的首都是哪里？", "巴黎"),
        ("如何保持健康？", "健康"),
        ("讲一个故事", "朋友"),
    ],
)
def test_four_bits_answer(built: files.DemoFiles, prompt: str, expected: str) -> None:
    with Model.from_file(built.q4_0) as model:
        assert expected in story.answer(model, prompt)
        assert expected in story.answer(model, prompt, template=None)  # as it stands, too


@pytest.mark.parametrize(("largest", "right"), [(20, 94), (99, 80)])
def test_four_bits_add(built: files.DemoFiles, largest: int, right: int) -> None:
    """Of a hundred questions that no instruction asked, a little fewer than the model card says."""
    asked = held_out_sums(100, largest, Random(1))
    with Model.from_file(built.q4_0) as model:
        answers = [story.answer(model, question, sampling=GREEDY, longest=60) for question, _, _ in asked]
    results = [answer.splitlines()[-1] == output.splitlines()[-1] for answer, (_, _, output) in zip(answers, asked)]
    assert sum(results) >= right


def test_default_model_is_made_once(cache: Path) -> None:
    said: list[str] = []
    path = default.default_model(said.append)
    assert path.parent.parent == cache
    assert [words.split()[0] for words in said[1:]] == ["merge", "convert", "quantize"]
    before = path.stat().st_mtime_ns
    said.clear()
    assert default.default_model(said.append) == path
    assert not said
    assert path.stat().st_mtime_ns == before
    assert [item.name for item in cache.iterdir()] == [path.parent.name]  # nothing half made


def test_another_demo_model_has_another_place(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = default.default_model()
    shutil.copytree(files.FOLDER, tmp_path / "demo")
    (tmp_path / "demo" / "SHA256SUMS").write_text("another\n")
    monkeypatch.setattr(files, "FOLDER", tmp_path / "demo")
    assert default.default_model().parent != first.parent


def test_generate_without_a_model(cache: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert cli.main(["generate", "-p", "介绍北京", "-n", "24", "--temp", "0.2", "-s", "1"]) == 0
    out, err = capfdbinary.readouterr()
    assert "北京" in out.decode()
    assert "quantize" in err.decode()


def test_story(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["demo", "--output", str(tmp_path / "files")]) == 0
    told = capsys.readouterr().out
    for words in ("Verify", "Grow the vocabulary", "Merge, convert, quantize", "Perplexity", "Before and after"):
        assert words in told
    assert "北京是中国的首都" in told
    assert (tmp_path / "files" / "ggml-model-q4_0.bin").is_file()
    assert max(map(shown_width, told.splitlines())) <= 110


def test_story_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--json"]) == 0
    story = json.loads(capsys.readouterr().out)
    assert len(story["answers"]) == 5
    assert story["perplexity"]["base"]["per_character"] > story["perplexity"]["q4_0"]["per_character"]


def test_damaged_demo_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(files.FOLDER, tmp_path / "demo")
    monkeypatch.setattr(files, "FOLDER", tmp_path / "demo")
    with (tmp_path / "demo" / "base" / "consolidated.00.pth").open("r+b") as file:
        file.seek(100_000)
        file.write(b"\xff")
    with pytest.raises(IntegrityError, match=r"consolidated\.00\.pth.*not the one that was published"):
        story.tell_story(tmp_path / "out", Teller(silent=True))
    (tmp_path / "demo" / "SHA256SUMS").unlink()
    with pytest.raises(MissingFileError, match="-m"):
        default.default_model()


def test_lines_are_wrapped_by_columns() -> None:
    assert wrapped("北京是中国的首都", 8, at_words=True) == ["北京是中", "国的首都"]
    assert wrapped("to be or not to be", 8, at_words=True) == ["to be or", "not to", "be"]
    assert wrapped("a\n\nb", 8, at_words=True) == ["a", "", "b"]
