"""Each specimen of the zoo is what its story says, and every complaint of a reader has one that provokes it."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest

from ggmlpy.files.errors import UsageError
from ggmlpy.formats.eras import ERAS, GGUF_ERAS
from tests.docs.blocks import ROOT, run
from toolchain.zoo.make import make_zoo, specimens
from toolchain.zoo.specimen import Specimen

KINDS = ("broken/*", "torch/*", "safetensors/*", "tokenizers/*", "adapters/*", "imatrix/*", "checkpoints/*")
FEW_TYPES = ("models/*-f32.*", "models/*-f16.*", "models/*-q4_0.*", "models/*-bf16.*", "models/*parts", "models/*split")


def chosen(*patterns: str) -> list[Specimen]:
    return [specimen for pattern in patterns for specimen in specimens(pattern)]


def look(specimen: Specimen, root: Path) -> tuple[int, str]:
    """What the specimen's command says, and its exit code."""
    path = root / specimen.name
    path.parent.mkdir(parents=True, exist_ok=True)
    specimen.write(path)
    return run(shlex.split(specimen.look.replace("{}", path.as_posix())))


@pytest.mark.parametrize("specimen", chosen(*KINDS, *FEW_TYPES), ids=lambda specimen: specimen.name)
def test_it_is_what_its_story_says(specimen: Specimen, tmp_path: Path) -> None:
    code, said = look(specimen, tmp_path)
    assert code == (3 if specimen.broken else 0), said
    assert specimen.says in said
    if specimen.broken:
        lines = [line for line in said.splitlines() if re.match(r"error: |  problem ", line) and specimen.says in line]
        assert lines
        assert all(". Next: " in line for line in lines), lines
        assert "Traceback" not in said
        circle = specimen.look.startswith("identify") and re.search(r"[Nn]ext:? +python cli\.py identify", said)
        assert not circle, "identify was just asked"


@pytest.mark.slow
@pytest.mark.parametrize("specimen", chosen("models/*"), ids=lambda specimen: specimen.name)
def test_every_type_of_every_era(specimen: Specimen, tmp_path: Path) -> None:
    code, said = look(specimen, tmp_path)
    assert code == 0, said
    assert specimen.says in said


def test_every_container_type_and_era_is_there() -> None:
    names = {specimen.name for specimen in specimens("models/*")}
    for era in (*ERAS.values(), *GGUF_ERAS.values()):
        suffix = "gguf" if era.is_of_gguf else "bin"
        for name in era.types:
            anywhere = any(re.search(rf"/[\dT-]+-{name}\.{suffix}$", one) for one in names)
            own = any(one.endswith(f"/{era.date}-{name}.{suffix}") for one in names)
            assert own or (era.is_of_gguf and anywhere), (era.date, name)


def test_names_are_given_once_and_stories_are_a_line() -> None:
    every = list(specimens())
    assert len({specimen.name for specimen in every}) == len(every) > 220
    for specimen in every:
        assert specimen.story
        assert "\n" not in specimen.story
        assert specimen.says, specimen.name


def test_the_same_bytes_everywhere(tmp_path: Path) -> None:
    make_zoo(tmp_path / "zoo", "*.pth")
    digest = sha256()
    for path in sorted((tmp_path / "zoo").rglob("*.pth")):
        digest.update(path.relative_to(tmp_path).as_posix().encode() + b"\0" + path.read_bytes())
    assert digest.hexdigest() == "2a9254171d17051ea60a096468acc7b8f0bca88a8daf0996476a56e0c9a0e725"


def test_the_page_tells_every_story(tmp_path: Path) -> None:
    code, said = run(["zoo", str(tmp_path / "zoo"), "--match", "broken/safetensors/*"])
    assert code == 0
    assert re.search(r"zoo: 11 files and directories, 11 of them broken", said)
    page = (tmp_path / "zoo" / "README.md").read_text("utf-8")
    for specimen in specimens("broken/safetensors/*"):
        assert specimen.story in page
        assert Path(specimen.name).name in page


def test_a_directory_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(UsageError, match="is not an empty directory"):
        make_zoo(tmp_path)
    with pytest.raises(UsageError, match="no specimen is named unicorns"):
        make_zoo(tmp_path / "new", "unicorns")


