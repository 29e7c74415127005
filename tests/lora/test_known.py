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


UNPUBLISHED = ["Alpaca-Plus-33B", "Alpaca-Pro-13B", "Alpaca-Pro-33B", "Alpaca-Pro-7B"]  # "TBA" to the end


def test_the_chains_name_published_things() -> None:
    models = {known_file.model for known_file in KNOWN_FILES}
    assert len(CHAINS) == 15
    assert {adapter for chain in CHAINS for adapter in chain} <= models
    assert {chain[-1] for chain in CHAINS} == {m for m in models if m.startswith("Chinese-") and m.endswith(" LoRA")}
    merged = {model for model in models if model.startswith("merged")}
    assert sorted(set(CHAINS.values()) - merged) == [f"merged Chinese-{name}" for name in UNPUBLISHED]
    assert merged <= set(CHAINS.values())


@pytest.mark.parametrize("size", ["7B", "13B", "33B"])
@pytest.mark.parametrize("version", ["Plus", "Pro"])
def test_plus_and_pro_continue_from_llama_plus_of_their_size(size: str, version: str) -> None:
    assert [chain for chain in CHAINS if chain[-1] == f"Chinese-Alpaca-{version}-{size} LoRA"] == [
        (f"Chinese-LLaMA-Plus-{size} LoRA", f"Chinese-Alpaca-{version}-{size} LoRA")
    ]


def test_a_pro_model_has_no_published_digest(
    published: tuple[Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapters = published
    pro = KnownFile("Chinese-Alpaca-Pro-7B LoRA", "adapter_model.bin", "", "adapter")
    original = KnownFile("original LLaMA-None in Hugging Face's layout", "pytorch_model.bin", "", "original")
    monkeypatch.setitem(known.BY_SHA256, sha256(adapters[1] / "adapter_model.bin"), pro)
    monkeypatch.setitem(known.BY_SHA256, sha256(base / "consolidated.00.pth"), original)
    with plan_merge(base, adapters, tmp_path / "out", check_base=True) as plan:
        notes = "\n".join(plan.chain.notes)
    assert "the base is the original LLaMA-None in Hugging Face's layout" in notes
    assert "the result is the merged Chinese-Alpaca-Pro-7B; its SHA256 were never published" in notes


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
