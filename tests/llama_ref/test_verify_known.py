"""verify: published digests, lists, archives, JSON by meaning, and the tensors behind a foreign container."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections import Counter

import pytest

import cli
from ggmlpy.files.checksums import digests, read_list, same_json_meaning
from ggmlpy.files.errors import FormatError, MissingFileError
from ggmlpy.formats.model_params import model_named
from ggmlpy.formats.vocabulary_names import KnownVocabulary
from llama_ref.checkpoint import known_files
from llama_ref.checkpoint.known_files import KNOWN_FILES, KnownFile
from llama_ref.checkpoint.params import params_json
from llama_ref.conversion.checkpoints import plan_to_hf
from llama_ref.conversion.converting import plan_conversion
from toolchain.verify import published_tensors
from toolchain.verify.published import bytes_to_read, verify


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def publish(monkeypatch):
    """Pretend that some golden files were published: ``publish(model, path, …)`` in order of the shards."""

    def add(model, *paths, kind="merged", vocabularies=(500, 501)):
        files = [KnownFile(model, path.name, sha256(path), kind) for path in paths]
        table = (*known_files.KNOWN_FILES, *files)
        monkeypatch.setattr(known_files, "KNOWN_FILES", table)
        monkeypatch.setattr(known_files, "BY_SHA256", {known.sha256: known for known in table})
        merged = tuple(KnownVocabulary(size, "", None, merged=True) for size in vocabularies)
        monkeypatch.setattr(published_tensors, "KNOWN_VOCABULARIES", merged)

    return add


def verdicts(*paths):
    report = verify(paths)
    return {verdict.path.name: (verdict.status, verdict.words) for verdict in report.verdicts}, report


# ------------------------------------------------------------------------------------------------------- the table


def test_the_table_is_whole():
    assert len(KNOWN_FILES) == len({known.sha256 for known in KNOWN_FILES}) == 144
    assert all(len(known.sha256) == 64 and set(known.sha256) <= set("0123456789abcdef") for known in KNOWN_FILES)
    assert Counter(known.kind for known in KNOWN_FILES) == {
        "original": 7 + 8 + 12,  # 7B to 33B, 65B, and the first three in Hugging Face's layout
        "adapter": 15 + 4,
        "merged": 24,
        "ggml": 65,
        "params": 5,
        "tokenizer": 4,
    }


def test_each_release_of_the_original_project_adds_its_files():
    """60 digests stand in SHA256.md of v5.0; four archives were dropped from it on the way."""
    added = Counter(known.release for known in KNOWN_FILES if known.release.startswith("v"))
    assert added == {"v1.0": 3, "v1.1": 2, "v2.0": 2, "v2.1": 2, "v3.0": 8, "v3.1": 1, "v3.2": 1, "v4.0": 36, "v5.0": 9}
    assert sum(added.values()) == 60 + 4


@pytest.mark.parametrize(
    ("model", "count"),
    [
        ("original LLaMA-33B in Hugging Face's layout", 7),
        ("original LLaMA-65B", 8),
        ("merged Chinese-LLaMA-Plus-33B", 4),
        ("LLaMA-65B q4_0, unversioned ggml of 2023-03-20", 8),
        ("LLaMA-7B q4_0, ggjt v1 of 2023-04-20", 1),
        ("LLaMA-7B q4_0, ggjt v1 of 2023-04-25", 1),
        ("LLaMA-7B q4_0, ggjt v3 of 2023-06-11", 1),
    ],
)
def test_the_files_of_a_model_are_numbered(model, count):
    names = [known.name for known in known_files.files_of(model)]
    assert len(names) == len(set(names)) == count


def test_a_published_file_is_named_with_the_list_that_has_it(monkeypatch, tmp_path):
    path = tmp_path / "ggml-model-q4_0.bin.1"
    path.write_bytes(b"a part of a model")
    part = next(known for known in KNOWN_FILES if known.name == "ggml-model-q4_0.bin.1" and "13B" in known.model)
    monkeypatch.setitem(known_files.BY_SHA256, sha256(path), part)
    (verdict,) = verify([tmp_path]).verdicts
    assert verdict.status == "published"
    assert verdict.words == (
        "LLaMA-13B q4_0, unversioned ggml of 2023-03-20, file 2 of 2 (listed by llama.cpp of 2023-03-20)"
    )


def test_the_real_tokenizers_are_known(tokenizers):
    found, report = verdicts(tokenizers)
    assert found["llama.model"] == ("published", "LLaMA tokenizer (32000) (listed by llama.cpp of 2023-03-23)")
    assert found["chinese_sp.model"] == ("published", "Chinese SentencePiece model (20000)")
    assert report.exit_code == 0


def test_shards_are_counted(data, publish):
    out = data / "merge" / "two-shard-13b" / "out"
    publish("merged Tiny-13B", out / "consolidated.00.pth", out / "consolidated.01.pth")
    found, report = verdicts(out)
    assert found["consolidated.01.pth"] == ("published", "merged Tiny-13B, file 2 of 2")
    assert "merged Tiny-13B: all 2 files" in report.notes
    _, report = verdicts(out / "consolidated.00.pth")
    assert "merged Tiny-13B: consolidated.01.pth missing" in report.notes


def test_an_unknown_file_is_not_verified(data):
    found, report = verdicts(data / "ggml" / "T1_input" / "consolidated.00.pth")
    status, words = found["consolidated.00.pth"]
    assert status == "unknown"
    assert "no published file has this SHA256; the file itself is whole" in words
    assert "22 tensors, every CRC-32 holds" in words
    assert report.exit_code == 1


def test_a_damaged_file_is_bad(data, tmp_path):
    shutil.copy(data / "merge" / "malicious" / "bad_crc.pth", tmp_path)
    found, report = verdicts(tmp_path)
    assert found["bad_crc.pth"][0] == "bad"
    assert "CRC-32" in found["bad_crc.pth"][1]
    assert report.exit_code == 3


def test_params_json_by_its_meaning(tmp_path):
    path = tmp_path / "params.json"
    path.write_text(json.dumps(json.loads(params_json(model_named("13B"))), indent=4, sort_keys=True))
    assert verdicts(path)[0]["params.json"] == ("same meaning", "the values of LLaMA-13B")
    path.write_text(params_json(model_named("65B")).replace("1e-05", "1e-06"))
    assert verdicts(path)[0]["params.json"][0] == "no reference"
    path.write_text("{")
    assert verdicts(path)[0]["params.json"][0] == "bad"


# -------------------------------------------------------------------------------------------------- by the content


def test_another_torch_wrote_the_same_tensors(data, publish):
    """The published digest is torch 1.13's; torch 2.13 writes other bytes around the same tensors."""
    formats = data / "merge" / "pth-format"
    publish("merged Tiny-7B", formats / "torch1.13.1" / "consolidated.00.pth")
    found, report = verdicts(formats / "torch2.13.0" / "consolidated.00.pth")
    assert found["consolidated.00.pth"] == (
        "same content",
        "same tensors as merged Tiny-7B, other container: another torch.save wrote this file",
    )
    assert report.exit_code == 0