# ── every complaint has its animal ───────────────────────────────────────────────────────────────────────────────────

READERS = (
    "ggmlpy/formats/ggml_reader.py", "ggmlpy/formats/gguf.py", "ggmlpy/formats/gguf_model.py",
    "ggmlpy/formats/gguf_values.py", "ggmlpy/formats/fields.py", "ggmlpy/formats/multipart.py",
    "ggmlpy/files/json_files.py", "ggmlpy/look/check.py", "llama_ref/checkpoint/legacy.py",
    "llama_ref/checkpoint/meta.py", "llama_ref/checkpoint/params.py", "llama_ref/checkpoint/pth.py",
    "llama_ref/checkpoint/safetensors_file.py", "llama_ref/checkpoint/folder.py", "llama_ref/checkpoint/layout.py",
    "llama_ref/checkpoint/huggingface.py", "llama_ref/checkpoint/opening.py",
    "llama_ref/vocabulary/sentencepiece_model.py", "llama_ref/vocabulary/tokenizer_file.py",
    "lora/merging/adapter_config.py", "lora/merging/adapter_files.py", "lora/merging/adapter_tensors.py",
    "lora/merging/checks.py", "lora/exchange/ggla.py",
)  # fmt: skip
# What no small file in a directory of its own can show, and why.
ELSEWHERE = {
    "too large for a": "a file of many megabytes",
    "a length is negative": "every reader checks a length before it takes bytes",
    "of this part can't be joined to the others": "parts of other shapes have other headers, which is said first",
    "no such directory": "there is no file",
    "no model.safetensors or pytorch_model.bin here": "said of a directory with another weight file, asked by name",
    "does not divide into .+ heads of an even size": "params.json is looked at before the tensors",
    "no consolidated.00.pth here": "said of a directory with another weight file, asked by name",
    "cannot be opened: .+": "a file that may not be read",
    "the data of tensor .+ ends early": "a file that shrinks while it is read",
    "cannot read the tokenizer: .+": "a file that may not be read",
    "the tokenizer ends inside a field": "sentencepiece itself refuses it first",
    "a byte piece has another form": "sentencepiece itself refuses it first",
    "not a ggla adapter": "identify goes by the magic",
    "this adapter can't be written as ggla": "a writer's",
    "is longer than the ZIP's directory says": "zipfile itself notices first in most versions of Python",
    "is shorter than the ZIP's directory says": "zipfile itself notices first in most versions of Python",
    "would expand .+ bytes to": "takes a directory that lies, which the tests of adapters forge",
}


def complaints() -> Iterator[tuple[str, str]]:
    """File and first words of each error that a reader can raise about a file, as a pattern."""
    for reader in READERS:
        for node in ast.walk(ast.parse((ROOT / reader).read_text("utf-8"))):
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if re.fullmatch(r"(?!Usage|Output|Type|Value)\w+Error", called):
                yield from ((reader, pattern) for pattern in patterns_of(node.args[0]))


def patterns_of(node: ast.expr) -> list[str]:
    """The texts that an expression can be: a constant, an f-string, either of two."""
    if isinstance(node, ast.Constant):
        return [re.escape(str(node.value))]
    if isinstance(node, ast.JoinedStr):
        return ["".join(re.escape(str(v.value)) if isinstance(v, ast.Constant) else ".+" for v in node.values)]
    if isinstance(node, ast.IfExp):
        return [*patterns_of(node.body), *patterns_of(node.orelse)]
    if isinstance(node, ast.BinOp):
        return patterns_of(node.left)
    return []


@cache
def what_is_said() -> str:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return "\n".join(look(specimen, Path(folder))[1] for specimen in specimens("broken/*"))


@pytest.mark.parametrize(("reader", "pattern"), sorted(set(complaints())))
def test_every_complaint_has_a_file_that_provokes_it(reader: str, pattern: str) -> None:
    excused = any(words in pattern.replace("\\", "") for words in ELSEWHERE)
    assert bool(re.search(pattern, what_is_said())) != excused, f"{reader}: {pattern}"
