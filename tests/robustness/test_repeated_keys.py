"""A key that stands in a JSON object twice: programs differ in which value they take, so two values are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy.files.checksums import same_json_meaning
from ggmlpy.files.errors import FormatError
from ggmlpy.files.json_files import RepeatedKey, each_key_once, read_json
from tests.docs.blocks import run
from tests.fuzz import scenes

VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.lists(st.integers()))


@given(st.lists(st.tuples(st.sampled_from("abcd"), VALUES), max_size=6))
def test_one_value_for_each_key(pairs: list) -> None:
    spelt = {key: {json.dumps(value) for other, value in pairs if other == key} for key, _ in pairs}
    text = "{" + ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in pairs) + "}"
    if any(len(values) > 1 for values in spelt.values()):
        with pytest.raises(RepeatedKey):
            json.loads(text, object_pairs_hook=each_key_once)
    else:
        assert list(json.loads(text, object_pairs_hook=each_key_once)) == list(spelt)


@pytest.mark.parametrize(
    ("scene", "name", "old", "command"),
    [
        (scenes.meta_model, "params.json", '"dim": 8', "convert FOLDER --outfile OUT.bin"),
        (scenes.meta_model, "added_tokens.json", '"<x>": 13', "convert FOLDER --outfile OUT.bin"),
        (scenes.huggingface("safetensors"), "config.json", '"hidden_size": 8', "convert FOLDER --outfile OUT.bin"),
        (
            scenes.huggingface("safetensors"),
            "model.safetensors.index.json",
            '"model.norm.weight": "',
            "convert FOLDER --outfile OUT.bin",
        ),
        (scenes.adapter("bin"), "adapter_config.json", '"r": 2', "merge --base BASE --lora FOLDER --output OUT"),
    ],
)
def test_every_configuration_with_two_values_is_refused_by_name(
    scene: Callable, name: str, old: str, command: str, tmp_path: Path
) -> None:
    folder, base = tmp_path / "folder", tmp_path / "base"
    for at in (folder, base):
        at.mkdir()
    scene(folder)
    scenes.meta_model(base)
    text = (folder / name).read_text()
    assert old in text
    key = old.partition(":")[0]
    (folder / name).write_text(text.replace(old, f"{key}: 99, {old}"))
    words = {"FOLDER": str(folder), "BASE": str(base), "OUT": str(tmp_path / "out"), "OUT.bin": str(tmp_path / "o.bin")}
    code, said = run([words.get(word, word) for word in command.split()])
    assert code == 3, said
    assert f"the key {json.loads(key)!r} stands twice in an object, with two values" in said
    assert name in said


def test_the_same_value_twice_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": [1, {"b": 2}], "a": [1, {"b": 2}]}')
    assert read_json(tmp_path / "x.json") == {"a": [1, {"b": 2}]}
    (tmp_path / "x.json").write_text('{"a": [{"b": 1, "b": true}]}')
    with pytest.raises(FormatError, match="the key 'b' stands twice"):
        read_json(tmp_path / "x.json")


def test_a_file_with_two_values_has_no_usual_meaning(tmp_path: Path) -> None:
    digest = hashlib.sha256(b'{"a": 2}').hexdigest()
    (tmp_path / "x.json").write_text('{"a":2}')
    assert same_json_meaning(tmp_path / "x.json", "sha256", digest)
    (tmp_path / "x.json").write_text('{"a":1,"a":2}')
    assert not same_json_meaning(tmp_path / "x.json", "sha256", digest)


def test_a_statement_with_two_values_is_refused(tmp_path: Path) -> None:
    scenes.meta_model(tmp_path)
    assert run(["convert", str(tmp_path), "--outfile", str(tmp_path / "o.bin"), "-q"])[0] == 0
    source, statement = str(tmp_path), tmp_path / "s.json"
    argv = ["verify", str(tmp_path / "o.bin"), "--source", source]
    assert run([*argv, "--attest", str(statement)])[0] == 0
    text = statement.read_text()
    statement.write_text(text.replace('"verdict":', '"verdict": "x", "verdict":', 1))
    code, said = run(["verify", "--statement", str(statement)])
    assert code == 3, said
    assert "its key 'verdict' has two values" in said
