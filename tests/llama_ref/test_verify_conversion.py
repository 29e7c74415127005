"""Verify: golden conversions are recognised as right; what converters get wrong is named."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import cli
from ggmlpy import open_model, out_tensor, write_model
from ggmlpy.quantizers.whole_file import quantize_file
from ggmlpy.verify.quantization import ANOTHER_MIX
from llama_ref.checkpoint import LazyTensor, open_checkpoint, open_pth, write_pth
from llama_ref.conversion.checkpoints import plan_to_hf
from llama_ref.conversion.converting import plan_conversion
from tests.today import huggingface_directory
from toolchain.verify.as_written import stored
from toolchain.verify.conversion import verify_conversion
from toolchain.verify.mistakes import mistakes
from toolchain.verify.weights import verify_export


@pytest.mark.parametrize("model", ["T1", "T3"])
@pytest.mark.parametrize("pin", [0, 1, 2])
def test_golden_conversions_are_right(model, pin, golden):
    report = verify_conversion(
        golden(f"ggml/{model}_convert_f16/{model}.p{pin}.f16.bin"), golden(f"ggml/{model}_input")
    )
    assert (report.step, report.verdict, report.exit_code) == ("convert", "identical bytes", 0)


@pytest.mark.parametrize("pin", [0, 1, 2])
def test_golden_quantizations_are_right_from_the_checkpoint_on(pin, golden):
    report = verify_conversion(golden(f"ggml/T1_quant_p{pin}/T1.q4_0.bin"), golden("ggml/T1_input"))
    assert (report.step, report.verdict) == ("convert, quantize", "identical bytes")


@pytest.fixture(params=["f16", "q4_0"])
def wrong_output(request, golden, tmp_path):
    """A function that converts (and quantizes) a checkpoint with one of the known mistakes."""

    def make(source, name: str):
        with plan_conversion(source, tmp_path / "right.bin") as plan:
            checkpoint = plan.checkpoint
            (mistake,) = [m for m in mistakes(checkpoint) if m.name.startswith(name)]
            changed = 0
            tensors = []
            for tensor in plan.parts[0]:
                wrong = mistake.apply(checkpoint.tensors[tensor.name])
                changed += wrong is not None
                tensors.append(stored(wrong, tensor.type) if wrong is not None else tensor)
            assert changed
            write_model(tmp_path / "wrong.bin", "ggjt", 1, plan.hparams, plan.vocab, tensors)
        if request.param == "f16":
            return tmp_path / "wrong.bin"
        quantize_file(tmp_path / "wrong.bin", tmp_path / "wrong-q.bin", request.param)
        return tmp_path / "wrong-q.bin"

    return make


@pytest.fixture
def f32_checkpoint(tmp_path):
    """A checkpoint whose values need rounding, so that ways of rounding can be told apart."""
    from ggmlpy.formats.model_params import ModelParams
    from ggmlpy.formats.tensor_names import expected_shapes

    rng = np.random.default_rng(5)
    folder = tmp_path / "f32"
    folder.mkdir()
    shapes = expected_shapes(ModelParams.from_header(400, 64, 32, 4, 2, 16, 0))
    tensors = [LazyTensor.of_array(n, rng.standard_normal(s).astype("f4")) for n, s in shapes.items()]
    write_pth(folder / "consolidated.00.pth", tensors)
    params = {"dim": 64, "multiple_of": 32, "n_heads": 4, "n_layers": 2, "norm_eps": 1e-6, "vocab_size": -1}
    (folder / "params.json").write_text(json.dumps(params))
    return folder


ONE_FILE = ["rows of wq and wk are in", "rows of wq and wk were turned"]
ROUNDING = [
    "values went through bfloat16, cut",
    "values went through bfloat16, rounded",
    "values were cut off",
    "norms",
]
SHARDS = ["shards were joined along", "shards were joined in reverse"]


@pytest.mark.parametrize("name", ONE_FILE)
def test_a_wrong_permutation_is_named(name, wrong_output, golden):
    report = verify_conversion(wrong_output(golden("ggml/T1_input"), name), golden("ggml/T1_input"))
    assert [cause.name.startswith(name) for cause in report.causes] == [True]
    assert (report.causes[0].explains, report.causes[0].of) == (4, 4)
    assert report.unexplained == []


@pytest.mark.parametrize("name", ROUNDING)
def test_a_wrong_rounding_is_named(name, wrong_output, f32_checkpoint, golden):
    shutil.copy(golden("ggml/T1_input") / "tokenizer.model", f32_checkpoint)
    report = verify_conversion(wrong_output(f32_checkpoint, name), f32_checkpoint)
    assert report.verdict == "differs"
    assert report.causes[0].name.startswith(name)
    assert report.unexplained == []


@pytest.mark.parametrize("name", SHARDS)
def test_wrongly_joined_shards_are_named(name, wrong_output, golden):
    report = verify_conversion(wrong_output(golden("ggml/T3_input"), name), golden("ggml/T3_input"))
    assert report.causes[0].name.startswith(name)
    assert report.unexplained == []


def test_a_vocabulary_with_underlines_is_named(golden, tmp_path):
    source = golden("ggml/T1_convert_f16/T1.p2.f16.bin")
    with open_model(source) as model:
        texts = [text.replace(b" ", "▁".encode()) if i > 2 else text for i, text in enumerate(model.vocab)]
        vocab = zip(texts, model.vocab.scores.tolist(), strict=True)
        write_model(tmp_path / "x.bin", "ggjt", 1, model.hparams, vocab, map(out_tensor, model.tensors.values()))
    report = verify_conversion(tmp_path / "x.bin", golden("ggml/T1_input"))
    assert "▁ was not replaced by a space" in report.sentence()


def test_one_flipped_bit_is_seen(golden, tmp_path):
    data = bytearray(golden("ggml/T1_convert_f16/T1.p2.f16.bin").read_bytes())
    data[-3] ^= 0x10
    (tmp_path / "x.bin").write_bytes(data)
    report = verify_conversion(tmp_path / "x.bin", golden("ggml/T1_input"))
    assert [cause.name for cause in report.causes] == ["one bit is flipped (bit 12 of the value)"]
    assert (report.unexplained, report.exit_code) == ([], 1)


def test_the_golden_export_to_hugging_face_is_right(golden):
    case = golden("merge/step1-hf-7b")
    report = verify_export(case / "hf", case / "base/7B")
    assert report.step == "to-hf"
    assert report.differing == []
    assert report.exit_code == 0


@pytest.mark.parametrize("weights", ["safetensors", "bin"])
def test_our_own_exports_are_right_both_ways(weights, golden, tmp_path):
    base = golden("merge/step1-hf-7b") / "base/7B"
    with plan_to_hf(base, tmp_path / "hf", weights=weights, weights_only=True) as plan:
        plan.write()
    assert verify_export(tmp_path / "hf", base).verdict == "identical bytes"
    assert verify_export(base, tmp_path / "hf").step == "from-hf"
    assert verify_export(base, tmp_path / "hf").exit_code == 0


def test_an_export_without_permutation_is_named(golden, tmp_path):
    base = golden("merge/step1-hf-7b") / "base/7B"
    with plan_to_hf(base, tmp_path / "hf", weights="bin", weights_only=True) as plan:
        plan.write()
    with open_checkpoint(base) as checkpoint, open_pth(tmp_path / "hf/pytorch_model.bin") as file:
        tensors = []
        for name, tensor in file.items():
            meta = (
                name.replace("model.", "")
                .replace("self_attn.q_proj", "attention.wq")
                .replace("self_attn.k_proj", "attention.wk")
            )
            twin = checkpoint.tensors.get(meta)
            raw = twin.numpy().copy() if twin is not None and "attention.w" in meta else tensor.numpy().copy()
            tensors.append(LazyTensor.of_array(name, raw))
    write_pth(tmp_path / "hf/pytorch_model.bin", tensors)
    report = verify_export(tmp_path / "hf", base)
    assert report.exit_code == 1
    assert len(report.differing) == 4
    assert report.causes[0].name == "rows of q_proj and k_proj are in Meta's order: the rotary permutation is missing"
    assert report.causes[0].of == 4


@pytest.mark.parametrize("case", ["llama2-gqa", "llama3-new", "bias", "tied"])
def test_a_file_of_todays_converter_is_verified_key_by_key(case, vectors, tmp_path):
    model, _ = huggingface_directory(vectors, case, tmp_path / case)
    with plan_conversion(model, tmp_path / "m.gguf") as plan:
        plan.write()
    assert verify_conversion(tmp_path / "m.gguf", model).verdict == "identical bytes"
    quantize_file(tmp_path / "m.gguf", tmp_path / "q.gguf", "q8_0", "2023-08-21")
    assert verify_conversion(tmp_path / "q.gguf", model).verdict == "identical bytes"
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    report = verify_conversion(tmp_path / "m.gguf", model)
    assert report.exit_code == 1
    assert any("norm_eps" in words for words in report.behavior)


@pytest.mark.parametrize("options", [["q4_0"], ["--pure", "q4_0"], ["q8_0"], ["q5_1", "--era", "2023-08-21"]])
def test_today_s_quantizations_are_right_from_the_checkpoint_on(options, golden, tmp_path):
    source = golden("ggml/T1_input")
    assert cli.main(["convert", "-q", str(source), "--container", "gguf", "--outfile", str(tmp_path / "f.gguf")]) == 0
    assert cli.main(["quantize", "-q", str(tmp_path / "f.gguf"), str(tmp_path / "q.gguf"), *options]) == 0
    report = verify_conversion(tmp_path / "q.gguf", source)
    assert (report.step, report.exit_code, report.causes) == ("convert, quantize", 0, [])


def test_right_values_in_another_type_are_not_called_cut_off(golden, tmp_path):
    source = golden("ggml/T1_input")
    assert cli.main(["convert", "-q", str(source), "--container", "gguf", "--outfile", str(tmp_path / "f.gguf")]) == 0
    typed = ["q4_0", "--output-tensor-type", "q5_0"]
    assert cli.main(["quantize", "-q", *typed[1:], str(tmp_path / "f.gguf"), str(tmp_path / "q.gguf"), typed[0]]) == 0
    report = verify_conversion(tmp_path / "q.gguf", source)
    assert [cause.name for cause in report.causes] == [ANOTHER_MIX.format("q5_0")]
