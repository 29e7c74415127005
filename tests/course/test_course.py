"""Solutions pass, plausible wrong ones are found out with the right hint, and the grader keeps its bounds."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ggmlpy.files.errors import UsageError
from tests.docs.blocks import run
from toolchain.course.grading import Grade, check_project
from toolchain.course.projects import PROJECTS, project_named
from toolchain.course.starting import start_project

SOLUTIONS = Path(__file__).with_name("solutions")
NUMBERS = sorted(PROJECTS)


def graded(number: int, program: Path, seed: int = 7, interpreter: str = sys.executable, **how: object) -> Grade:
    command = f"{shlex.quote(interpreter)} {shlex.quote(str(program))} {{in}} {{out}}"
    return check_project(PROJECTS[number], command, seed=seed, **how)


def said(grade: Grade) -> str:
    return "\n".join([*grade.lines(), grade.sentence()])


# ── solutions ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", NUMBERS)
def test_a_solution_passes(number: int) -> None:
    grade = graded(number, SOLUTIONS / f"{PROJECTS[number].slug}.py")
    assert grade.exit_code == 0, said(grade)
    assert grade.sentence().endswith("inputs right; solved")


@pytest.mark.parametrize(("number", "program"), [(2, "vocabulary.pl"), (7, "rope.js"), (10, "sampling.js")])
def test_a_solution_in_another_language_passes(number: int, program: str) -> None:
    name = {".pl": "perl", ".js": "node"}[Path(program).suffix]
    interpreter = shutil.which(name)
    if interpreter is None:
        pytest.skip(f"{name} is not installed")
    grade = graded(number, SOLUTIONS / program, interpreter=interpreter)
    assert grade.exit_code == 0, said(grade)


def test_a_solution_in_c_passes(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    program = tmp_path / "mine"
    subprocess.run([compiler, "-O2", "-o", str(program), str(SOLUTIONS / "q4_0.c"), "-lm"], check=True)
    grade = check_project(PROJECTS[3], f"{program} {{in}} {{out}}", seed=7)
    assert grade.exit_code == 0, said(grade)


# ── wrong solutions ──────────────────────────────────────────────────────────────────────────────────────────────────

# fmt: off
WRONG: list[tuple[int, str, str, str]] = [  # project, what the solution says, what a wrong one says, words of the hint
    (1, '(0, 4) if name == "ggml" else', '(struct.unpack_from("<i", data, 4)[0], 8) if name == "ggml" else',
     "the file without a version"),
    (1, '"<7i"', '">7i"', "numbers are little-endian"),
    (1, "container {name}", "container {data[:4].decode()}", "backwards in the file"),
    (1, '"n_head", "n_layer"', '"n_layer", "n_head"', "is not right"),
    (2, "text.hex() or", "text.decode('utf-8', 'replace').encode().hex() or", "a piece is bytes, not text"),
    (2, 'line += f" {struct', '_ = f" {struct', "behind each text stands its score"),
    (2, "or '-'", "or ''", "is not right"),
    (3, "np.stack([low, high]", "np.stack([high, low]", "in its lower half"),
    (3, "np.stack([low, high], axis=2).reshape(-1, 32)", "np.concatenate([low, high], axis=1)",
     "values 0 and 1 share a byte"),
    (3, "- np.float32(8)", "- np.float32(0)", "the number plus 8"),
    (3, "np.trunc(scaled + np.copysign(np.float32(0.5), scaled))", "np.round(scaled)", "away from zero"),
    (3, "np.trunc(scaled + np.copysign(np.float32(0.5), scaled))", "np.floor(scaled)", "not rounded down"),
    (3, "np.trunc(scaled + np.copysign(np.float32(0.5), scaled))", "np.trunc(scaled)", "not cut off"),
    (3, "np.float32(7)", "np.float32(8)", "scale and codes differ"),
    (3, '"<f4"), ("codes", "u1", 16)]))\n    result["d"]', '"<f2"), ("codes", "u1", 16)]))\n    result["d"]',
     "not the right number"),
    (4, '(" " + text)', "text", "puts a space in front"),
    (4, "found = []", "found = [1]", "no beginning-of-text token"),
    (4, "[byte + 3 for byte in part]", "[0]", "one token for each of its UTF-8 bytes"),
    (4, "key=lambda pair: (scores[pair[0]], -pair[1])", "key=lambda pair: -pair[1]", "not the leftmost pair"),
    (4, "_, at = max(pairs, key=lambda pair: (scores[pair[0]], -pair[1]))",
     "_, at = max(pairs, key=lambda pair: len(parts[pair[1]] + parts[pair[1] + 1]))", "is not right"),
    (5, "offset + i * strides[0]", "offset + i * (shape[1] if len(shape) > 1 else 1)", "strides tell"),
    (5, "in run().items()", "in sorted(run().items())", "keep the order of the dictionary"),
    (6, "np.float32(scale) * (b @ a)", "(b @ a)", "counts lora_alpha / r times"),
    (6, 'config["lora_alpha"] / (', 'config["lora_alpha"] / 1 ** (', "divide lora_alpha by r"),
    (6, 'config["use_rslora"]', "False", "with use_rslora"),
    (6, "w.astype(np.float32) + ", "w.astype(np.float32) - ", "not taken away"),
    (6, "out[module] = a", "_ = a", "modules_to_save"),
    (7, "if given[\"halves\"][0, 0] else", "if not given[\"halves\"][0, 0] else", "look at halves"),
    (7, "-2 * i", "-1 * i", "a 2 is missing"),
    (7, "angle = position", "angle = (position + 1)", "one too many was added"),
    (7, "angle = position", "angle = -position", "the angle has a sign"),
    (8, " / np.sqrt(size)", "", "root of the size of a head"),
    (8, " / np.sqrt(size)", " / np.sqrt(q.shape[1])", "that of one head"),
    (8, "[: i + 1", "[:", "does not see those behind it"),
    (8, "h // (n_head // n_head_kv)", "h % n_head_kv", "query head h meets head"),
    (9, "x = x + attention(rope(q), rope(k), v)", "x = attention(rope(q), rope(k), v)", "are not right"),
    (9, "attention(rope(q), rope(k), v)", "attention(q, k, v)", "turned by their position"),
    (9, "silu(h @ given[\"w1\"].T) * (h @ given[\"w3\"].T)", "silu(h @ given[\"w3\"].T) * (h @ given[\"w1\"].T)",
     "the gate is w1"),
    (9, "z / (1 + np.exp(-z))", "np.maximum(z, 0)", "not through relu"),
    (9, "return rows / np.sqrt(", "rows = rows - rows.mean(axis=1, keepdims=True)\n    return rows / np.sqrt(",
     "this norm takes no mean away"),
    (10, "(first + second * 2**32)", "(second + first * 2**32)", "counts least"),
    (10, "        second = output()\n", "        second = 0\n", "is not right"),
    (10, "penalty if scores[token] < 0 else 1 / penalty", "1 / penalty", "multiplied by the penalty"),
    (10, "recent.append(token)", "pass", "is not right"),
    (11, "row[\"shape\"][::-1]", "row[\"shape\"]", "columns come first"),
    (11, 'struct.pack("<Q", len(data)) + data', 'struct.pack("<Q", len(value)) + data', "bytes in UTF-8"),
    (11, "alignment = value", "pass", "aligned"),
    (11, 'struct.pack("<IQ", 0, len(data))', 'struct.pack("<IQ", 0, len(data) + 1024)',
     "from the beginning of the data"),
    (11, 'NUMBERS |= {"f32": (6, "<f"), "bool": (7', 'NUMBERS |= {"f32": (6, "<f"), "bool": (0', "has another type"),
    (12, '(("f32", x), ("f16", halves))', '(("f32", x),)', "half precision"),
    (12, "== data]", "[:20] == data[:20]]", "one byte that differs is enough"),
    (12, '("signed", "cut", "halves", "<f4")', '("signed", "cut", "pairs", "<f4")', "is not right"),
    (1, "name = names[magic]", 'name = "ggjt"', "all were taken for ggjt"),
    (2, '"{index} ', '"{index + 1} ', "is not right"),
    (3, "codes[:, 0::2] | codes[:, 1::2] << 4", "codes[:, :16] | codes[:, 16:] << 4", "came in May 2023"),
    (3, "codes[:, 0::2] | codes[:, 1::2] << 4", "codes[:, 1::2] | codes[:, 0::2] << 4", "in its lower half"),
    (5, "places(shape, strides, offset))", "places(shape, strides, 0))", "begins at its storage offset"),
    (5, "places(shape, strides, offset))", "places(shape, strides, offset // size))", "in values, not in bytes"),
    (5, "content[p * size : p * size + size]", "content[p * size : p * size + size][::-1]", "little-endian"),
    (6, "np.float32(scale) * (b @ a)", "0", "nothing was added"),
    (7, "angle = position", "angle = (position - 1)", "one too many was taken away"),
    (7, "size = x.shape[1] // n_head", "size, n_head = x.shape[1], 1", "each head is turned by itself"),
    (8, "shares = np.exp(scores - scores.max())", "shares = scores", "are not right"),
    (9, 'h = norm(x, given["ffn_norm"])', "h = x", "feed-forward gets normed rows"),
    (9, 'h = norm(x, given["attention_norm"])', "h = x", "attention gets normed rows"),
    (9, "(h @ given[name].T", "(h @ given[name]", "times its transpose"),
    (9, '@ given["wo"].T', '@ given["wo"]', "times its transpose"),
    (9, 'silu(h @ given["w1"].T)', '(h @ given["w1"].T)', "the gate goes through silu"),
    (9, 'given["attention_norm"]', 'given["ffn_norm"]', "are not right"),
    (10, "        second = output()\n        draw, sum_so_far = (first + second * 2**32) / 2**64",
     "        draw, sum_so_far = first / 2**32", "a draw takes two numbers"),
    (10, "(first + second * 2**32) / 2**64", "((first >> 5) * 2**26 + (second >> 6)) / 2**53", "counts least"),
    (10, "def output():\n    global at\n",
     "import random\nrng = random.Random(seed)\ndef output():\n    return rng.getrandbits(32)\n    global at\n",
     "stir the seed"),
    (10, "        kept.append(chance / total)\n",
     "        kept += [chance / total] * bool(not kept or "
     "reached + chance / total < top_p)\n", "the candidate that reaches top_p is kept"),
    (10, "    if len(kept) > 1:\n", "    if True:\n", "where one candidate is left nothing is drawn"),
    (10, "-scores[token])[:top_k]", "-scores[token])[:top_k]; order.sort()", "in the order of their chances"),
    (11, "write(padded(head) + data)", "write(head + data)", "the last tensor is padded, too"),
    (11, "data += padded(", "data += (", "a multiple of the alignment"),
    (11, '"<IQQ", 3,', '"<IQQ", 2,', "this is version 2"),
    (11, 'len(document["tensors"]), len(document["metadata"])', 'len(document["metadata"]), len(document["tensors"])',
     "a reader refuses the file"),
    (12, '(("f32", x), ("f16", halves))', '(("f16", halves),)', "try both"),
]
# fmt: on


def written(program: Path, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> bytes | None:
    """What a Python program writes; None if it fails. In this process, which is quicker than the grader's way."""
    monkeypatch.setattr(sys, "argv", [str(program), str(source), str(out)])
    try:
        runpy.run_path(str(program), run_name="__main__")
    except (Exception, SystemExit):
        return None
    return out.read_bytes()


