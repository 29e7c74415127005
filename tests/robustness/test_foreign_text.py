"""What the maker of a file chose reaches no terminal as it is: no control character, no line of its own."""

from __future__ import annotations

import io
import json
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy import TENSOR_TYPES, FormatError, ModelParams, UsageError
from ggmlpy.files.foreign import UNSAFE, visible
from ggmlpy.formats.gguf import open_gguf
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.gguf_writer import write_gguf
from ggmlpy.formats.importance import write_importance
from ggmlpy.formats.opening import open_model
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.quantizers.migration import migrate
from ggmlpy.verify.verdict import markdown_table
from llama_ref.checkpoint import LazyTensor
from llama_ref.checkpoint.safetensors_file import write_safetensors
from tests.fuzz import scenes
from tests.ggmlpy.models import write_tiny
from tests.lora.test_adapter import CONFIG
from tests.lora.test_merge import inputs
from toolchain.commands.main import main
from toolchain.terminal.foreign import escape, safe_json
from toolchain.terminal.talk import put

#: sets a title, clears the screen, erases a line, forges another, colors it with C1, and turns it around
ATTACK = "\x1b]0;owned\x07\x1b[2J\r\x1b[2Km.bin: fine\n\x9b31m\u202e\u2066\u2028\u200f\x85x"
FORGED = "m.bin: fine"
NAMED = ATTACK.replace("/", "")  # a name of a file
SMALL = ModelParams.from_header(300, 32, 32, 2, 1, 16, 0)

Plant = Callable[[Path, Path], list[Path]]  # (folder, golden files) -> the files and folders to show


def tensor_of_ggml(folder: Path, _: Path) -> list[Path]:
    def change(tensors: list[OutTensor]) -> list[OutTensor]:
        return [replace(tensors[0], name=ATTACK), *tensors[1:]]

    return [write_tiny(folder / "m.bin", "ggjt", 1, "f32", hparams=SMALL, change=change)]


def _gguf(folder: Path, more: dict[str, Value], tensor: str = "") -> list[Path]:
    with open_model(write_tiny(folder / "m.bin", "ggjt", 3, "f32", hparams=SMALL)) as model:
        migrate(model, folder / "plain.gguf", "gguf", 3)
    file = open_gguf(folder / "plain.gguf")
    tensors = [OutTensor(n, t.type, t.shape, lambda d=t.data: [d]) for n, t in file.tensors.items()]
    if tensor:
        tensors[0] = replace(tensors[0], name=tensor)
    write_gguf(folder / "m.gguf", {**file.metadata, **more}, tensors)
    return [folder / "m.gguf"]


def tensor_of_gguf(folder: Path, _: Path) -> list[Path]:
    return _gguf(folder, {}, ATTACK)


def metadata(folder: Path, _: Path) -> list[Path]:
    texts = Value("array", [ATTACK.encode()] * 2, "string")
    return _gguf(folder, {ATTACK: Value("string", ATTACK.encode()), "general.name": texts, "a": texts})


def architecture(folder: Path, _: Path) -> list[Path]:
    return _gguf(folder, {"general.architecture": Value("string", ATTACK.encode())})


def tokenizer_model(folder: Path, _: Path) -> list[Path]:
    return _gguf(folder, {"tokenizer.ggml.model": Value("string", ATTACK.encode())})


def model_type(folder: Path, _: Path) -> list[Path]:
    (folder / "config.json").write_text(json.dumps({"model_type": ATTACK, "architectures": [ATTACK], ATTACK: 1}))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {ATTACK: ATTACK}}))
    (folder / "model.safetensors").write_bytes(bytes(8))
    return [folder]


def _adapter(folder: Path, data: Path, **config: object) -> list[Path]:
    _, (adapter,) = inputs(data, "v11-llama")
    shutil.copytree(adapter, folder / "adapter", copy_function=shutil.copyfile)
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps({**CONFIG, "r": 8, **config}))
    return [folder / "adapter"]


def peft_type(folder: Path, data: Path) -> list[Path]:
    return _adapter(folder, data, peft_type=ATTACK)