def test_other_tensors_in_the_same_shape_are_not_taken_for_it(data, golden, publish):
    publish("merged Tiny-7B", data / "merge" / "pth-format" / "torch1.13.1" / "consolidated.00.pth")
    found, report = verdicts(golden("merge/v11-adapter-f32") / "out" / "consolidated.00.pth")
    assert found["consolidated.00.pth"][0] == "unknown"
    assert report.exit_code == 1


def test_huggingface_layout_has_no_reference(data):
    found, report = verdicts(data / "merge" / "step1-hf-7b" / "hf" / "pytorch_model.bin")
    status, words = found["pytorch_model.bin"]
    assert status == "no reference"
    assert words.startswith("no reference published for this layout")
    assert report.exit_code == 0


def test_a_damaged_huggingface_file_is_bad(data, tmp_path):
    hf = shutil.copytree(data / "merge" / "step1-hf-7b" / "hf", tmp_path / "hf")
    with open(hf / "pytorch_model.bin", "r+b") as stream:
        stream.seek(200_000)
        stream.write(b"\1\2\3")
    found, report = verdicts(hf)
    assert found["pytorch_model.bin"][0] == "bad"
    assert report.exit_code == 3


def test_huggingface_layout_of_a_published_model_is_recognised(data, publish, tmp_path):
    source = data / "merge" / "v11-llama" / "out"
    publish("merged Tiny-7B", source / "consolidated.00.pth")
    with plan_to_hf(source, tmp_path / "hf", shard_size="100KB", weights_only=True) as plan:
        plan.write()
    found, _ = verdicts(tmp_path / "hf")
    assert len(found) > 2
    assert set(found.values()) == {
        ("same content", "no reference published for this layout; same tensors as merged Tiny-7B")
    }


