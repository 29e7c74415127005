"""Receipts of texts: made anew elsewhere they are the same; what was changed is named."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from ggmlpy import open_model
from ggmlpy.files.errors import FormatError, MissingFileError
from ggmlpy.machine.features import MACHINE
from ggmlpy.quantizers.whole_file import quantize_file
from llama_ref.text import receipts
from llama_ref.text.receipts import read_receipt, write_receipt
from toolchain.commands.main import main
from toolchain.verify.receipts import verify_receipt

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests" / "data" / "ggml" / "T1x32_main_model" / "T1x32.p2.q4_0.bin"
PROMPT = ["-p", "Hello World, hello", "-n", "24", "-s", "42", "-q"]


def made(folder: Path, *options: str, model: Path = MODEL) -> Path:
    """A receipt of a text of the model's copy in a folder."""
    shutil.copy(model, folder / model.name)
    command = ["generate", "-m", str(folder / model.name), *PROMPT, *options, "--receipt", str(folder / "r.json")]
    with redirect_stdout(io.TextIOWrapper(io.BytesIO())):  # a text of any bytes
        assert main(command) == 0
    return folder / "r.json"


HOW = {
    "fast": [],
    "drafts": ["--draft", "8"],
    "f32 cache, greedy": ["--memory-f32", "--temp", "0"],
    "no end of text": ["--ignore-eos", "--top-k", "5"],
    "exact": ["--numerics", "exact", "--build", "avx2", "-b", "3"],
    "first era": ["--numerics", "exact", "--era", "2023-03-19", "-t", "2"],
    "reference": ["--numerics", "reference"],
    "context full": ["-c", "24", "--keep", "2"],
}


@pytest.mark.parametrize("how", HOW)
def test_a_receipt_is_verified_in_another_folder(tmp_path, how, capsys):
    (tmp_path / "here").mkdir()
    made(tmp_path / "here", *HOW[how])
    (tmp_path / "here").rename(tmp_path / "there")
    assert main(["verify", "--receipt", str(tmp_path / "there" / "r.json"), "-q"]) == 0
    assert "receipt: same: " in capsys.readouterr().out


def test_a_receipt_says_what_decides_the_text(tmp_path):
    receipt = read_receipt(made(tmp_path, "--top-p", "0.9"))
    assert (receipt.prompt, receipt.prompt_tokens[0], receipt.sampling.seed) == ("Hello World, hello", 1, 42)
    assert (receipt.sampling.top_p, receipt.arithmetic.era, receipt.arithmetic.machine) == (0.9, "2023-03-31", None)
    assert (len(receipt.made), receipt.ended_by) == (24, "length")
    assert receipt.model == MODEL.name
    assert len({each.logits for each in receipt.made}) == 24


def test_neither_batches_nor_drafts_nor_threads_change_a_digest(tmp_path):
    one = read_receipt(made(tmp_path, "-b", "1", "-t", "1"))
    other = read_receipt(made(tmp_path, "-b", "512", "-t", "2", "--draft", "4"))
    assert one.made == other.made


@pytest.mark.skipif(not MACHINE.is_x86, reason="another processor has no lesser one of its kind")
def test_other_processors_give_the_same_logits(tmp_path):
    command = [sys.executable, "cli.py", "verify", "--receipt", str(made(tmp_path)), "-q"]
    numpy = {"NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX2 AVX512F"}
    run = subprocess.run(
        command, env={**os.environ, "LLAMA_SIMD": "portable", **numpy}, capture_output=True, text=True, cwd=ROOT
    )
    assert (run.returncode, run.stdout) == (0, "receipt: same: 24 tokens, and the logits of each, bit for bit\n")


# ── what was changed ─────────────────────────────────────────────────────────────────────────────────────────────────


def forged(path: Path, **changes: object) -> Path:
    """A receipt with other values, and the digest that fits them."""
    record = asdict(read_receipt(path))
    for name, value in changes.items():
        *outer, last = name.split("__")
        place = record
        for each in outer:
            place = place[int(each) if each.isdigit() else each]
        place[last] = value
    path.write_text(json.dumps({**record, "sha256": receipts._digest(record)}))
    return path