def key_of_an_adapter(folder: Path, data: Path) -> list[Path]:
    lists = {key: [ATTACK] for key in ("modules_to_save", "target_modules")}
    return _adapter(folder, data, **lists, **{ATTACK: ATTACK, "bias": ATTACK, "base_model_name_or_path": ATTACK})


def member_of_an_archive(folder: Path, data: Path) -> list[Path]:
    with zipfile.ZipFile(folder / "adapter.zip", "w") as archive:
        for name in (ATTACK, f"{ATTACK}/adapter_config.json", f"{ATTACK}/adapter_model.bin"):
            archive.writestr(zipfile.ZipInfo(name), b"{}")
    return [folder / "adapter.zip"]


def list_of_digests(folder: Path, _: Path) -> list[Path]:
    one_line = ATTACK.replace("\n", "").replace("\x85", "").replace("\u2028", "").replace("\r", "")
    text = f"{'0' * 64}  {one_line}\n{'1' * 64}  ../{one_line}\n"
    (folder / "SHA256SUMS").write_text(text, encoding="utf-8")
    (folder / "other.sha256").write_text(f"{'0' * 64}  {one_line}\n", encoding="utf-8")
    return [folder / "SHA256SUMS", folder / "other.sha256", folder]


def names_of_files(folder: Path, _: Path) -> list[Path]:
    model = write_tiny(folder / f"{NAMED}.bin", "ggjt", 1, "f32", hparams=SMALL)
    junk = folder / f"{NAMED}.gguf"
    junk.write_bytes(b"GGUF" + bytes(40))
    (folder / NAMED).mkdir()
    (folder / NAMED / "tokenizer.model").write_bytes(b"no tokenizer")
    return [model, junk, folder / NAMED, folder]


def bytes_that_are_no_text(folder: Path, _: Path) -> list[Path]:
    path = folder / "m\udc9b31m.bin"
    write_tiny(path, "ggjt", 1, "f32", hparams=SMALL)
    return [path, folder]


def importance(folder: Path, _: Path) -> list[Path]:
    sums = {ATTACK: np.ones(4, np.float32), "blk.0.attn_q.weight": np.ones(4, np.float32)}
    for kind in ("gguf", "dat"):
        write_importance(folder / f"i.{kind}", sums, 8, format=kind, dataset=ATTACK, n_chunks=1, chunk_size=8)
    return [folder / "i.gguf", folder / "i.dat"]


def adapters_of_llama_cpp(folder: Path, data: Path) -> list[Path]:
    """Names of tensors, architecture and type; and one whose halves lack their partners."""
    made = []
    for name, keys in {"a": {}, "b": {"general.architecture": ATTACK}, "c": {"adapter.type": ATTACK}}.items():
        said = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"} | keys
        f32 = TENSOR_TYPES["f32"]
        halves = [
            OutTensor(f"{ATTACK}{side}", f32, (2, 2), lambda: [np.ones((2, 2), "<f4")])
            for side in (".lora_a", ".lora_b")
        ]
        write_gguf(folder / f"{name}.gguf", {k: Value("string", v.encode()) for k, v in said.items()}, halves)
        made.append(folder / f"{name}.gguf")
    encoded = f"{ATTACK}.loraA".encode()
    tensor = struct.pack("<5i", 2, len(encoded), 0, 2, 2) + encoded
    start = struct.pack("<4i", 0x67676C61, 1, 2, 4) + tensor
    (folder / "ggml-adapter-model.bin").write_bytes(start + bytes(-len(start) % 32 + 16))
    return [*made, folder / "ggml-adapter-model.bin"]


def template(folder: Path, data: Path) -> list[Path]:
    """A model whose chat template refuses, in words of its own; and one that is no template."""
    made = []
    for name, text in {"refuses": "{{ raise_exception('%s') }}", "broken": "{%% %s %%}"}.items():
        (made_here,) = _gguf(folder, {"tokenizer.chat_template": Value("string", (text % ATTACK).encode())})
        made.append(made_here.rename(folder / f"{name}.gguf"))
    return made


