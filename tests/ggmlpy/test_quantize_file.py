"""Whole files: parts, paths, refusals, what is printed. That the bytes are right is shown in test_quantizers."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest

from ggmlpy import ERAS, TENSOR_TYPES, ModelParams, OutTensor, UsageError, open_model, write_model
from ggmlpy.files.errors import FormatError, ShapeError, TruncatedError, UnsupportedError
from ggmlpy.quantizers.migration import migrate
from ggmlpy.quantizers.whole_file import quantize_file
from ggmlpy.verify.compare import compare
from tests.conftest import ROOT
from tests.ggmlpy.models import write_tiny


@pytest.fixture
def f16_model(golden):
    return golden("ggml/T1_convert_f16/T1.p2.f16.bin")


@pytest.fixture
def q4_0_bytes(golden):
    return golden("ggml/T1_quant_p2/T1.q4_0.bin").read_bytes()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_nothing(f16_model, q4_0_bytes, tmp_path, threads, monkeypatch):
    monkeypatch.setattr("ggmlpy.formats.out_tensor.SEGMENT_VALUES", 1000)  # many tasks a tensor
    report = quantize_file(f16_model, tmp_path / "out.bin", 2, threads=threads)
    assert (tmp_path / "out.bin").read_bytes() == q4_0_bytes
    assert report.histogram.sum() == sum(t.n_values for t in report.tensors if not t.copied)


@pytest.mark.parametrize("link", [None, "symlink_to", "hardlink_to"])
def test_the_input_is_never_the_output(f16_model, link, tmp_path):
    model = output = tmp_path / "model.bin"
    shutil.copyfile(f16_model, model)
    if link:
        output = tmp_path / "other.bin"
        getattr(output, link)(model)
    with pytest.raises(UsageError, match=r"is the input.*: write beside it"):
        quantize_file(model, output, "q4_0")
    assert model.read_bytes() == f16_model.read_bytes()


def test_a_name_that_says_gguf_is_gguf(f16_model, tmp_path):
    """quantize to .gguf = migrate to GGUF, then quantize."""
    quantize_file(f16_model, tmp_path / "at once.gguf", "q4_0")
    with open_model(f16_model) as model:
        migrate(model, tmp_path / "f16.gguf", "gguf", 3)
    quantize_file(tmp_path / "f16.gguf", tmp_path / "in two steps.gguf", "q4_0", "2023-08-21")
    with open_model(tmp_path / "at once.gguf") as a, open_model(tmp_path / "in two steps.gguf") as b:
        assert compare(a, b).verdict == "same content"
    with pytest.raises(UsageError, match="quantized as of 2023-08-21"):
        quantize_file(f16_model, tmp_path / "old.gguf", "q4_0", "2023-03-31")


def test_any_container_may_be_read(golden, q4_0_bytes, tmp_path):
    quantize_file(golden("ggml/T1_convert_f16/T1.p1.f16.bin"), tmp_path / "out.bin", "q4_0")
    assert (tmp_path / "out.bin").read_bytes() == q4_0_bytes


@pytest.mark.parametrize(("era", "zeros"), [("2023-03-31", False), ("2023-04-30", True), ("2023-05-19", True)])
def test_the_scores_an_unversioned_file_lacks(golden, tmp_path, era, zeros):
    """April's and May's programs wrote zeros ("dummy scores"), as the real ones' bytes show; March's refused it."""
    quantize_file(golden("ggml/T1_convert_f16/T1.p0.f16.bin"), tmp_path / "out.bin", "q4_0", era)
    with open_model(tmp_path / "out.bin") as model:
        assert not model.vocab.scores.any() if zeros else model.vocab.scores.any()


def test_parts_are_quantized_one_by_one_in_march(golden, tmp_path):
    """migrate(quantized parts) = quantize(merged)."""
    parts = golden("ggml/T3_convert_f16/T3.p1.f16.bin")
    merged = golden("ggml/T3_convert_f16/T3.p2.f16.bin")
    report = quantize_file(parts, tmp_path / "parts.bin", "q4_0", "2023-03-30")
    assert [path.name for path in report.paths] == ["parts.bin", "parts.bin.1"]
    with open_model(tmp_path / "parts.bin") as model:
        migrate(model, tmp_path / "migrated.bin", "ggjt", 1)
    quantize_file(merged, tmp_path / "merged.bin", "q4_0")
    quantize_file(parts, tmp_path / "joined.bin", "q4_0", "2023-03-31")
    wanted = (tmp_path / "merged.bin").read_bytes()
    assert (tmp_path / "migrated.bin").read_bytes() == wanted
    assert (tmp_path / "joined.bin").read_bytes() == wanted


@pytest.mark.parametrize("era", list(ERAS))
def test_every_era_writes_a_file_that_it_can_read(f16_model, tmp_path, era):
    moment = ERAS[era]
    report = quantize_file(f16_model, tmp_path / "out.bin", "q4_1", era)
    with open_model(tmp_path / "out.bin") as model, open_model(f16_model) as source:
        assert (model.container, model.version) == (moment.container, moment.version)
        assert model.hparams.ftype == 3
        for name, tensor in model.tensors.items():
            before = source.tensors[name].numpy()
            assert tensor.type == (moment.type("q4_1") if before.ndim == 2 else moment.type("f32"))
            assert np.abs(tensor.numpy() - before).max() <= np.abs(before).max() / 7
    assert report.target_bytes == sum(tensor.target_bytes for tensor in report.tensors)


def test_progress_adds_up(f16_model, tmp_path):
    seen = []
    report = quantize_file(f16_model, tmp_path / "o.bin", 2, progress=lambda size, total: seen.append((size, total)))
    assert sum(size for size, _ in seen) == report.target_bytes
    assert {total for _, total in seen} == {report.target_bytes}


# --- refusals -----------------------------------------------------------------------------------------------------


def refused(error, match, *args, **options):
    with pytest.raises(error, match=match) as caught:
        quantize_file(*args, **options)
    return caught.value


def test_a_quantized_model_is_refused_unless_insisted(golden, tmp_path):
    source, out = golden("ggml/T1_quant_p2/T1.q4_0.bin"), tmp_path / "out.bin"
    error = refused(FormatError, "'tok_embeddings.weight' is quantized already .*unsupported ftype 2", source, out, 3)
    assert (error.field, error.expected, error.found) == ("type", "f32 or f16", "q4_0")
    assert "--allow-requantize" in error.next_step
    assert not list(tmp_path.iterdir())
    quantize_file(source, out, 3, allow_requantize=True)
    with open_model(out) as model, open_model(source) as before:
        a, b = (m.tensors["output.weight"].numpy() for m in (model, before))
        assert np.abs(a - b).max() < np.ptp(b) / 15


def test_rows_that_blocks_don_t_divide_are_refused(tmp_path):
    hparams = ModelParams.from_header(4, 48, 16, 2, 0, 24, 1)
    matrix = OutTensor("output.weight", TENSOR_TYPES["f16"], (4, 48), lambda: [np.zeros((4, 48), np.float16)])
    write_model(tmp_path / "in.bin", "ggjt", 1, hparams, [(b"a", 0.0)] * 4, [matrix])
    match = "rows of tensor 'output.weight' can't be divided into blocks of q4_0"
    error = refused(ShapeError, match, tmp_path / "in.bin", tmp_path / "out.bin", 2)
    assert (error.expected, error.found) == ("a multiple of 32 columns", 48)
    quantize_file(tmp_path / "in.bin", tmp_path / "out.bin", "q4_2", "2023-04-30")  # blocks of 16
    assert not list(tmp_path.glob("*.partial"))


def test_a_copied_tensor_must_exist_in_the_era(tmp_path):
    def only_a_vector(tensors):
        record = TENSOR_TYPES["q4_0-2023-05"]
        return [OutTensor("norm.weight", record, (32,), lambda: [bytes(20)])]

    source = write_tiny(tmp_path / "in.bin", "ggjt", 2, "q4_0", change=only_a_vector)
    match = "its type does not exist in era 2023-08-21.*found q4_0-2023-05"
    refused(UnsupportedError, match, source, tmp_path / "out.bin", "q8_0", "2023-08-21")


def test_a_truncated_model_is_refused_and_nothing_is_left(f16_model, tmp_path):
    (tmp_path / "in.bin").write_bytes(f16_model.read_bytes()[:-100])
    refused(TruncatedError, "ffn_norm", tmp_path / "in.bin", tmp_path / "out.bin", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["in.bin"]


def test_no_threads_are_too_few(f16_model, tmp_path):
    refused(UsageError, "threads must be at least 1, not 0", f16_model, tmp_path / "out.bin", 2, threads=0)


# --- the command --------------------------------------------------------------------------------------------------


def run(*args):
    return subprocess.run(
        [sys.executable, ROOT / "cli.py", "quantize", *map(str, args)], capture_output=True, text=True
    )


def test_the_command_prints_what_the_real_one_printed(f16_model, tmp_path, golden):
    done = run(f16_model, tmp_path / "out.bin", "2", "-t", "1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    name = "tok_embeddings.weight".rjust(48)
    assert lines[0].startswith(
        f"{name} - [   64,   400], type =    f16 quantizing .. size =     0.10 MB ->     0.02 MB | hist: "
    )
    assert lines[-3:-1] == [
        "llama_model_quantize_internal: model size  =     0.60 MB",
        "llama_model_quantize_internal: quant size  =     0.10 MB",
    ]


def test_the_command_says_what_is_wrong(golden, f16_model, tmp_path):
    again = run(golden("ggml/T1_quant_p2/T1.q4_0.bin"), tmp_path / "out.bin", "2")
    assert (again.returncode, again.stderr.count("\n")) == (3, 1)
    unknown = run(f16_model, tmp_path / "out.bin", "q9_9")
    assert unknown.returncode == 2
    assert "it has 2 or q4_0, 3 or q4_1" in unknown.stderr


def test_quiet_is_quiet(golden, tmp_path, capfd):
    import cli

    source = str(golden("ggml/T1_convert_f16/T1.p2.f16.bin"))
    assert cli.main(["quantize", source, str(tmp_path / "q.bin"), "q4_0", "-q"]) == 0
    assert capfd.readouterr() == ("", "")
