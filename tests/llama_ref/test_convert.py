"""convert against the real converters' bytes: every era, container, type, shard; and what must be refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ggmlpy
from ggmlpy.files.errors import DiskSpaceError, FormatError, MissingFileError, UsageError, VocabularyError
from ggmlpy.formats.eras import ERAS
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.tensor_names import expected_shapes, meta_names, original_names, shard_axis
from llama_ref.checkpoint import LazyTensor, open_checkpoint, write_pth
from llama_ref.checkpoint.params import params_json
from llama_ref.checkpoint.safetensors_file import write_safetensors
from llama_ref.conversion import ggml as convert_module
from llama_ref.conversion.checkpoints import plan_to_hf
from llama_ref.conversion.converting import plan_conversion, plan_vocabulary

BY_PIN = {era.pin: era.date for era in ERAS.values()}
GUESSING = ("p3", "p4")  # these divide by n_embd // 128 heads, so they fail on T1 with its 64 columns
PRODUCTS = [
    f"{model}.{pin}.{kind}"
    for model in ("T1", "T3")
    for pin in BY_PIN
    for kind in ("f16", "f32")
    if model == "T3" or pin not in GUESSING
]


def convert(source, target, **options):
    with plan_conversion(source, target, **options) as plan:
        return plan.write(), plan.notes


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def model(data, tmp_path):
    """A writable copy of T1: 400 pieces, 64 wide, f16."""
    return shutil.copytree(data / "ggml" / "T1_input", tmp_path / "7B")


def rewrite(directory, change):
    """Write the weights of a model again after ``change(name, array)``."""
    with open_checkpoint(directory) as checkpoint:
        arrays = {name: change(name, tensor.numpy().copy()) for name, tensor in checkpoint.tensors.items()}
    tensors = [LazyTensor.of_array(name, array) for name, array in arrays.items() if array is not None]
    write_pth(directory / "consolidated.00.pth", tensors)


@pytest.mark.parametrize("product", PRODUCTS)
def test_equals_the_real_converter(product, data, tmp_path):
    name, pin, kind = product.split(".")
    golden = json.loads((data / "ggml" / f"{name}_convert_f16" / "manifest.json").read_text())["all_sha256"]
    options = {"era": BY_PIN[pin], "outtype": kind, "guess_params": pin in GUESSING}
    written, _ = convert(data / "ggml" / f"{name}_input", tmp_path / product, **options)
    assert {path.name: sha256(path) for path in written} == {
        key: entry["sha256"] for key, entry in golden.items() if key == product or key.startswith(product + ".")
    }


def awkward(directory, tokenizer, bfloat16):
    """A model of 256 columns whose values come from integers alone, with two added tokens."""
    directory.mkdir()
    params = ModelParams(n_embd=256, n_mult=256, n_head=2, n_layer=2)
    tensors = []
    for i, (name, shape) in enumerate(
        expected_shapes(replace(params, n_vocab=402), meta_names(params.n_layer)).items()
    ):
        numbers = (np.arange(np.prod(shape), dtype=np.uint64) * 2654435761 + i * 40503) % 65521
        values = ((numbers.astype(np.float64) - 32760) / 262144).astype(np.float32).reshape(shape)
        if bfloat16:
            tensors.append((name, "bfloat16", shape, [(values.view("u4") >> 16).astype("<u2")]))
        else:
            tensors.append((name, "float16", shape, [values.astype("<f2")]))
    write_pth(directory / "consolidated.00.pth", sorted(tensors, key=lambda row: names_in_order.index(row[0])))
    (directory / "params.json").write_text(params_json(params))
    (directory / "added_tokens.json").write_text('{"<a>": 401, "中": 400}')
    shutil.copy(tokenizer, directory)
    return directory


names_in_order = original_names(2)

# What convert.py of llama.cpp 3e5aa8a1c, 6986c7835 and dadbed99e made of these directories (they read no others of
# them: no bfloat16 at first, and never a model.safetensors in one piece).
REAL = {
    "2023-04-30 pth f16 f16": "7f3fc3dd897a1fbdb5fc6358bb0a53a9f75334eef519a751a7b8fb7170d48a7c",
    "2023-04-30 pth f16 f32": "bfaf5a55373ad4f0cf7acc0f99a2b60c8f76c5f23f0ed1ef44307beff620656f",
    "2023-05-19 pth f16 f16": "7f3fc3dd897a1fbdb5fc6358bb0a53a9f75334eef519a751a7b8fb7170d48a7c",
    "2023-05-19 pth f16 f32": "bfaf5a55373ad4f0cf7acc0f99a2b60c8f76c5f23f0ed1ef44307beff620656f",
    "2023-08-21 pth f16 f16": "7f3fc3dd897a1fbdb5fc6358bb0a53a9f75334eef519a751a7b8fb7170d48a7c",
    "2023-08-21 pth f16 f32": "bfaf5a55373ad4f0cf7acc0f99a2b60c8f76c5f23f0ed1ef44307beff620656f",
    "2023-05-19 safetensors f16 f16": "7f3fc3dd897a1fbdb5fc6358bb0a53a9f75334eef519a751a7b8fb7170d48a7c",
    "2023-05-19 safetensors f16 f32": "bfaf5a55373ad4f0cf7acc0f99a2b60c8f76c5f23f0ed1ef44307beff620656f",
    "2023-08-21 safetensors f16 f16": "8aca5a46c7c30d01e758992e3a5e33cafe2560f0318ba073d2a847b3f3e84b0a",
    "2023-08-21 safetensors f16 f32": "ab8561cf154acf127aeb6323fbfb27bc4ed61beeaae9f9bc4bf2ddf51588aa1f",
    "2023-04-30 bin f16 f16": "7f3fc3dd897a1fbdb5fc6358bb0a53a9f75334eef519a751a7b8fb7170d48a7c",
    "2023-04-30 bin f16 f32": "bfaf5a55373ad4f0cf7acc0f99a2b60c8f76c5f23f0ed1ef44307beff620656f",
    "2023-05-19 bin f16 f16": "7f3fc3dd897a1fbdb5fc6358bb0a53a9f75334eef519a751a7b8fb7170d48a7c",
    "2023-05-19 bin f16 f32": "bfaf5a55373ad4f0cf7acc0f99a2b60c8f76c5f23f0ed1ef44307beff620656f",
    "2023-08-21 bin f16 f16": "8aca5a46c7c30d01e758992e3a5e33cafe2560f0318ba073d2a847b3f3e84b0a",
    "2023-08-21 bin f16 f32": "ab8561cf154acf127aeb6323fbfb27bc4ed61beeaae9f9bc4bf2ddf51588aa1f",
    "2023-05-19 pth bf16 f16": "5c440267cdfe044f8ed6518e77abc2e88d6b03e8ae7bd8c567e372089a02f3c4",
    "2023-05-19 pth bf16 f32": "1ee3a6e27477d27809f4f8089b9a2695bbbc123adcecf43b039980f103466af5",
    "2023-08-21 pth bf16 f16": "5c440267cdfe044f8ed6518e77abc2e88d6b03e8ae7bd8c567e372089a02f3c4",
    "2023-08-21 pth bf16 f32": "1ee3a6e27477d27809f4f8089b9a2695bbbc123adcecf43b039980f103466af5",
    "2023-08-21 safetensors bf16 f16": "ee634655c460b2c5d0f41a8d61602daf437abbfbdb3c19c56ead8820f3d3e965",
    "2023-08-21 safetensors bf16 f32": "890349f3067e61ca2c8282b6a7300c9572cf3d6bd82d12437aedb15c3683d58a",
    "2023-05-19 bin bf16 f16": "5c440267cdfe044f8ed6518e77abc2e88d6b03e8ae7bd8c567e372089a02f3c4",
    "2023-05-19 bin bf16 f32": "1ee3a6e27477d27809f4f8089b9a2695bbbc123adcecf43b039980f103466af5",
    "2023-08-21 bin bf16 f16": "ee634655c460b2c5d0f41a8d61602daf437abbfbdb3c19c56ead8820f3d3e965",
    "2023-08-21 bin bf16 f32": "890349f3067e61ca2c8282b6a7300c9572cf3d6bd82d12437aedb15c3683d58a",
}


@pytest.mark.parametrize("case", REAL)
def test_equals_the_real_converter_on_other_layouts(case, data, tmp_path):
    """Meta's layout and Hugging Face's in several safetensors or .bin files, f16 and bf16, with added tokens."""
    era, weights, source_type, outtype = case.split()
    source = awkward(tmp_path / "m", data / "ggml" / "T1_input" / "tokenizer.model", source_type == "bf16")
    if weights != "pth":
        with plan_to_hf(source, tmp_path / "hf", weights=weights, shard_size="300KB") as plan:
            plan.write()
        source = tmp_path / "hf"
    convert(source, tmp_path / "x.bin", era=era, outtype=outtype)
    assert sha256(tmp_path / "x.bin") == REAL[case]


def test_parameters_are_not_guessed_without_being_asked(data, tmp_path):
    _, notes = convert(data / "ggml" / "T3_input", tmp_path / "x.bin", era="2023-04-30")
    with ggmlpy.open_model(tmp_path / "x.bin") as file:
        assert (file.hparams.n_mult, file.hparams.n_head) == (64, 4)
    assert any("guessed 256 and 1" in note and "--guess-params" in note for note in notes)


@pytest.mark.parametrize("era", ["2023-03-30", "2023-03-31"])
def test_vocabulary_file_of_the_real_tokenizer(era, vectors, tokenizers, tmp_path):
    shutil.copy(tokenizers / "llama.model", tmp_path / "tokenizer.model")
    (tmp_path / "7B").mkdir()
    (tmp_path / "7B" / "params.json").write_text('{"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32}')
    with plan_vocabulary(tmp_path / "7B", era=era) as plan:
        (written,) = plan.write()
    pin = ERAS[era].pin
    assert written.name == "ggml-vocab.bin"
    assert written.read_bytes() == (vectors / "ggml" / "vocab" / f"ggml-vocab-{pin}.bin").read_bytes()


def test_vocabulary_file_by_the_name_of_the_model(model):
    (model / "params.json").unlink()
    with plan_vocabulary(model, model / "v.bin", model="13B") as plan:
        plan.write()
    with ggmlpy.open_model(model / "v.bin", strict=False) as file:
        assert (file.hparams.n_embd, file.hparams.n_vocab) == (5120, 400)
    with pytest.raises(MissingFileError, match="name the model with --model 7B"):
        plan_vocabulary(model, model / "v.bin")
    with pytest.raises(UsageError, match="unknown model '9B'"):
        plan_vocabulary(model, model / "v.bin", model="9B")


def test_vocabulary_file_of_april_has_no_shape(model):
    with plan_vocabulary(model, model / "v.bin", era="2023-04-30") as plan:
        assert plan.hparams.header() == {**dict.fromkeys(plan.hparams.header(), 0), "n_vocab": 400, "n_head": 1}


@pytest.mark.parametrize(("container", "title"), [("ggjt2", "ggjt v2"), ("ggjt3", "ggjt v3"), ("ggmf1", "ggmf v1")])
def test_other_containers_hold_the_same_tensors(container, title, model, data):
    convert(model, model / "other.bin", container=container)
    golden = data / "ggml" / "T1_convert_f16" / "T1.p2.f16.bin"
    with ggmlpy.open_model(model / "other.bin") as ours, ggmlpy.open_model(golden) as theirs:
        assert ours.format_name == title
        assert {n: bytes(t.raw()) for n, t in ours.tensors.items()} == {
            n: bytes(t.raw()) for n, t in theirs.tensors.items()
        }


def test_huggingface_directory_gives_the_same_file(model, tmp_path):
    with plan_to_hf(model, tmp_path / "hf", shard_size="64KB") as plan:
        plan.write()
    convert(model, tmp_path / "a.bin", era="2023-08-21")
    convert(tmp_path / "hf", tmp_path / "b.bin", era="2023-08-21")
    with ggmlpy.open_model(tmp_path / "a.bin") as a, ggmlpy.open_model(tmp_path / "b.bin") as b:
        assert list(a.tensors) == list(b.tensors)
        assert all(bytes(a.tensors[n].raw()) == bytes(b.tensors[n].raw()) for n in a.tensors)
        assert a.n_ff == b.n_ff
    convert(tmp_path / "hf", tmp_path / "c.bin")
    convert(model, tmp_path / "d.bin")
    with ggmlpy.open_model(tmp_path / "c.bin") as c, ggmlpy.open_model(tmp_path / "d.bin") as d:
        assert list(c.tensors) == list(d.tensors)


def test_f32_weights_are_rounded_to_nearest_even(model):
    odd = np.array([1 + 2**-11, 1 + 3 * 2**-11, 6e-8, 65519.0], np.float32)  # two ties, a denormal, just below overflow

    def change(name, array):
        array = array.astype(np.float32)
        array.flat[: odd.size] = odd
        return array

    rewrite(model, change)
    convert(model, model / "x.bin")
    with ggmlpy.open_model(model / "x.bin") as file:
        row = file.tensors["output.weight"].numpy()[0, : odd.size]
        assert row.tolist() == odd.astype(np.float16).astype(np.float32).tolist()
        assert file.tensors["output.weight"].type.name == "f16"
        assert file.tensors["norm.weight"].type.name == "f32"


def test_bfloat16_weights_are_widened_exactly_and_overflow_is_told(model):
    with open_checkpoint(model) as checkpoint:
        tensors = []
        for name, tensor in checkpoint.tensors.items():
            bits = (tensor.f32().view(np.uint32) >> 16).astype("<u2")
            if name == "output.weight":
                bits[0, 0] = 0x4F80  # 2^32
            tensors.append((name, "bfloat16", tensor.shape, [bits]))
        write_pth(model / "bf16.pth", tensors)
    (model / "bf16.pth").replace(model / "consolidated.00.pth")
    _, notes = convert(model, model / "f32.bin", outtype="f32")
    assert notes == []
    _, notes = convert(model, model / "f16.bin")
    assert notes == ["1 values of output.weight exceed the range of f16 and became infinite: use --outtype f32"]
    with (
        open_checkpoint(model) as c,
        ggmlpy.open_model(model / "f32.bin") as f32,
        ggmlpy.open_model(model / "f16.bin") as f16,
    ):
        for name, tensor in c.tensors.items():
            assert np.array_equal(f32.tensors[name].numpy(), tensor.f32())
            if tensor.shape[1:]:
                with np.errstate(over="ignore"):
                    assert np.array_equal(f16.tensors[name].numpy(), tensor.f32().astype(np.float16).astype(np.float32))


def test_bfloat16_safetensors_are_accepted(model, tmp_path):
    with plan_to_hf(model, tmp_path / "hf") as plan:
        plan.write()
    from llama_ref.checkpoint.safetensors_file import SafetensorsFile

    with SafetensorsFile(tmp_path / "hf" / "model.safetensors") as file:
        tensors = [
            LazyTensor(
                n, t.shape, "bfloat16", lambda a, b, t=t: (t.rows(a, b).astype("f4").view("u4") >> 16).astype("<u2")
            )
            for n, t in file.items()
        ]
        write_safetensors(tmp_path / "hf" / "bf16", tensors, file.metadata)
    (tmp_path / "hf" / "bf16").replace(tmp_path / "hf" / "model.safetensors")
    convert(tmp_path / "hf", tmp_path / "x.bin", outtype="f32")
    with ggmlpy.open_model(tmp_path / "x.bin") as file, open_checkpoint(model) as checkpoint:
        expected = (checkpoint.tensors["output.weight"].f32().view("u4") & 0xFFFF0000).view("f4")
        assert np.array_equal(file.tensors["output.weight"].numpy(), expected)


@given(n_parts=st.sampled_from([1, 2, 4]), rows=st.integers(5, 40), columns=st.integers(4, 40))
def test_cuts_cover_a_tensor_exactly(n_parts, rows, columns):
    class Fake:
        shard_sizes: dict = {}  # noqa: RUF012

    for name in ("output.weight", "tok_embeddings.weight"):
        tensor = LazyTensor.of_array(name, np.zeros((rows, columns), "f2"))
        cuts = convert_module._cuts(Fake(), tensor, n_parts)
        axis = cuts[0][0]
        assert axis == (shard_axis(name) if n_parts > 1 else 0)
        covered = [i for _, span in cuts for i in range(*span.indices(tensor.shape[axis]))]
        assert covered == list(range(tensor.shape[axis]))


@pytest.mark.parametrize(
    ("width", "layout", "shards", "parts"),
    [
        (4096, "meta", 1, 1),
        (5120, "meta", 2, 2),
        (5120, "meta", 1, 2),  # merged into one file: the loader of March 2023 wants two all the same
        (5120, "huggingface", 3, 2),
        (6656, "meta", 4, 4),
        (8192, "huggingface", 14, 8),
        (128, "meta", 2, 2),
        (128, "huggingface", 5, 1),
    ],
)
def test_as_many_files_as_the_loader_expects(width, layout, shards, parts):
    checkpoint = SimpleNamespace(
        params=ModelParams(n_embd=width, n_mult=256, n_head=2, n_layer=1), layout=layout, files=[None] * shards
    )
    assert convert_module._n_parts(checkpoint) == parts


def test_uneven_shards_are_joined_by_their_own_sizes(data, tmp_path):
    source = shutil.copytree(data / "merge" / "two-shard-13b" / "out", tmp_path / "13B")
    with open_checkpoint(source) as checkpoint:
        assert checkpoint.shard_sizes["output.weight"] == [250, 251]
        expected = checkpoint.tensors["output.weight"].f32()
    written, _ = convert(source, tmp_path / "joined.bin")
    assert len(written) == 1
    parts, _ = convert(source, tmp_path / "parts.bin", container="ggmf1")
    assert [path.name for path in parts] == ["parts.bin", "parts.bin.1"]
    for path in (tmp_path / "joined.bin", tmp_path / "parts.bin"):
        with ggmlpy.open_model(path) as file:
            assert np.array_equal(file.tensors["output.weight"].numpy(), expected)


# ------------------------------------------------------------------------------------------------------ the vocabulary


def test_added_tokens_follow_with_score_minus_1000(model):
    grow(model, 402)
    (model / "added_tokens.json").write_text('{"<pad>": 401, "<user>": 400}')
    convert(model, model / "x.bin")
    with ggmlpy.open_model(model / "x.bin") as file:
        assert file.vocab[400:] == [b"<user>", b"<pad>"]
        assert file.vocab.scores[400:].tolist() == [-1000, -1000]


def grow(model, rows):
    def change(name, array):
        if name not in ("tok_embeddings.weight", "output.weight"):
            return array
        return np.resize(array, (rows, array.shape[1]))

    rewrite(model, change)


def test_added_tokens_that_the_model_does_not_have_are_left_out(model):
    (model / "added_tokens.json").write_text('{"<pad>": 400}')
    _, notes = convert(model, model / "x.bin")
    assert any("added_tokens.json is left out" in note for note in notes)


def test_padding_only_when_asked(model):
    grow(model, 405)
    with pytest.raises(VocabularyError) as caught:
        convert(model, model / "x.bin")
    message = str(caught.value)
    assert "the tokenizer has 400 pieces, the weights 405 rows" in message
    assert "tokenizer 400" in message
    assert "embedding 405" in message
    assert "output 405" in message
    assert str(model / "tokenizer.model") in message
    assert "added_tokens.json is missing" in message
    assert "--pad-vocab" in message
    assert not (model / "x.bin").exists()
    _, notes = convert(model, model / "x.bin", pad_vocab=True)
    assert any("5 dummy pieces" in note for note in notes)
    with ggmlpy.open_model(model / "x.bin") as file:
        assert file.vocab[400] == b"<dummy00001>"
        assert file.vocab[404] == b"<dummy00005>"


def test_the_tokenizer_of_another_model_is_named(model):
    grow(model, 49953)
    with pytest.raises(VocabularyError) as caught:
        convert(model, model / "x.bin")
    assert "Chinese-LLaMA (49953)" in str(caught.value)
    assert "the file to fix is tokenizer.model" in str(caught.value)


def test_a_larger_tokenizer_than_the_weights(model):
    grow(model, 300)
    with pytest.raises(VocabularyError, match="not resized to this tokenizer"):
        convert(model, model / "x.bin")


def test_embedding_and_output_that_differ(model):
    rewrite(model, lambda name, array: array[:399] if name == "output.weight" else array)
    with pytest.raises(VocabularyError, match=r"embedding has 400 rows, the output matrix 399") as caught:
        convert(model, model / "x.bin")
    assert "merge again" in str(caught.value)


def test_params_json_with_another_vocabulary_is_named_and_overruled(model):
    params = json.loads((model / "params.json").read_text())
    (model / "params.json").write_text(json.dumps({**params, "vocab_size": 32000}))
    _, notes = convert(model, model / "x.bin")
    assert any("says vocab_size 32000" in n and "400" in n and "file to fix is params.json" in n for n in notes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a": 401}', "without"),
        ('{"a": 400, "b": 402}', "without a gap"),
        ('{"a": "x"}', "ids must be numbers"),
        ('{"a": 400, "b": 400}', "one id twice"),
        ("[]", "not a JSON object"),
    ],
)
def test_bad_added_tokens(content, words, model):
    (model / "added_tokens.json").write_text(content)
    with pytest.raises(FormatError, match=words):
        convert(model, model / "x.bin")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a SentencePiece model"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b'{"version": "1.0"}', "tokenizer.json"),
        (b"\x0a\xff\xff\xff\xff\xff", "is not a SentencePiece model"),
    ],
)
def test_bad_tokenizers(content, words, model):
    (model / "tokenizer.model").write_bytes(content)
    with pytest.raises(VocabularyError, match=words):
        convert(model, model / "x.bin")


def test_missing_tokenizer_lists_where_it_was_looked_for(model):
    (model / "tokenizer.model").unlink()
    with pytest.raises(MissingFileError) as caught:
        convert(model, model / "x.bin")
    assert str(model / "tokenizer.model") in str(caught.value)
    assert str(model.parent / "tokenizer.model") in str(caught.value)
    assert "--tokenizer" in str(caught.value)


def test_tokenizer_in_the_parent_and_by_name(model, data):
    golden = (data / "ggml" / "T1_convert_f16" / "T1.p2.f16.bin").read_bytes()
    (model / "tokenizer.model").replace(model.parent / "tokenizer.model")
    convert(model, model / "x.bin")
    assert (model / "x.bin").read_bytes() == golden
    (model.parent / "tokenizer.model").replace(model.parent / "t.model")
    convert(model, model / "y.bin", tokenizer=model.parent / "t.model")
    assert (model / "y.bin").read_bytes() == golden


# ------------------------------------------------------------------------------------------------------ the output


def test_default_names_are_the_originals(data, tmp_path):
    source = shutil.copytree(data / "ggml" / "T3_input", tmp_path / "13B")
    written, _ = convert(source, None, outtype="f32", era="2023-03-19")
    assert [path.name for path in written] == ["ggml-model-f32.bin", "ggml-model-f32.bin.1"]
    assert written[0].parent == source


def test_a_directory_as_outfile(model, tmp_path):
    (tmp_path / "out").mkdir()
    written, _ = convert(model, tmp_path / "out")
    assert written == [tmp_path / "out" / "ggml-model-f16.bin"]


def test_stale_parts_are_mentioned(model):
    (model / "ggml-model-f16.bin.1").write_bytes(b"old")
    _, notes = convert(model, None)
    assert any("ggml-model-f16.bin.1" in note and "remove" in note for note in notes)


def test_the_input_is_never_overwritten(model):
    before = (model / "consolidated.00.pth").read_bytes()
    with pytest.raises(UsageError, match="is the input"):
        convert(model, model / "consolidated.00.pth")
    assert (model / "consolidated.00.pth").read_bytes() == before


def test_a_full_disk_is_told_before_anything_is_written(model, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DiskSpaceError, match="not enough disk space"):
        convert(model, model / "x.bin")
    assert not list(model.glob("*.bin*"))
    assert not list(model.glob(".*partial"))


def test_progress_adds_up(model):
    seen = []
    with plan_conversion(model, model / "x.bin") as plan:
        assert plan.nbytes == sum(plan.files.values())
        plan.write(seen.append)
        assert sum(seen) == plan.tensor_bytes
        assert (model / "x.bin").stat().st_size == plan.files[model / "x.bin"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"outtype": "q4_0"}, "choose f16 or f32"),
        ({"era": "2024-01-01"}, "unknown era"),
        ({"container": "gguf9"}, "unknown container"),
    ],
)
def test_unknown_options(options, words, model):
    with pytest.raises(UsageError, match=words):
        plan_conversion(model, **options)


@pytest.mark.parametrize("name", ["ggml/T1_convert_f16/T1.p2.f16.bin", "archive"])
def test_a_file_that_is_no_part_of_a_checkpoint_does_not_stand_for_its_directory(golden, tmp_path, name):
    path = tmp_path / "archive.tgz"
    path.write_bytes(b"\x1f\x8b\x08" + bytes(300))
    words = "found a gzip archive" if name == "archive" else "found a GGML model, which is converted already"
    with pytest.raises(FormatError, match=f"is not a checkpoint.*{words}"):
        open_checkpoint(path if name == "archive" else golden(name))
