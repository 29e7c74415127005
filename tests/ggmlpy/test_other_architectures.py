"""GGUF files of architectures that nothing here computes, and adapters: whoever looks or carries takes them."""

from __future__ import annotations

import numpy as np
import pytest

import cli
from ggmlpy import OutTensor, open_model, types_of
from ggmlpy.files.errors import FormatError, UnsupportedError
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.gguf_writer import write_gguf
from ggmlpy.quantizers.migration import migrate

F32 = types_of("gguf", 3)[0]
F16 = types_of("gguf", 3)[1]


def _tensor(name, *shape, kind=F16, seed=0):
    values = np.random.default_rng(seed).standard_normal(shape).astype("<f2" if kind is F16 else "<f4")
    return OutTensor(name, kind, shape, lambda: [values.reshape(-1, shape[-1])])


def write_other(path, architecture=b"gemma", kind=None, **more):
    """A model with names that are Meta's in a LLaMA, experts in three dimensions, and keys of its own."""
    keys = {"general.architecture": Value("string", architecture)}
    if kind is not None:
        keys["general.type"] = Value("string", kind)
    own = architecture.decode()
    keys |= {f"{own}.block_count": Value("u32", 1), "general.file_type": Value("u32", 1)}
    keys |= {"tokenizer.ggml.tokens": Value("array", [b"a", b"b"], "string"), **more}
    tensors = [
        _tensor("norm.weight", 64, kind=F32),
        _tensor("layers.0.attention.wq.weight", 32, 64, seed=1),
        _tensor("blk.0.attn_q.weight", 32, 64, seed=2),
        _tensor("blk.0.ffn_gate_exps.weight", 3, 32, 64, seed=3),
    ]
    write_gguf(path, keys, tensors)
    return path


@pytest.fixture(params=[(b"gemma", None), (b"llama", b"adapter"), (b"clip", b"mmproj"), (b"llama", None)])
def other(request, tmp_path):
    return write_other(tmp_path / "m.gguf", *request.param)


LOOKING = (
    "identify {0}",
    "inspect {0}",
    "hexdump {0}",
    "explain {0} 2000",
    "fingerprint {0}",
    "report {0} --html {1}/r.html",
    "compare {0} {0}",
    "migrate {0} {1}/out.gguf",
    "verify {1}/out.gguf --source {0}",
)


def test_who_only_looks_or_carries_takes_it(other, tmp_path, capsys):
    for command in LOOKING:
        words = command.format(other, tmp_path).split()
        assert cli.main([words[0], "-q", *words[1:]] if words[0] != "identify" else words) == 0, command
    assert (tmp_path / "out.gguf").read_bytes() == other.read_bytes()
    assert "identical bytes" in capsys.readouterr().out


def test_names_stay_as_they_stand(other):
    with pytest.raises(FormatError):
        open_model(other)
    with open_model(other, any_architecture=True) as model:
        assert model.as_stored
        assert list(model.tensors)[:3] == ["norm.weight", "layers.0.attention.wq.weight", "blk.0.attn_q.weight"]
        assert model.tensors["blk.0.ffn_gate_exps.weight"].numpy().shape == (3, 32, 64)


def test_its_quantization_is_verified(tmp_path, capsys):
    source, output = write_other(tmp_path / "m.gguf"), tmp_path / "q.gguf"
    assert cli.main(["quantize", "-q", str(source), str(output), "q8_0"]) == 0
    assert cli.main(["verify", "-q", str(output), "--source", str(source)]) == 0
    assert "identical bytes" in capsys.readouterr().out
    data = bytearray(output.read_bytes())
    data[-1] ^= 1
    output.write_bytes(data)
    assert cli.main(["verify", "-q", str(output), "--source", str(source)]) == 1
    assert "one bit is flipped" in capsys.readouterr().out


def test_differences_are_told(tmp_path, capsys):
    a = write_other(tmp_path / "a.gguf")
    b = write_other(tmp_path / "b.gguf", **{"gemma.block_count": Value("u32", 2)})
    assert cli.main(["compare", "-q", str(a), str(b)]) == 1
    assert "gemma.block_count 1 and 2" in capsys.readouterr().out
    c = write_other(tmp_path / "c.gguf", b"phi3")
    assert cli.main(["compare", "-q", str(a), str(c)]) == 1
    assert "architecture gemma and phi3" in capsys.readouterr().out
    assert cli.main(["verify", "-q", str(a), "--source", str(c)]) == 3
    assert "another architecture" in capsys.readouterr().err


def test_attention_is_causal_unless_a_file_says_otherwise(tmp_path):
    plain = write_other(tmp_path / "a.gguf")
    for causal, code in ((True, 0), (False, 1)):
        said = write_other(tmp_path / "b.gguf", **{"gemma.attention.causal": Value("bool", causal)})
        assert cli.main(["compare", "-q", str(plain), str(said)]) == code


def test_an_older_container_has_no_place_for_it(tmp_path):
    with (
        open_model(write_other(tmp_path / "m.gguf"), any_architecture=True) as model,
        pytest.raises(UnsupportedError, match="gemma") as caught,
    ):
        migrate(model, tmp_path / "m.bin")
    assert "OUT.gguf" in str(caught.value.next_step)


def test_what_computes_refuses_it_by_name(tmp_path, capsys):
    path = str(write_other(tmp_path / "m.gguf"))
    for words in (["generate", "-m", path, "-p", "a"], ["logits", "-m", path, "--tokens", "1", "--out", "x.npy"]):
        assert cli.main([words[0], "-q", *words[1:]]) == 3
        assert "'gemma' is not supported" in capsys.readouterr().err


def test_a_mixture_of_experts_is_called_so(tmp_path, capsys):
    path = write_other(tmp_path / "m.gguf", b"llama")
    assert cli.main(["identify", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "gguf v3, llama model with experts" in printed
    assert "problem" not in printed
    assert cli.main(["to-hf", str(path), str(tmp_path / "out")]) == 3
