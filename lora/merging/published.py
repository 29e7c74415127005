"""Is this a published base, a published adapter, and were they meant for each other?

Adapters are recognized by the SHA256 of their weights, and so is the base if asked for, because it means reading all of
it. Chinese-LLaMA-Alpaca published which adapters go on which base, in which order (the tables of its README, v1.0 to
v5.0): the Plus and Pro versions of Alpaca continue from LLaMA-Plus of their size, all others start from the original
LLaMA. The digests of the merged Alpaca-Plus-33B and of the three Pro models were announced and never published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ggmlpy.files.checksums import digests
from ggmlpy.files.errors import UsageError
from llama_ref.checkpoint.known_files import BY_SHA256, HUGGINGFACE_LAYOUT, KnownFile, files_of
from llama_ref.checkpoint.layout import Checkpoint

from .adapter import Adapter

__all__ = ["CHAINS", "identify_inputs"]

# fmt: off
CHAINS: dict[tuple[str, ...], str] = {  # adapters in order -> the model that they make of the original LLaMA
    ("Chinese-LLaMA-7B LoRA",):                                      "merged Chinese-LLaMA-7B",
    ("Chinese-LLaMA-Plus-7B LoRA",):                                 "merged Chinese-LLaMA-Plus-7B",
    ("Chinese-Alpaca-7B LoRA",):                                     "merged Chinese-Alpaca-7B",
    ("Chinese-LLaMA-Plus-7B LoRA", "Chinese-Alpaca-Plus-7B LoRA"):   "merged Chinese-Alpaca-Plus-7B",
    ("Chinese-LLaMA-Plus-7B LoRA", "Chinese-Alpaca-Pro-7B LoRA"):    "merged Chinese-Alpaca-Pro-7B",
    ("Chinese-LLaMA-13B LoRA",):                                     "merged Chinese-LLaMA-13B",
    ("Chinese-LLaMA-Plus-13B LoRA",):                                "merged Chinese-LLaMA-Plus-13B",
    ("Chinese-Alpaca-13B LoRA",):                                    "merged Chinese-Alpaca-13B",
    ("Chinese-LLaMA-Plus-13B LoRA", "Chinese-Alpaca-Plus-13B LoRA"): "merged Chinese-Alpaca-Plus-13B",
    ("Chinese-LLaMA-Plus-13B LoRA", "Chinese-Alpaca-Pro-13B LoRA"):  "merged Chinese-Alpaca-Pro-13B",
    ("Chinese-LLaMA-33B LoRA",):                                     "merged Chinese-LLaMA-33B",
    ("Chinese-LLaMA-Plus-33B LoRA",):                                "merged Chinese-LLaMA-Plus-33B",
    ("Chinese-Alpaca-33B LoRA",):                                    "merged Chinese-Alpaca-33B",
    ("Chinese-LLaMA-Plus-33B LoRA", "Chinese-Alpaca-Plus-33B LoRA"): "merged Chinese-Alpaca-Plus-33B",
    ("Chinese-LLaMA-Plus-33B LoRA", "Chinese-Alpaca-Pro-33B LoRA"):  "merged Chinese-Alpaca-Pro-33B",
}
# fmt: on


def identify_inputs(
    base: Checkpoint,
    adapters: Sequence[Adapter],
    *,
    check_base: bool = False,
    progress: Callable[[int], object] | None = None,
) -> list[str]:
    """What the inputs are, in words, and the digests that the result must have if all of them are published.

    Raises:
        UsageError: published adapters in a combination that was not made for each other.
    """
    found = [_known(adapter.weights, progress) for adapter in adapters]
    notes = [f"adapter {i} is the published {known.model}" for i, known in enumerate(found, 1) if known]
    result = _result_of(found)
    if not check_base:
        return notes
    originals = [_known(path, progress) for path in base.files]
    models = {known.model if known else "unknown" for known in originals}
    of_this_shape = f"original LLaMA-{base.params.published}"
    if models not in ({of_this_shape}, {of_this_shape + HUGGINGFACE_LAYOUT}):
        strangers = [p for p, known in zip(base.files, originals) if known is None or known.kind != "original"]
        strange = f"{strangers[0]} is not one" if strangers else f"the files of {base.path} are not all"
        return [*notes, f"{strange} of the original files: the result will not be a published model"]
    return [*notes, f"the base is the {models.pop()}", *_promises(result)]


def _promises(result: str | None) -> list[str]:
    """The digests that a published model must get."""
    if result is None:
        return []
    files = files_of(result)
    if not files:
        return [f"the result is the {result}; its SHA256 were never published"]
    return [f"{known.name} must get the SHA256 {known.sha256} ({result}, pth, torch 1.13)" for known in files]


def _known(path: object, progress: Callable[[int], object] | None) -> KnownFile | None:
    return BY_SHA256.get(digests(str(path), progress=progress)["sha256"])


def _result_of(found: Sequence[KnownFile | None]) -> str | None:
    """The published model that these adapters make; None where one of them is not known."""
    names = tuple(known.model.removesuffix(" zip") for known in found if known)
    if len(names) < len(found) or not names:
        return None
    if names not in CHAINS:
        good = [chain for chain in CHAINS if chain[-1] == names[-1]] or list(CHAINS)
        raise UsageError(
            f"{' then '.join(names)}: these adapters were not made for each other; "
            f"{names[-1]} belongs on the original LLaMA"
            + (f" after {good[0][0]}" if len(good[0]) > 1 else " alone")
            + f": --lora {','.join('<' + name + '>' for name in good[0])}"
        )
    return CHAINS[names]