def verdicts(number: int, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What there is to say of each input that the program gets wrong."""
    project, found = PROJECTS[number], []
    for index, kind in enumerate(project.kinds):
        folder = tmp_path / f"input-{index}"
        folder.mkdir()
        source = project.make(np.random.RandomState(index), kind, folder)
        output = written(program, source, folder / project.output, monkeypatch)
        if kind in project.refused:
            found += ["taken"] if output is not None else []
        elif output is None:
            found.append("failed")
        elif difference := project.differ(source, project.answer(source), output):
            found.append(f"{difference.words}; {difference.hint or project.hint_for(source, output)}")
    return found


@pytest.mark.parametrize(("number", "old", "new", "hint"), WRONG, ids=lambda value: str(value)[:30])
def test_a_wrong_solution_is_found_out(number, old, new, hint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (SOLUTIONS / f"{PROJECTS[number].slug}.py").read_text("utf-8")
    assert old in text
    monkeypatch.syspath_prepend(str(SOLUTIONS))
    (tmp_path / "mine.py").write_text(text.replace(old, new), "utf-8")
    assert hint in "\n".join(verdicts(number, tmp_path / "mine.py", tmp_path, monkeypatch))


@pytest.mark.parametrize("number", NUMBERS)
def test_a_start_file_is_no_solution(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_project(PROJECTS[number], tmp_path / "begun")
    wrong = verdicts(number, tmp_path / "begun" / "mine.py", tmp_path, monkeypatch)
    assert len(wrong) == len(PROJECTS[number].kinds) - len(PROJECTS[number].refused)


@pytest.mark.parametrize("number", NUMBERS)
def test_an_output_that_was_written_down_earns_nothing(number: int, tmp_path: Path) -> None:
    project = PROJECTS[number]
    start_project(project, tmp_path / "begun")
    output = (tmp_path / "begun" / "example" / project.output).read_bytes()
    for index, kind in enumerate(project.kinds):
        (tmp_path / str(index)).mkdir()
        source = project.make(np.random.RandomState(index), kind, tmp_path / str(index))
        assert kind in project.refused or project.differ(source, project.answer(source), output), kind


@pytest.mark.parametrize("number", NUMBERS)
def test_inputs_are_new_each_time_and_the_same_from_a_seed(number: int, tmp_path: Path) -> None:
    project = PROJECTS[number]

    def made(name: str, seed: int) -> list[bytes]:
        (tmp_path / name).mkdir()
        source = project.make(np.random.RandomState(seed), project.kinds[0], tmp_path / name)
        return [
            path.read_bytes() for path in sorted(source.rglob("*") if source.is_dir() else [source]) if path.is_file()
        ]

    assert made("a", 1) == made("b", 1) != made("c", 2)


@pytest.mark.parametrize("number", NUMBERS)
def test_every_mistake_differs_from_the_answer_on_some_input(number: int, tmp_path: Path) -> None:
    project = PROJECTS[number]
    telling = set()
    for index, kind in enumerate(project.kinds * 2):
        folder = tmp_path / str(index)
        folder.mkdir()
        source = project.make(np.random.RandomState(index), kind, folder)
        if kind in project.refused:
            continue
        right = project.answer(source)
        assert project.differ(source, right, right) is None
        for mistake in project.mistakes:
            try:
                wrong = mistake.answer(source)
            except (ValueError, IndexError, OverflowError, KeyError):
                continue
            if project.differ(source, right, wrong):
                telling.add(mistake.hint)
    never = {mistake.hint for mistake in project.mistakes} - telling
    assert never <= {"multiply by 1 / d, which is rounded once, instead of dividing by d"}


# ── the grader ───────────────────────────────────────────────────────────────────────────────────────────────────────


def program(tmp_path: Path, text: str) -> Path:
    (tmp_path / "mine.py").write_text(text)
    return tmp_path / "mine.py"


def test_a_program_that_unpickles_is_caught(tmp_path: Path) -> None:
    mine = program(tmp_path, "import pickle, sys, zipfile\nz = zipfile.ZipFile(sys.argv[1])\n"
                   "pickle.loads(z.read(next(n for n in z.namelist() if n.endswith('data.pkl'))))\n")  # fmt: skip
    assert "ran what the pickle says: a directory was made" in said(graded(5, mine))


def test_a_program_that_does_not_end_is_ended(tmp_path: Path) -> None:
    mine = program(tmp_path, "import time\ntime.sleep(60)\n")
    grade = graded(1, mine, timeout=0.3)
    assert {result.words for result in grade.results} == {"timed out: 'after 0.3 s'"}


def test_a_program_that_writes_without_end_is_ended(tmp_path: Path) -> None:
    mine = program(tmp_path, "while True:\n    print('x' * 1000000)\n")
    assert "too much: 'more than 16,777,216 bytes of output'" in said(graded(6, mine))


@pytest.mark.parametrize("number", NUMBERS)
def test_a_program_that_takes_its_input_for_its_output(number: int, tmp_path: Path) -> None:
    mine = program(tmp_path, "import os, sys\npath = sys.argv[1]\n"
                   "path = os.path.join(path, os.listdir(path)[0]) if os.path.isdir(path) else path\n"
                   "open(path, 'w').write('x')\nopen(sys.argv[2], 'w').write('x')\n")  # fmt: skip
    words = said(graded(number, mine))
    assert "wrong   " in words
    assert words.count("the program changed its input\n") == len(PROJECTS[number].kinds)
    assert "hint: {in} is only read; what it makes goes to {out}" in words


def test_a_program_that_removes_its_input(tmp_path: Path) -> None:
    mine = program(tmp_path, "import os, sys\nos.rename(sys.argv[1], sys.argv[2])\n")
    assert "the program changed its input" in said(graded(1, mine))


@pytest.mark.skipif(os.name == "nt", reason="a directory is no file that can be linked there")
@pytest.mark.parametrize(
    "made", ["os.mkdir(out)", "os.mkfifo(out)", "os.symlink('/dev/zero', out)", "os.symlink(out, out)"]
)
def test_an_output_that_is_no_file(made: str, tmp_path: Path) -> None:
    mine = program(tmp_path, f"import os, sys\nout = sys.argv[2]\n{made}\n")
    assert "no output: the program wrote no file" in said(graded(1, mine))


@pytest.mark.skipif(os.name == "nt", reason="processes are ended one by one there")
def test_what_a_program_has_started_ends_with_it(tmp_path: Path) -> None:
    """Children that hold its stdout, and go on writing, neither hold up the check nor outlive it."""
    late = tmp_path / "late"
    child = f"import time; time.sleep(3); open({str(late)!r}, 'w')"
    mine = program(tmp_path, f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {child!r}])\n")
    began = time.monotonic()
    grade = graded(8, mine, timeout=2)
    assert time.monotonic() - began < 60
    assert {result.words.partition(":")[0] for result in grade.results} == {"no output"}
    time.sleep(3)
    assert not late.exists()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="nothing tells how much memory a process holds")
def test_a_program_that_takes_memory_without_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolchain.course.grading.MEMORY", 200 << 20)
    mine = program(tmp_path, "import time\nheld = []\nwhile True:\n    held.append(bytearray(b'x' * 5_000_000))\n"
                   "    time.sleep(0.005)\n")  # fmt: skip
    grade = graded(2, mine)
    assert {result.words for result in grade.results} == {"too much: 'more than 209,715,200 bytes of memory'"}


def test_a_program_that_reads_from_the_keyboard_finds_nothing_there(tmp_path: Path) -> None:
    grade = graded(1, program(tmp_path, "import sys\nassert sys.stdin.read() == ''\n"), timeout=20)
    assert {result.words.partition(":")[0] for result in grade.results} == {"no output"}


def test_paths_with_spaces_and_chinese_names(tmp_path: Path) -> None:
    folder = tmp_path / "我的 作业 'eins'"
    folder.mkdir()
    for name in ("header.py", "lora.py", "arrays_of_text.py"):
        shutil.copy(SOLUTIONS / name, folder / name)
    assert graded(1, folder / "header.py", keep=folder / "试 一").exit_code == 0
    assert graded(6, folder / "lora.py", keep=folder / "试 二").exit_code == 0


def test_what_a_program_says_when_it_fails_is_shown_in_a_line(tmp_path: Path) -> None:
    mine = program(tmp_path, "import sys\nsys.exit('no \\x1b[31m idea')\n")
    words = said(graded(1, mine))
    assert "failed: 'exit code 1: no \\\\x1b[31m idea'" in words or "\x1b" not in words
    assert "hint: run it on the kept input" in words


def test_a_program_that_writes_nothing(tmp_path: Path) -> None:
    assert "no output: the program wrote no file" in said(graded(1, program(tmp_path, "pass\n")))


def test_what_is_printed_is_the_output_without_out() -> None:
    solution = str(SOLUTIONS / "header.py")
    copy = f"import sys, runpy; sys.argv = ['x', sys.argv[1], '/dev/stdout']; runpy.run_path({solution!r})"
    if os.name == "nt":
        pytest.skip("there is no /dev/stdout")
    grade = check_project(PROJECTS[1], f"{sys.executable} -c {shlex.quote(copy)} {{in}}", seed=3)
    assert grade.exit_code == 0, said(grade)


def test_no_shell_sees_the_command(tmp_path: Path) -> None:
    grade = check_project(PROJECTS[1], f"echo {{in}} ; touch {tmp_path / 'shell'}", seed=3)
    assert grade.exit_code == 1
    assert not (tmp_path / "shell").exists()


@pytest.mark.parametrize("command", ["./mine", "./mine {in} {type}", "./mine '{in}"])
def test_a_command_that_cannot_be_run_is_a_usage_error(command: str) -> None:
    with pytest.raises(UsageError):
        check_project(PROJECTS[1], command)


def test_the_answer_is_never_shown(tmp_path: Path) -> None:
    """No number of the answer that the program did not write itself stands in the words."""
    mine = program(tmp_path, "import sys\nopen(sys.argv[2], 'w').write('container ggxx\\n')\n")
    kept = tmp_path / "kept"
    grade = graded(1, mine, keep=kept)
    words = said(grade)
    for folder in sorted(kept.iterdir()):
        for line in PROJECTS[1].answer(folder / "model.bin").decode().splitlines():
            assert line not in words
    assert sorted(path.name for path in kept.rglob("*.txt")) == ["header.txt"] * 6
    assert not [path for path in kept.rglob("*") if "answer" in path.name]


def test_project_names() -> None:
    assert project_named("03") is project_named("q4_0") is PROJECTS[3]
    with pytest.raises(UsageError, match="no project '13'; there are 1 header, 2 vocabulary"):
        project_named("13")


# ── the commands ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, listed = run(["course", "list"])
    assert code == 0
    assert " 3  q4_0        Unpack q4_0, then quantize it to the byte  解开 q4_0，再逐字节量化" in listed
    assert run(["course", "start", "1", "one", "-q"]) == (0, "")
    names = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "one").rglob("*"))
    assert names == ["one/README.md", "one/example", "one/example/header.txt", "one/example/model.bin", "one/mine.py"]
    assert run(["course", "start", "1", "one"])[0] == 2
    solution = shlex.join([sys.executable, str(SOLUTIONS / "header.py"), "{in}", "{out}"])
    code, checked = run(["course", "check", "1", "--command", solution, "--json", "-q"])
    assert (code, json.loads(checked)["sentence"]) == (0, "project 1: 6 of 6 inputs right; solved")
    wrong = shlex.join([sys.executable, str(tmp_path / "one" / "mine.py"), "{in}", "{out}"])
    code, checked = run(["course", "check", "1", "--command", wrong, "--seed", "5"])
    assert code == 1
    assert re.search(r"wrong   ggml: line 1 is not right.*\n", checked)
    assert checked.splitlines()[-1] == "project 1: 0 of 6 inputs right; the same inputs again: --seed 5"


def test_the_checks_arithmetic_is_the_toolchains(tmp_path: Path) -> None:
    """Project 7's answer is what the reference arithmetic computes."""
    from toolchain.course import arrays
    from toolchain.course.backend import ArrayBackend

    path = PROJECTS[7].make(np.random.RandomState(3), "several heads in pairs", tmp_path)
    given = arrays.read(path)
    heads = given["x"].reshape(len(given["x"]), int(given["n_head"][0, 0]), -1).astype(np.float32)
    backend = ArrayBackend(heads.shape[-1])
    turned = arrays.parse(PROJECTS[7].answer(path))["x"]
    for row, position in enumerate(given["position"][0].astype(int)):
        expected = backend.rope(heads[row : row + 1], int(position)).reshape(-1)
        assert np.allclose(turned[row], expected, atol=1e-4)
