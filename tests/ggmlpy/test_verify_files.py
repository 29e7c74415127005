"""Verify: golden outputs are recognised as right; each known mistake is named, and not for the honest output."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ggmlpy import ModelParams, OutTensor, open_model, out_tensor, write_model
from ggmlpy.files.errors import FormatError
from ggmlpy.formats.codes import pack_codes, unpack_codes
from ggmlpy.formats.tensor_types import TENSOR_TYPES
from ggmlpy.quantizers.migration import migrate
from ggmlpy.quantizers.whole_file import quantize_file
from ggmlpy.verify.quantization import simd_rounded, verify_files
from tests.ggmlpy.models import write_tiny

HPARAMS = ModelParams.from_header(40, 64, 32, 2, 1, 32, 1)
DATES = ["2023-03-19", "2023-03-30", "2023-03-31", "2023-04-30", "2023-05-19", "2023-08-21"]
GOLDEN = [(pin, name) for pin in range(3) for name in ("q4_0", "q4_1")]
GOLDEN += [(3, name) for name in ("q4_0", "q4_1", "q4_2", "q5_0", "q5_1", "q8_0")]
GOLDEN += [(pin, name) for pin in (4, 5) for name in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")]


@pytest.mark.parametrize(("pin", "name"), GOLDEN)
def test_golden_files_are_what_their_era_writes(pin, name, golden):
    source = golden(f"ggml/T1_convert_f16/T1.p{min(pin, 2)}.f16.bin")
    report = verify_files(golden(f"ggml/T1_quant_p{pin}/T1.{name}.bin"), source)
    if pin == 5:  # its source was written by the converter of that day, in another order
        assert report.verdict == "identical content"
        assert [words[:16] for words in report.container] == ["order of tensors"]
        return
    if (pin, name) == (3, "q4_0"):  # the container fits 2023-03-31 too, and that is tried first
        assert (report.verdict, report.era) == ("identical to another era", "2023-04-30")
    else:
        assert report.verdict == "identical bytes"
    assert verify_files(report.output, source, era=DATES[pin]).verdict == "identical bytes"
    assert report.exit_code == 0


def test_the_wrong_era_is_wrong_if_one_was_asked_for(golden):
    source = golden("ggml/T1_convert_f16/T1.p2.f16.bin")
    report = verify_files(golden("ggml/T1_quant_p3/T1.q4_0.bin"), source, era="2023-03-31")
    assert (report.verdict, report.exit_code) == ("differs", 1)
    assert str(report.causes[0]).startswith("the quantizer of 2023-04-30 (explains 16 of 16 differing tensors")


def rewritten(source, target, change=None, vocab=None, order=None):
    """``source`` with tensors and vocabulary changed."""
    with open_model(source) as model:
        tensors = [change(tensor) if change else out_tensor(tensor) for tensor in model.tensors.values()]
        pairs = vocab or list(zip(model.vocab, model.vocab.scores.tolist(), strict=True))
        if order:
            tensors = order(tensors)
        write_model(target, model.container, model.version, model.hparams, pairs, tensors)
    return target


@pytest.fixture
def source(tmp_path):
    return write_tiny(tmp_path / "f16.bin", "ggjt", 1, "f16", hparams=HPARAMS, seed=3)


@pytest.fixture
def honest(source, tmp_path):
    quantize_file(source, tmp_path / "q4_0.bin", "q4_0")
    return tmp_path / "q4_0.bin"


def causes(output, source):
    report = verify_files(output, source)
    assert report.exit_code == 1
    return [cause.name for cause in report.causes], report


@given(seed=st.integers(0, 1000), type_name=st.sampled_from(["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"]), data=st.data())
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_any_honest_quantization_is_recognised(seed, type_name, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("v")
    f16 = write_tiny(folder / "f16.bin", "ggjt", 1, "f16", hparams=HPARAMS, seed=seed)
    eras = DATES[2:] if type_name in ("q4_0", "q4_1") else DATES[3:]
    quantize_file(f16, folder / "q.bin", type_name, data.draw(st.sampled_from(eras)))
    report = verify_files(folder / "q.bin", f16)
    assert report.exit_code == 0
    assert report.container == []


@pytest.mark.parametrize("type_name", ["q4_0", "q4_1"])
def test_the_rounding_of_activations_is_recognised(type_name, source, tmp_path):
    quantize_file(source, tmp_path / "q.bin", type_name)
    with open_model(source) as original:

        def change(tensor):
            if not tensor.type.quantized:
                return out_tensor(tensor)
            rows = simd_rounded(original.tensors[tensor.name].numpy(), tensor.type)
            return OutTensor(tensor.name, tensor.type, tensor.shape, lambda: [rows])

        rewritten(tmp_path / "q.bin", tmp_path / "simd.bin", change)
    names, report = causes(tmp_path / "simd.bin", source)
    assert names == ["a SIMD build's rounding of activations was used for the file"]
    assert report.unexplained == []


def test_norms_in_f16_are_recognised(honest, source, tmp_path):
    def change(tensor):
        if len(tensor.shape) == 2:
            return out_tensor(tensor)
        return OutTensor(tensor.name, TENSOR_TYPES["f16"], tensor.shape, lambda: [tensor.numpy().astype("<f2")])

    names, report = causes(rewritten(honest, tmp_path / "x.bin", change), source)
    assert names == ["one-dimensional tensors were written in f16"]
    assert report.differing[0].status == "is f16 instead of f32"


def test_codes_in_another_order_are_recognised(honest, source, tmp_path):
    record = TENSOR_TYPES["q4_0-2023-03"]

    def change(tensor):
        if not tensor.type.quantized:
            return out_tensor(tensor)
        blocks = tensor.raw().view(record.block).copy()
        pack_codes(unpack_codes(tensor.raw().view(record.block), record), blocks, TENSOR_TYPES["q4_0-2023-05"])
        return OutTensor(tensor.name, record, tensor.shape, lambda: [blocks.view(np.uint8)])

    names, _ = causes(rewritten(honest, tmp_path / "x.bin", change), source)
    assert names == ["codes stand in the order of another era than the container says"]


def test_two_mistakes_are_two_causes(honest, source, tmp_path):
    quantize_file(source, tmp_path / "other.bin", "q4_0", "2023-04-30")
    with open_model(tmp_path / "other.bin") as other:

        def change(tensor):
            if tensor.name == "norm.weight":
                return OutTensor(tensor.name, TENSOR_TYPES["f16"], tensor.shape, lambda: [tensor.numpy().astype("<f2")])
            return out_tensor(other.tensors[tensor.name] if tensor.name == "output.weight" else tensor)

        names, report = causes(rewritten(honest, tmp_path / "x.bin", change), source)
    assert set(names) == {"the quantizer of 2023-04-30", "one-dimensional tensors were written in f16"}
    assert all(cause.of == 2 for cause in report.causes)
    assert report.verdict == "differs"


def test_one_tensor_of_another_era_is_not_that_era_s_file(honest, source, tmp_path):
    quantize_file(source, tmp_path / "other.bin", "q4_0", "2023-04-30")
    with open_model(tmp_path / "other.bin") as other:

        def change(tensor):
            return out_tensor(other.tensors[tensor.name] if tensor.name == "output.weight" else tensor)

        names, report = causes(rewritten(honest, tmp_path / "x.bin", change), source)
    assert names == ["the quantizer of 2023-04-30"]
    assert (report.verdict, report.era) == ("differs", None)


def test_what_nothing_explains_is_left_unexplained(honest, source, tmp_path):
    data = bytearray(honest.read_bytes())
    with open_model(honest) as model:
        tensor = model.tensors["layers.0.attention.wk.weight"]
    at = tensor.offset + 3 * tensor.row_bytes + 20 + 4  # row 3, second block, first code
    data[at] ^= 1
    data[at + 1] ^= 1  # two codes: one flipped bit would be seen
    (tmp_path / "x.bin").write_bytes(data)
    names, report = causes(tmp_path / "x.bin", source)
    assert names == []
    assert report.unexplained == [tensor.name]
    (item,) = report.differing
    assert (item.row, item.column, item.n_different) == (3, 32, 2)
    assert item.b.offset == at - 4
    assert abs(item.a.codes[0] - item.b.codes[0]) == 1
    assert "no known mistake explains layers.0.attention.wk.weight" in report.markdown()


def test_vocabulary_with_underlines_is_named(honest, source, tmp_path):
    with open_model(source) as model:
        right = [(b" the" if i == 7 else text, score) for i, (text, score) in enumerate(pairs_of(model))]
    wrong = [("▁the".encode() if text == b" the" else text, score) for text, score in right]
    source = rewritten(source, tmp_path / "s.bin", vocab=right)
    _, report = causes_container(rewritten(honest, tmp_path / "x.bin", vocab=wrong), source)
    assert "▁ was not replaced by a space" in report.sentence()


def pairs_of(model):
    return list(zip(model.vocab, model.vocab.scores.tolist(), strict=True))


def causes_container(output, source):
    report = verify_files(output, source)
    return report.verdict, report


def test_another_order_of_tensors_is_the_same_content(honest, source, tmp_path):
    verdict, report = causes_container(rewritten(honest, tmp_path / "x.bin", order=lambda t: t[::-1]), source)
    assert verdict == "identical content"
    assert report.container[0].startswith("order of tensors: number 0 is layers.0.ffn_norm.weight")
    assert report.exit_code == 0


def test_padding_that_is_not_zero_is_the_same_content(honest, source, tmp_path):
    with open_model(honest) as model:
        piece = model.tensors["layers.0.attention.wq.weight"].pieces[0]
    data = bytearray(honest.read_bytes())
    data[piece.offset - 1] = 7
    (tmp_path / "x.bin").write_bytes(data)
    verdict, report = causes_container(tmp_path / "x.bin", source)
    assert verdict == "identical content"
    assert report.container == ["padding before the data of layers.0.attention.wq.weight is not zero"]


def test_migrations_are_verified(golden, tmp_path):
    source = golden("ggml/T1_quant_p1/T1.q4_0.bin")
    report = verify_files(golden("ggml/T1_quant_p2/T1.q4_0.bin"), source)
    assert (report.step, report.verdict) == ("migrate", "identical bytes")
    with open_model(source) as model:
        migrate(model, tmp_path / "m.bin", "ggml", 0)
    assert verify_files(tmp_path / "m.bin", source).verdict == "identical bytes"


def test_a_missing_tensor_differs(honest, source, tmp_path):
    _, report = causes_container(rewritten(honest, tmp_path / "x.bin", order=lambda t: t[:-1]), source)
    assert report.exit_code == 1
    assert [t.status for t in report.differing] == ["missing"]


def test_a_source_that_is_no_source_is_refused(honest, source, tmp_path):
    with pytest.raises(FormatError):
        verify_files(honest, tmp_path / "none.bin")
