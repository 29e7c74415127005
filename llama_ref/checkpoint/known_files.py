"""Files that were published, by their SHA256: original weights, adapters, merged models, tokenizers.

Sources: SHA256.md and README of Chinese-LLaMA-Alpaca (ymcui), which states the digests of the merged models for torch
1.13.0 and later; the LLaMA tokenizer and the two grown ones as distributed with the adapters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["BY_SHA256", "KNOWN_FILES", "KnownFile", "files_of"]


@dataclass(frozen=True)
class KnownFile:
    """One published file.

    Attributes:
        model: what it belongs to; all files of a model have the same words here.
        name: the file's name as published (``*.zip`` where only the kind is stated).
        sha256: its digest.
        kind: "original", "adapter", "merged" or "tokenizer".
    """

    model: str
    name: str
    sha256: str
    kind: str


# SHA256, name of the file, model
_TABLE = """
700df0d3013b703a806d2ae7f1bfb8e59814e3d06ae78be0c66368a50059f33d consolidated.00.pth original LLaMA-7B
745bf4e29a4dd6f411e72976d92b452da1b49168a4f41c951cfcc8051823cf08 consolidated.00.pth original LLaMA-13B
d5ccbcc465c71c0de439a5aeffebe8344c68a519bce70bc7f9f92654ee567085 consolidated.01.pth original LLaMA-13B
e23294a58552d8cdec5b7e8abb87993b97ea6eced4178ff2697c02472539d067 consolidated.00.pth original LLaMA-33B
4e077b7136c7ae2302e954860cf64930458d3076fcde9443f4d0e939e95903ff consolidated.01.pth original LLaMA-33B
24a87f01028cbd3a12de551dcedb712346c0b5cbdeff1454e0ddf2df9b675378 consolidated.02.pth original LLaMA-33B
1adfcef71420886119544949767f6a56cb6339b4d5fcde755d80fe68b49de93b consolidated.03.pth original LLaMA-33B
39b86b310fe4c2b76fd1dd8234775af63ab94772a80bcae33a4086a9a7fe0e60 *.zip               Chinese-LLaMA-7B LoRA zip
9bb5b639dc2ea9ad593268b5f6abf85514c7637bf10f2344eb7031fe0fce2d87 *.zip               Chinese-Alpaca-7B LoRA zip
2a2c24d096f5d509f24946fdbd8c25e1ce4a0acb955902f7436d74c0c0379d86 adapter_model.bin   Chinese-LLaMA-7B LoRA
0d9b6ed8e4a7d1ae590a16c89a452a488d66ff07e45487972f61c2b6e46e36de adapter_model.bin   Chinese-Alpaca-7B LoRA
8c928db86b2a0cf73f019832f921eb7e1e069ca21441b4bfa12c4381c6cc46be adapter_model.bin   Chinese-LLaMA-Plus-7B LoRA
4ee0bf805c312a9a771624d481fbdb4485e1b0a70cd2a8da9f96137f177b795d adapter_model.bin   Chinese-Alpaca-Plus-7B LoRA
6a4ce789d219bde122f8d9a20371937f2aa2ee86a2311d9f5e303df2e774f9fc adapter_model.bin   Chinese-LLaMA-13B LoRA
cb8dda3c005f3343a0740dcd7237fbb600cb14b6bff9b6f3d488c086a2f08ada adapter_model.bin   Chinese-Alpaca-13B LoRA
245427a306e3253db3f534e2a1d7548a8eb781ae8761f9e98979b4aced6b43d8 consolidated.00.pth merged Chinese-LLaMA-7B
fbfccc91183169842aac8d093379f0a449b5a26c5ee7a298baf0d556f1499b90 consolidated.00.pth merged Chinese-Alpaca-7B
aa7f4599487ea2b0d0aca2b522c39370897f9afd9839aac7d02155957f1f019f consolidated.00.pth merged Chinese-LLaMA-13B
3954f3e7f7264994f23800a04423e6563cc1959ac699d9eaaa6801b4f9392ebd consolidated.01.pth merged Chinese-LLaMA-13B
30cefb5be9091c3e17fbba5d91bf16266a2ddf86cde53370a9982b232ff8a2f4 consolidated.00.pth merged Chinese-Alpaca-13B
ce946742b0f122f472e192c3f77d506e0c26578b4b881d07d919553333affecd consolidated.01.pth merged Chinese-Alpaca-13B
f8d380d63f77a08b7f447f5ec63f0bb1cde9ddeae2207e9f86e6b5f0f95a7955 consolidated.00.pth merged Chinese-LLaMA-Plus-7B
8b8f6551d0d83f93e378622b9f8dad0bec189da6c29d8a78de493e6aee9bd35f consolidated.00.pth merged Chinese-Alpaca-Plus-7B
9e556afd44213b6bd1be2b850ebbbd98f5481437a8021afaf58ee7fb1818d347 tokenizer.model     LLaMA tokenizer (32000)
e2676d4ca29ca1750f6ff203328d73b189321dc5776ceede037cbd36541d70c0 tokenizer.model     Chinese-LLaMA tokenizer (49953)
2d967e855b1213a439df6c8ce2791f869c84b4f3b6cfacf22b86440b8192a2f8 tokenizer.model     Chinese-Alpaca tokenizer (49954)
0f5f6f717181694ec2e1c9be4398e2db2e40a3902932325b06e12ad4cd64ac09 chinese_sp.model    Chinese SentencePiece model (20000)
"""


def _kind(model: str) -> str:
    for word, kind in (("original", "original"), ("merged", "merged"), ("LoRA", "adapter")):
        if word in model:
            return kind
    return "tokenizer"


def _rows() -> Iterator[KnownFile]:
    for line in _TABLE.strip().splitlines():
        sha256, name, model = line.split(maxsplit=2)
        yield KnownFile(model, name, sha256, _kind(model))


KNOWN_FILES: tuple[KnownFile, ...] = tuple(_rows())
BY_SHA256: dict[str, KnownFile] = {known.sha256: known for known in KNOWN_FILES}


def files_of(model: str) -> list[KnownFile]:
    """All published files of a model, in order of their names.

    >>> [known.name for known in files_of("merged Chinese-Alpaca-13B")]
    ['consolidated.00.pth', 'consolidated.01.pth']
    """
    return sorted((known for known in KNOWN_FILES if known.model == model), key=lambda known: known.name)