def test_two_files_with_the_same_content(data, tmp_path):
    formats = data / "merge" / "pth-format"
    old, new = formats / "torch1.13.1" / "consolidated.00.pth", formats / "torch2.13.0" / "consolidated.00.pth"
    report = verify([old, new])
    assert report.notes == [f"same tensors, other container: {old} and {new}"]
    assert [verdict.status for verdict in report.verdicts] == ["unknown", "unknown"]
    assert f"same tensors as {new}, other container" in report.verdicts[0].words


def test_a_checkpoint_and_its_ggml_file(data, tmp_path):
    source = data / "ggml" / "T3_input"
    with plan_conversion(source, tmp_path / "x.bin", container="ggmf1") as plan:
        plan.write()
    report = verify([source, tmp_path / "x.bin"])
    assert f"same tensors, other container: {source} and {tmp_path / 'x.bin'}" in report.notes


def test_a_published_file_vouches_for_its_double(data, publish):
    formats = data / "merge" / "pth-format"
    old, new = formats / "torch1.13.1" / "consolidated.00.pth", formats / "torch2.13.0" / "consolidated.00.pth"
    publish("merged Tiny-7B", old, vocabularies=())  # so that the shape gives no hint
    report = verify([old, new])
    assert [verdict.status for verdict in report.verdicts] == ["published", "same content"]


def test_different_contents_are_told(golden):
    one, other = (golden(f"merge/{name}") / "out" / "consolidated.00.pth" for name in ("v11-llama", "v11-adapter-f32"))
    report = verify([one, other])
    assert any(note.startswith("different tensors") and "compare" in note for note in report.notes)


# -------------------------------------------------------------------------------------------------------- archives


def test_members_of_an_archive(tokenizers, tmp_path, data):
    with zipfile.ZipFile(tmp_path / "lora.zip", "w") as archive:
        archive.write(tokenizers / "llama.model", "lora/tokenizer.model")
        archive.write(data / "merge" / "v11-llama" / "lora" / "adapter_model.bin", "lora/adapter_model.bin")
        archive.writestr("lora/README.md", "x")
    found, report = verdicts(tmp_path / "lora.zip")
    assert found["lora.zip"][0] == "unknown"
    assert found["tokenizer.model"] == ("published", "LLaMA tokenizer (32000) (listed by llama.cpp of 2023-03-23)")
    assert found["adapter_model.bin"][0] == "unknown"
    assert "README.md" not in found
    assert report.exit_code == 1


@pytest.mark.parametrize("damage", ["cut", "noise", "crc"])
def test_damaged_archives(damage, tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("adapter_model.bin", b"a" * 1000)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-30]
    elif damage == "noise":
        content = bytearray(b"not a zip")
    else:
        content[500] ^= 1
    path.write_bytes(content)
    found = [verdict for verdict in verify([path]).verdicts if verdict.status == "bad"]
    assert len(found) == 1
    assert "the zip archive is damaged" in found[0].words


def test_an_archive_that_claims_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr("toolchain.verify.published.MOST_UNPACKED", 999)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("adapter_model.bin", b"a" * 1000)
    assert any("claims to hold more" in verdict.words for verdict in verify([tmp_path / "x.zip"]).verdicts)


# ----------------------------------------------------------------------------------------------------------- lists


@pytest.fixture
def listed(data, tmp_path):
    directory = shutil.copytree(data / "ggml" / "T1_input", tmp_path / "7B")
    md5 = {name: digests(directory / name, ("md5",))["md5"] for name in ("consolidated.00.pth", "params.json")}
    (directory / "checklist.chk").write_text("".join(f"{digest}  {name}\n" for name, digest in md5.items()))
    tokenizer = digests(directory / "tokenizer.model", ("md5",))["md5"]
    (directory / "tokenizer_checklist.chk").write_text(f"{tokenizer}  tokenizer.model\n")
    return directory


def test_metas_checklists(listed):
    found, report = verdicts(listed)
    assert found == {
        "consolidated.00.pth": ("listed", "as checklist.chk says (md5)"),
        "params.json": ("listed", "as checklist.chk says (md5)"),
        "tokenizer.model": ("listed", "as tokenizer_checklist.chk says (md5)"),
    }
    assert report.exit_code == 0