def tokenizer_json(folder: Path, data: Path) -> list[Path]:
    """A model's folder with a tokenizer.json of another kind, and keys and tokens that nobody expects."""
    scenes.huggingface("safetensors")(folder)
    (folder / "tokenizer.model").unlink()
    (folder / "added_tokens.json").unlink()
    tokens = [{"id": 1, "content": ATTACK, "special": True}]
    parts = {"model": {"type": ATTACK}, "normalizer": {"type": ATTACK}, "added_tokens": tokens}
    (folder / "tokenizer.json").write_text(json.dumps(parts))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": ATTACK, "tokenizer_class": ATTACK}))
    (folder / "generation_config.json").write_text(json.dumps({ATTACK: ATTACK, "eos_token_id": ATTACK}))
    (folder / "README.md").write_text(f"---\nlicense: {json.dumps(ATTACK)}\nbase_model: {json.dumps(ATTACK)}\n---\n")
    return [folder, folder / "tokenizer.json"]


def prepared_data(folder: Path, _: Path) -> list[Path]:
    tensors = [LazyTensor.of_array(name, np.zeros(1, np.float32)) for name in ("ids", ATTACK)]
    write_safetensors(folder / "x.safetensors", tensors, {"kind": ATTACK, ATTACK: ATTACK, "recipe": ATTACK})
    return [folder / "x.safetensors"]


def statement(folder: Path, _: Path) -> list[Path]:
    plain = write_tiny(folder / "m.bin", "ggjt", 1, "f32", hparams=SMALL)
    assert main(["quantize", str(plain), str(folder / "q.bin"), "q4_0", "-q"]) == 0
    assert (
        main(["verify", str(folder / "q.bin"), "--source", str(plain), "--attest", str(folder / "s.json"), "-q"]) == 0
    )
    said = json.loads((folder / "s.json").read_text())
    asked = said["predicate"]["buildDefinition"]["externalParameters"]
    asked |= {"step": ATTACK, "verdict": ATTACK, "output": NAMED, "source": NAMED, "era": ATTACK}
    said["subject"][0]["name"] = NAMED
    (folder / "s.json").write_text(json.dumps(said))
    return [folder / "s.json"]