FORGERIES = {
    "another token": ({"made__7__token": 100}, "parts at token 8 of 24: the same logits give"),
    "other logits": ({"made__7__logits": "0" * 32}, "parts at token 8 of 24: its logits have the digest"),
    "another seed": ({"sampling__seed": 43}, "parts at token"),
    "another temperature": ({"sampling__temp": 0.0}, "parts at token"),
    "another prompt": ({"prompt": "Hello world, hello"}, "the prompt has other tokens here"),
    "another cache": ({"arithmetic__memory_f32": True}, "parts at token"),
    "another arithmetic": ({"arithmetic__numerics": "reference"}, "parts at token 1 of 24: its logits"),
    "another end": ({"ended_by": "end of text"}, "the text ends otherwise: 24 tokens, length"),
    "a longer text": ({"n_predict": 25}, "the text goes on after the 24 tokens of the receipt"),
    "a shorter text": ({"n_predict": 20}, "the text ends otherwise: 20 tokens"),
    "another model": ({"fingerprint": "f" * 64}, "another model: the fingerprint of "),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_forged_receipts_are_found_out_by_computing(tmp_path, what):
    changes, words = FORGERIES[what]
    report = verify_receipt(forged(made(tmp_path), **changes))
    assert report.exit_code == 1
    assert words in report.sentence()
    assert report.as_dict()["tokens"] == 24


def test_every_change_without_its_digest_is_refused(tmp_path):
    path = made(tmp_path)
    text = path.read_text()
    generator = np.random.default_rng(3)
    for place in generator.integers(0, len(text), 60):
        path.write_text(text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :])
        if json.loads(text) == _loaded(path):
            continue  # white space
        with pytest.raises(FormatError):
            verify_receipt(path)


def _loaded(path: Path) -> object:
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None


def test_a_version_that_differs_is_named(tmp_path):
    path = forged(made(tmp_path), program="ggmlpy 0.0.1", made__3__logits="0" * 32)
    causes = verify_receipt(path).causes
    assert any("made by ggmlpy 0.0.1; this is ggmlpy" in cause for cause in causes)


def test_another_file_of_the_same_tensors_will_do_and_another_model_is_named(tmp_path, golden, capsys):
    path = made(tmp_path)
    moved = tmp_path / "moved.bin"
    (tmp_path / MODEL.name).rename(moved)
    assert main(["verify", "--receipt", str(path), "-q"]) == 3
    assert "verify --receipt R.json -m MODEL" in capsys.readouterr().err
    assert main(["verify", "--receipt", str(path), "-m", str(moved), "-q"]) == 0
    with open_model(golden("ggml/T1_convert_f16/T1.p2.f16.bin")) as model:
        assert main(["verify", "--receipt", str(path), "-m", str(model.path), "-q"]) == 1
    assert f"the receipt's {read_receipt(path).fingerprint}" in capsys.readouterr().out


def test_adapters_count(tmp_path, golden, capsys):
    lora = tmp_path / "all-r4.gguf"
    shutil.copy(golden("today-models/lora/all-r4.f32.gguf"), lora)
    base = golden("today-models/gguf/llama2-gqa.q8_0.gguf")
    path = made(tmp_path, "--lora-scaled", str(lora), "0.5", model=base)
    receipt = read_receipt(path)
    assert [(each.path, each.factor) for each in receipt.adapters] == [("all-r4.gguf", 0.5)]
    assert verify_receipt(path).exit_code == 0
    other = tmp_path / "other.gguf"
    data = bytearray(lora.read_bytes())
    data[-9] ^= 1
    other.write_bytes(data)
    assert "another adapter: the SHA256 of" in verify_receipt(path, adapters=[other]).sentence()
    assert "0 adapters" not in verify_receipt(path, adapters=[lora]).sentence()
    lora.unlink()
    with pytest.raises(MissingFileError):
        verify_receipt(path)


def test_prompts_of_any_bytes_are_kept(tmp_path):
    path = made(tmp_path)
    receipt = read_receipt(path)
    odd = b"\xff\xc3(".decode("utf-8", "surrogateescape")
    write_receipt(path, type(receipt)(**{**vars(receipt), "prompt": odd}))
    assert read_receipt(path).prompt == odd


@pytest.mark.parametrize(
    "text", ["{}", "[]", "[" * 5000, '{"format": "ggmlpy receipt 2"}', '{"format": "ggmlpy receipt 1"}']
)
def test_other_files_are_no_receipts(tmp_path, text, capsys):
    (tmp_path / "r.json").write_text(text)
    assert main(["verify", "--receipt", str(tmp_path / "r.json"), "-q"]) == 3
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("option", [["-i"], ["--mtest"], ["--prompts", "p.txt"], ["--compare-with", "b.bin"]])
def test_a_receipt_is_of_one_text(tmp_path, option, capsys):
    assert main(["generate", "-m", str(MODEL), *PROMPT, *option, "--receipt", str(tmp_path / "r.json")]) == 2
    assert "--receipt is for one text" in capsys.readouterr().err


def test_a_quantized_model_is_another(tmp_path, golden):
    quantize_file(golden("ggml/T1_convert_f16/T1.p2.f16.bin"), tmp_path / "q.bin", "q4_1")
    assert "another model" in verify_receipt(made(tmp_path), tmp_path / "q.bin").sentence()