def test_a_file_that_differs_from_its_list(listed):
    with open(listed / "consolidated.00.pth", "r+b") as stream:
        stream.seek(5000)
        stream.write(b"\1")
    found, report = verdicts(listed)
    status, words = found["consolidated.00.pth"]
    assert status == "differs"
    assert "checklist.chk promises md5" in words
    assert digests(listed / "consolidated.00.pth", ("md5",))["md5"] in words
    assert report.exit_code == 1


def test_json_of_another_version_has_the_same_meaning(listed):
    value = json.loads((listed / "params.json").read_text())
    (listed / "params.json").write_text(json.dumps(value, indent=2) + "\n")
    found, report = verdicts(listed)
    assert found["params.json"] == ("same meaning", "the same values as checklist.chk promises, formatted otherwise")
    assert report.exit_code == 0
    (listed / "params.json").write_text(json.dumps({**value, "dim": 128}))
    assert verdicts(listed)[0]["params.json"][0] == "differs"


def test_a_listed_file_that_is_not_there(listed):
    (listed / "consolidated.00.pth").unlink()
    found, report = verdicts(listed)
    assert found["consolidated.00.pth"][0] == "missing"
    assert "checklist.chk lists it" in found["consolidated.00.pth"][1]
    assert report.exit_code == 3


def test_a_list_beside_a_single_file_counts(listed):
    found, report = verdicts(listed / "consolidated.00.pth")
    assert found == {"consolidated.00.pth": ("listed", "as checklist.chk says (md5)")}
    assert report.exit_code == 0


@pytest.mark.parametrize("line", ["{}  {}", "{} *{}", "SHA256 ({1}) = {0}", "# comment\n\n{}  ./{}"])
def test_sha256_lists(line, data, tmp_path):
    shutil.copy(data / "ggml" / "T1_input" / "consolidated.00.pth", tmp_path)
    digest = sha256(tmp_path / "consolidated.00.pth")
    (tmp_path / "SHA256SUMS").write_text(line.format(digest, "consolidated.00.pth") + "\n")
    assert verdicts(tmp_path)[0] == {"consolidated.00.pth": ("listed", "as SHA256SUMS says (sha256)")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello", "is not a list of digests"),
        ("abc  x", "is not a list of digests"),
        ("0" * 32 + "  ../x", "outside its directory"),
        ("0" * 32 + "  /etc/passwd", "outside its directory"),
        ("0" * 64 + "  a\\..\\..\\b", "outside its directory"),
    ],
)
def test_lists_that_are_none(text, words, tmp_path):
    (tmp_path / "checklist.chk").write_text(text)
    with pytest.raises(FormatError, match=words):
        read_list(tmp_path / "checklist.chk")
    report = verify([tmp_path])
    assert [verdict.status for verdict in report.verdicts] == ["bad"]
    assert report.exit_code == 3


def test_meaning_of_what_is_no_json(tmp_path):
    (tmp_path / "x.json").write_text("{")
    assert not same_json_meaning(tmp_path / "x.json", "md5", "0" * 32)


# ------------------------------------------------------------------------------------------------- the command line


def test_missing_paths_are_named(tmp_path, capsys):
    with pytest.raises(MissingFileError, match="no such file or directory"):
        verify([tmp_path / "none"])
    assert cli.main(["verify", str(tmp_path / "none")]) == 3
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_progress_covers_the_first_pass(data):
    path = data / "ggml" / "T1_input" / "tokenizer.model"
    seen = []
    verify([path], seen.append)
    assert sum(seen) == bytes_to_read([path]) == path.stat().st_size


def test_commands(listed, data, capsys, tmp_path):
    assert cli.main(["verify", str(listed)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("listed        ")
    assert "as checklist.chk says (md5)" in out
    assert cli.main(["verify", "--json", str(data / "ggml" / "T1_input" / "consolidated.00.pth")]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["files"][0]["status"] == "unknown"
    assert document["files"][0]["sha256"] == sha256(data / "ggml" / "T1_input" / "consolidated.00.pth")
    assert cli.main(["verify", str(tmp_path / "7B" / "params.json"), "-q"]) == 0
    (tmp_path / "empty").mkdir()
    assert cli.main(["verify", str(tmp_path / "empty")]) == 0
    assert "nothing to verify here" in capsys.readouterr().err