PLANTS = (
    tensor_of_ggml,
    tensor_of_gguf,
    metadata,
    architecture,
    tokenizer_model,
    model_type,
    peft_type,
    key_of_an_adapter,
    member_of_an_archive,
    list_of_digests,
    names_of_files,
    bytes_that_are_no_text,
    importance,
    adapters_of_llama_cpp,
    template,
    tokenizer_json,
    prepared_data,
    statement,
)
COMMANDS = (
    "identify {}",
    "identify {} --json",
    "inspect {} --tensors",
    "inspect {} --json",
    "hexdump {} --all",
    "hexdump {} --json",
    "hexdump {} --field nothing",
    "report {} --html {}.html",
    "fingerprint {}",
    "fingerprint {} --json",
    "compare {} {}",
    "compare {} {plain} --json",
    "compare {} {plain}",
    "compare {plain} {}",
    "verify {}",
    "verify {} --json",
    "verify {} --markdown",
    "verify {} --source {plain}",
    "verify {plain} --source {}",
    "verify {plain} --source {} --markdown",
    "doctor {}",
    "doctor {} --json",
    "tokenize -m {} text",
    "migrate {} {out}",
    "quantize {} {out} q4_0",
    "convert {} --outfile {out}",
    "to-hf {} {out}",
    "from-hf {} {out}",
    "generate -m {} -p a -n 1 --numerics reference --verbose-prompt --json",
    "perplexity -m {} -f {}",
    "logits -m {} --tokens 1 --out {out}",
    "merge --base {base} --lora {} --output {out} --dry-run",
    "merge --base {} --lora {} --output {out} --dry-run",
    "instructions {}",
    "tokenizer stats {} {} -f {}",
    "chat -m {} --no-such-option {}",
    "chat -m {} -q -p a",
    "explain {} 100",
    "explain {} 400 --json",
    "tokenize -m {} text --json",
    "tokenize -m {} --compare text",
    "imatrix -m {} -f {plain} -o {out}",
    "bench -m {} -r 1 -n 2",
    "quantize {plain} {out} q4_0 --imatrix {}",
    "inspect {} --metadata",
    "generate -m {plain} --lora {} -p a -n 1",
    "convert {} --outfile {out} --base {base}",
    "convert {} --outfile {out} --container gguf",
    "to-meta {} {out}",
    "ggml-to-pth {} {out}",
    "train prepare {} --tokenizer {} -o {out}",
    "train export {} --stage instruct -o {out}",
    "tokenizer merge {} {} {out}",
    "verify --statement {}",
    "generate {} --receipt {} --trace-sampling {}",
    "{} {}",
)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_no_command_lets_control_characters_through(
    plant: Plant, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))  # where pytest's cannot be read, chat gives out
    (tmp_path / "files").mkdir()
    (tmp_path / "out").mkdir()
    plain = write_tiny(tmp_path / "plain.bin", "ggjt", 1, "f32", hparams=SMALL, seed=1)
    base, _ = inputs(data, "v11-llama")
    shown = 0
    for number, path in enumerate(plant(tmp_path / "files", data)):
        for i, command in enumerate(COMMANDS):
            places = {"plain": plain, "out": tmp_path / "out" / f"{number}-{i}", "base": base}
            words = [word.format(path, path, **places) if "{" in word else word for word in command.split()]
            words = [str(path) if word == "{}" else word for word in words]
            try:
                code = main(words)
            except SystemExit as stopped:
                code = stopped.code
            out, err = capfd.readouterr()
            assert code in (0, 1, 2, 3), command
            for text in (out, err):
                assert not re.findall(UNSAFE, text.replace("\n", "").replace("\t", "")), (command, text)
                assert not re.search(f"^{FORGED}", text, re.MULTILINE), (command, text)
            if code > 1:
                said = [line for line in err.splitlines() if not line.startswith(("warning: ", "note: "))]
                assert len(said) <= 2 or "doctor" in command or "verify" in command, (command, err)
            shown += r"\x1b" in out + err or r"\u001b" in out + err or r"\x9b" in out + err
    assert shown, "nothing of the attack was shown: the test tests nothing"


@given(st.text())
def test_what_is_visible_is_one_line_without_controls(text: str) -> None:
    shown = visible(text)
    assert not re.findall(UNSAFE, shown)
    assert len(shown.splitlines()) <= 1
    assert not re.findall(UNSAFE, escape(text).replace("\n", "").replace("\t", ""))


@given(st.recursive(st.text() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_keeps_its_meaning(value: object) -> None:
    text = safe_json(value)
    assert json.loads(text) == value
    assert not re.findall(UNSAFE, text.replace("\n", ""))


@pytest.mark.parametrize("text", ["介绍北京，谢谢！", "👩‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿 👍🏽 e\u0301", "नमस्ते می\u200cخواهم 한국어"])
def test_scripts_and_emoji_stay_whole(text: str) -> None:
    assert visible(text) == text
    assert safe_json(text) == f'"{text}"'


@pytest.mark.parametrize("error", [FormatError(ATTACK, path=ATTACK, field=ATTACK, found=ATTACK), UsageError(ATTACK)])
def test_an_error_is_one_line(error: Exception) -> None:
    assert len(str(error).splitlines()) == 1
    assert not re.findall(UNSAFE, str(error))


def test_a_table_in_markdown_keeps_its_rows() -> None:
    assert len(markdown_table(["tensor"], [[ATTACK]]).splitlines()) == 3


def test_lines_that_are_put_stay_lines(capsys: pytest.CaptureFixture[str]) -> None:
    put("a\nb", "c")
    assert capsys.readouterr().out == "a\\nb\nc\n"


def test_only_the_terminal_prints() -> None:
    """Whatever a command prints goes through ``toolchain.terminal``, which makes it safe."""
    root = Path(__file__).resolve().parents[2]
    files = [file for file in (root / "toolchain").rglob("*.py") if file.parent.name != "terminal"]
    assert files
    assert not [file for file in files if re.search(r"(?<![\w.>]) +print\(|sys\.std(out|err)\.write", file.read_text())]
