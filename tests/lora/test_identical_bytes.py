"""What this program's own commands write is what verify expects of them, to the byte, whatever the options."""

from __future__ import annotations

import shutil

import pytest

import cli


@pytest.fixture(scope="module")
def sources(golden, tmp_path_factory):
    """A model in Meta's layout and in Hugging Face's, in GGML and in GGUF."""
    folder = tmp_path_factory.mktemp("sources")
    meta = golden("merge/v11-llama/base/7B")
    assert cli.main(["to-hf", "-q", str(meta), str(folder / "hf")]) == 0
    for source, name in ((meta, "meta.bin"), (meta, "meta.gguf"), (folder / "hf", "hf.gguf")):
        assert cli.main(["convert", "-q", str(source), "--outfile", str(folder / name)]) == 0
    return {"meta": meta, "hf": folder / "hf", **{name: folder / name for name in ("meta.bin", "meta.gguf", "hf.gguf")}}


def _is_identical(output, source, capsys, *more):
    capsys.readouterr()
    assert cli.main(["verify", "-q", str(output), "--source", str(source), *map(str, more)]) == 0
    return "identical bytes" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("era", ["2023-03-31", "2023-04-30", "2023-08-21"])
@pytest.mark.parametrize("name", ["m.bin", "m.gguf"])
def test_conversions_of_each_era(name, era, sources, tmp_path, capsys):
    assert cli.main(["convert", "-q", str(sources["meta"]), "--era", era, "--outfile", str(tmp_path / name)]) == 0
    assert _is_identical(tmp_path / name, sources["meta"], capsys)


@pytest.mark.parametrize("outtype", ["f32", "bf16", "q8_0", "auto"])
def test_types_of_today_s_converter(outtype, sources, tmp_path, capsys):
    output = tmp_path / "m.gguf"
    assert cli.main(["convert", "-q", str(sources["hf"]), "--outtype", outtype, "--outfile", str(output)]) == 0
    assert _is_identical(output, sources["hf"], capsys)


@pytest.mark.parametrize("era", ["2023-08-21", "2024-01-17", "2026-10"])
@pytest.mark.parametrize("source", ["meta", "hf"])
def test_a_conversion_that_was_quantized(source, era, sources, tmp_path, capsys):
    converted, output = sources[f"{source}.gguf"], tmp_path / "q.gguf"
    assert cli.main(["quantize", "-q", str(converted), str(output), "q8_0", "--era", era]) == 0
    assert _is_identical(output, sources[source], capsys)
    assert _is_identical(output, converted, capsys)


def test_another_era_s_quantizer_is_recognized(sources, tmp_path, capsys):
    assert (
        cli.main(["quantize", "-q", str(sources["meta.bin"]), str(tmp_path / "q.bin"), "2", "--era", "2023-04-30"]) == 0
    )
    assert cli.main(["verify", "-q", str(tmp_path / "q.bin"), "--source", str(sources["meta"])]) == 0
    assert "identical to what era 2023-04-30 would write" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["pth", "huggingface", "ggml-f16", "ggml-q4_0", "gguf-f32", "gguf-q8_0"])
def test_merges_into_each_form(kind, sources, golden, tmp_path, capsys):
    output, adapter = (
        tmp_path / ("m" + {"gguf": ".gguf", "ggml": ".bin"}.get(kind[:4], "")),
        golden("merge/v11-llama/lora"),
    )
    words = ["--base", sources["meta"], "--lora", adapter, "--output", output, "--output-type", kind]
    assert cli.main(["merge", "-q", *map(str, words)]) == 0
    assert _is_identical(output, sources["meta"], capsys, "--lora", adapter)


@pytest.mark.parametrize("command", ["to-meta", "to-hf", "to-hf --bin"])
@pytest.mark.parametrize("name", ["meta.bin", "meta.gguf", "hf.gguf", "q8.gguf"])
def test_the_way_back_from_a_file(name, command, sources, tmp_path, capsys):
    source, output = sources["meta.bin"].with_name(name), tmp_path / "back"
    if not source.exists():
        assert cli.main(["quantize", "-q", str(sources["hf.gguf"]), str(source), "q8_0"]) == 0
    assert cli.main([*command.split(), "-q", str(source), str(output)]) == 0
    assert _is_identical(output, source, capsys)


def test_a_way_back_with_another_model_is_no_way(sources, golden, tmp_path, capsys):
    assert cli.main(["to-hf", "-q", str(golden("merge/v11-llama/out")), str(tmp_path / "merged")]) == 0
    assert cli.main(["verify", "-q", str(tmp_path / "merged"), "--source", str(sources["hf.gguf"])]) == 1
    assert "to-hf: differs" in capsys.readouterr().out


def test_two_names_of_the_same_bytes(sources, tmp_path, capsys):
    shutil.copy(sources["meta.bin"], tmp_path / "copy.bin")
    assert cli.main(["verify", "-q", str(sources["meta.bin"]), str(tmp_path / "copy.bin")]) == 1  # nothing is published
    assert f"identical bytes: {sources['meta.bin']} and " in capsys.readouterr().out
