"""A folder is looked at once: opening a checkpoint lists its directory and reads each small file a single time."""

from __future__ import annotations

import os
import shutil

import pytest

from ggmlpy.files.errors import MissingFileError
from llama_ref.checkpoint import LazyTensor, open_checkpoint, open_pth
from llama_ref.checkpoint.folder import Folder, is_weight_file
from llama_ref.checkpoint.safetensors_file import SafetensorsFile
from llama_ref.checkpoint.weights import open_weights, weights_size, write_weights
from llama_ref.conversion.checkpoints import plan_to_hf
from tests.llama_ref.looks import looks_of


def opened(directory):
    with open_checkpoint(directory) as model:
        return model.layout


@pytest.fixture
def meta(data, tmp_path):
    return shutil.copytree(data / "ggml" / "T1_input", tmp_path / "meta")


@pytest.fixture
def parts(meta, tmp_path):
    with plan_to_hf(meta, tmp_path / "hf", shard_size="100KB") as plan:
        plan.write()
    return tmp_path / "hf"


def test_metas_layout_is_looked_at_once(meta):
    looks = looks_of(lambda: opened(meta))
    assert looks == {str(meta): 1, str(meta / "params.json"): 1, str(meta / "consolidated.00.pth"): 1}


def test_hugging_faces_layout_is_looked_at_once(parts):
    looks = looks_of(lambda: opened(parts))
    weights = sorted(path.name for path in parts.glob("*.safetensors"))
    assert len(weights) > 1
    expected = ["config.json", "model.safetensors.index.json", *weights]
    assert looks == {str(parts): 1, **{str(parts / name): 1 for name in expected}}


def test_both_layouts_in_one_folder(parts, meta):
    for path in meta.iterdir():
        shutil.copy(path, parts)
    assert opened(parts) == "meta"
    (parts / "params.json").unlink()
    assert opened(parts) == "huggingface"
    assert looks_of(lambda: opened(parts))[str(parts)] == 1


def test_a_record_of_what_is_there(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_text("{}")
    os.symlink("nowhere", tmp_path / "broken")
    os.symlink("loop", tmp_path / "loop")
    folder = Folder.of(tmp_path)
    assert folder.names == ("broken", "config.json", "loop", "model.safetensors", "sub")
    assert folder.files == {"config.json", "model.safetensors"}
    assert folder.directories == ("sub",)
    assert folder.holds_weights
    assert folder.json("config.json") is folder.json("config.json")
    assert folder.matching("*.json") == [tmp_path / "config.json"]
    with pytest.raises(MissingFileError, match="is missing"):
        folder.json("params.json")


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("consolidated.00.pth", True),
        ("model.safetensors", True),
        ("model-00001-of-00002.safetensors", True),
        ("pytorch_model.bin.index.json", True),
        ("adapter_model.bin", False),
        ("tokenizer.model", False),
    ],
)
def test_names_of_weights(name, counts):
    assert is_weight_file(name) == counts


@pytest.mark.parametrize(("name", "kind"), [("x.safetensors", SafetensorsFile), ("x.bin", None), ("x.pth", None)])
def test_either_kind_is_written_and_opened_by_its_name(name, kind, meta, tmp_path):
    with open_pth(meta / "consolidated.00.pth") as source:
        tensors = list(source.values())
        seen: list[int] = []
        write_weights(tmp_path / name, tensors, progress=seen.append)
        assert sum(seen) == sum(tensor.nbytes for tensor in tensors)
        assert weights_size(tmp_path / name, tensors) == (tmp_path / name).stat().st_size
        with open_weights(tmp_path / name) as file:
            assert isinstance(file, kind or type(source))
            assert {name: tensor.numpy().tobytes() for name, tensor in file.state_dict.items()} == {
                tensor.name: tensor.numpy().tobytes() for tensor in tensors
            }
            file.release()
            assert all(isinstance(tensor, LazyTensor) for tensor in file.values())
