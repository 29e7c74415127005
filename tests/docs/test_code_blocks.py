"""Every code block of the documentation runs, or at least parses; what a page quotes is what is printed."""

from __future__ import annotations

import doctest
import io
import os
import re
import shlex
from pathlib import Path

import pytest

import cli
from tests.docs import scenes
from tests.docs.blocks import PAGES, ROOT, Block, blocks_of, commands_of, matches, parse, run, sessions_of
from toolchain.commands.main import build_parser


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Back to where the tests began, whatever a block does; caches and histories of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def enter(block: Block, tmp_path: Path) -> None:
    """Go to the folder that the block asks for."""
    if block.scene == "the same":
        return
    folder = tmp_path / f"{block.page.stem}-{block.line}"
    folder.mkdir()
    getattr(scenes, (block.scene or "empty").replace(" ", "_").replace("-", "_"))(folder)
    os.chdir(folder)


def session(block: Block, namespace: dict[str, object]) -> None:
    """Run a Python session and compare what it prints."""
    said: list[str] = []
    test = doctest.DocTestParser().get_doctest(block.code, namespace, str(block), str(block.page), block.line)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False)
    runner.run(test, out=said.append, clear_globs=False)
    namespace.update(test.globs)
    assert not runner.failures, "".join(said)


def of_language(*languages: str) -> list[Path]:
    """Chinese pages of docs/ have the blocks of the English ones: test_translations.py."""
    pages = [page for page in PAGES if page.parent == ROOT or not page.stem.endswith(".zh")]
    return [page for page in pages if any(block.language in languages for block in blocks_of(page))]


@pytest.mark.parametrize("page", of_language("python", "pycon"), ids=lambda page: page.name)
def test_python(page: Path, tmp_path: Path) -> None:
    namespace: dict[str, object] = {}
    for block in blocks_of(page):
        if block.language == "python" and "from" in block.how:
            assert block.code in (ROOT / block.how["from"]).read_text("utf-8"), str(block)
        elif block.language == "pycon":
            enter(block, tmp_path)
            session(block, namespace)
        elif block.language == "python":
            enter(block, tmp_path)
            exec(block.how.get("after", ""), namespace)
            padded = "\n" * block.line + block.code  # a traceback shows the page's line
            exec(compile(padded, str(page), "exec"), namespace)


CONSOLE = [block for page in PAGES for block in blocks_of(page) if block.language in ("console", "sh")]


@pytest.mark.parametrize("page", of_language("console", "sh"), ids=lambda page: page.name)
def test_commands(page: Path, tmp_path: Path) -> None:
    for block in (b for b in CONSOLE if b.page == page):
        if block.language == "console":
            assert block.scene, f"{block}: name the scene that it runs in"
        if block.scene:
            enter(block, tmp_path)
        if block.language == "console":
            show(block)
        else:
            follow(block)


def show(block: Block) -> None:
    """Run the commands of a console block and compare what they print."""
    for command, shown in sessions_of(block.code):
        if not command.startswith("python cli.py "):
            assert os.name == "nt" or os.system(command) == 0, f"{block}: {command}"
            continue
        code, printed = run(shlex.split(command, comments=True)[2:])
        assert matches(printed, shown), f"{block}: {command}\nprinted:\n{printed}\nthe page shows:\n{shown}"
        assert (code in (2, 3)) == bool(re.search(r"^error: |^bad ", printed, re.MULTILINE)), (
            str(block),
            command,
            code,
        )


def follow(block: Block) -> None:
    """Run a shell block's commands where a scene is named, parse them elsewhere."""
    for arguments in commands_of(block.code):
        try:
            parse(arguments)
        except SystemExit as error:
            pytest.fail(f"{block}: {shlex.join(arguments)} does not parse ({error})")
        if block.scene:
            code, printed = run(arguments)
            assert code in (0, 1), f"{block}: {shlex.join(arguments)}\n{printed}"


def sub_parsers() -> list[tuple[str, object]]:
    """All commands and sub-commands, with their parsers."""

    def below(parser: object, name: str) -> list[tuple[str, object]]:
        groups = [
            action for action in parser._actions if hasattr(action, "choices") and isinstance(action.choices, dict)
        ]
        inner = [
            pair for group in groups for word, sub in group.choices.items() for pair in below(sub, f"{name} {word}")
        ]
        return inner or [(name.strip(), parser)]

    return below(build_parser(), "")


@pytest.mark.parametrize(("name", "parser"), sub_parsers(), ids=lambda value: value if isinstance(value, str) else "")
def test_each_help_has_examples_that_parse(name: str, parser: object) -> None:
    text = parser.format_help()
    examples = list(commands_of(text.partition("example:\n")[2].replace("  python", "python")))
    assert examples, f"{name} --help has no example"
    words = name.split()
    assert any(arguments[: len(words)] == words for arguments in examples)
    for arguments in examples:
        parse(arguments)


@pytest.fixture(scope="module")
def after_the_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    assert cli.main(["demo", "--output", str(folder / "files"), "-q"]) == 0
    return folder


SKIPPED = (
    "bench",
    "train pretrain",
    "train stage1",
    "train stage2",
    "train instruct",
)  # long, or of files of one's own
DIFFERENT = ("compare",)  # f16 and q4_0 are


@pytest.mark.parametrize(("name", "parser"), sub_parsers(), ids=lambda value: value if isinstance(value, str) else "")
def test_examples_with_the_demos_files_work_as_they_stand(
    name: str, parser: object, after_the_demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in SKIPPED:
        pytest.skip("takes long, or files of one's own")
    text = parser.format_help().partition("example:\n")[2].replace("  python", "python")
    monkeypatch.chdir(after_the_demo)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    made = False
    for arguments in commands_of(text):
        if made or any(argument.startswith("files/") for argument in arguments):
            code, printed = run(arguments)
            assert code == int(name in DIFFERENT), f"{shlex.join(arguments)}\n{printed}"
            made = name == "from-hf" and arguments[0] == "to-hf"
