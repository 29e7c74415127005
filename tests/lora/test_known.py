"""Published bases and adapters are recognised, and wrong combinations of them refused."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from ggmlpy.files.errors import UsageError
from llama_ref.checkpoint import open_pth, write_pth
from llama_ref.checkpoint.known_files import KNOWN_FILES, KnownFile
from lora.merging import published as known
from lora.merging.merge import plan_merge
from lora.merging.published import CHAINS


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def published(data: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Path]]:
    """The golden adapters, pretending to be LLaMA-Plus and Alpaca-Plus, and their base."""
    folder = data / "merge" / "head-multi-lora"
    adapters = [folder / "lora1", folder / "lora2"]
    names = ("Chinese-LLaMA-Plus-7B LoRA", "Chinese-Alpaca-Plus-7B LoRA")
    table = {
        sha256(path / "adapter_model.bin"): KnownFile(name, "adapter_model.bin", "", "adapter")
        for path, name in zip(adapters, names)
    }
    monkeypatch.setattr(known, "BY_SHA256", table)
    return data / "merge" / "v11-llama" / "base" / "7B", adapters


def test_the_chain_of_the_plus_models(published: tuple[Path, list[Path]], tmp_path: Path) -> None:
    base, adapters = published
    with plan_merge(base, adapters, tmp_path / "out", check_base=True) as plan:
        notes = "\n".join(plan.chain.notes)
    assert "adapter 1 is the published Chinese-LLaMA-Plus-7B LoRA" in notes
    assert "adapter 2 is the published Chinese-Alpaca-Plus-7B LoRA" in notes
    assert "consolidated.00.pth is not one of the original files" in notes


def test_alpaca_plus_alone_is_refused(published: tuple[Path, list[Path]], tmp_path: Path) -> None:
    base, (_, alpaca) = published
    with pytest.raises(
        UsageError, match=r"belongs on the original LLaMA after Chinese-LLaMA-Plus-7B LoRA: --lora <Chi"
    ):
        plan_merge(base, [alpaca], tmp_path / "out")


def test_an_unknown_adapter_in_between_is_let_through(published: tuple[Path, list[Path]], tmp_path: Path) -> None:
    base, (llama, alpaca) = published
    shutil.copytree(llama, tmp_path / "own")
    with open_pth(llama / "adapter_model.bin") as f:  # the same tensors in another container
        write_pth(tmp_path / "own" / "adapter_model.bin", f.tensors.values(), "2.6")
    with plan_merge(base, [tmp_path / "own", alpaca], tmp_path / "out") as plan:
        assert [note for note in plan.chain.notes if "published" in note] == [
            "adapter 2 is the published Chinese-Alpaca-Plus-7B LoRA"
        ]


def test_the_chains_name_published_things() -> None:
    models = {known_file.model for known_file in KNOWN_FILES}
    for adapters, result in CHAINS.items():
        assert {*adapters, result} <= models
    assert set(CHAINS.values()) == {model for model in models if model.startswith("merged")}


def test_an_original_base_promises_the_published_digests(
    published: tuple[Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapters = published
    original = KnownFile("original LLaMA-None", "consolidated.00.pth", "", "original")
    monkeypatch.setitem(known.BY_SHA256, sha256(base / "consolidated.00.pth"), original)
    with plan_merge(base, adapters, tmp_path / "out", check_base=True) as plan:
        notes = "\n".join(plan.chain.notes)
    expected = "8b8f6551d0d83f93e378622b9f8dad0bec189da6c29d8a78de493e6aee9bd35f"
    assert f"consolidated.00.pth must get the SHA256 {expected} (merged Chinese-Alpaca-Plus-7B" in notes
