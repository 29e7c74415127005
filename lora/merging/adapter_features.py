"""What the keys of ``adapter_config.json`` mean for a merge: one row each.

PEFT writes every option of its ``LoraConfig`` into the file, most of them at rest. A key is at rest if its value is
null, false, 0, empty, or one of those in its row; otherwise it is active, and the row says what follows:

========  ==============================================================================================
used      the merge computes with it (:mod:`lora.merging.adapter_config`)
no part   it steered training or says where things came from; the merged weights do not depend on it
told      the merge goes on, and a note says what was not taken into account
refused   the merged weights would be wrong; the reason is named
========  ==============================================================================================

A key without a row is told when it is active: a later PEFT may have a feature that is unknown here.

Sources: peft 0.2.0 to 0.21.2, ``tuners/lora/config.py`` and ``tuners/lora/variants.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["FEATURES", "Feature", "active_features"]

Effect = Literal["used", "no part", "told", "refused"]


@dataclass(frozen=True)
class Feature:
    """One key: what an active value means, why, and the values at which it is at rest."""

    effect: Effect
    reason: str = ""
    at_rest: tuple[Any, ...] = ()

    def is_active(self, value: Any) -> bool:
        """Whether the value asks for something.

        >>> feature = Feature("refused", "…", ("none",))
        >>> [feature.is_active(value) for value in (None, False, {}, "none", "all", True, [5])]
        [False, False, False, False, True, True, True]
        """
        if not value:  # null, false, 0, "", [], {}
            return False
        said = value.lower() if isinstance(value, str) else value
        return not any(type(said) is type(rest) and said == rest for rest in self.at_rest)


def _refused(reason: str, *at_rest: Any) -> Feature:
    return Feature("refused", reason, at_rest)


_USED, _NO_PART = Feature("used"), Feature("no part")
_INITIALIZATIONS = (True, "gaussian", "eva", "orthogonal")  # lora_A and lora_B began so; the base stayed as it was

# fmt: off
FEATURES: dict[str, Feature] = {
    **dict.fromkeys(("peft_type", "r", "lora_alpha", "fan_in_fan_out", "use_rslora", "rank_pattern", "alpha_pattern",
                     "modules_to_save", "base_model_name_or_path"), _USED),
    **dict.fromkeys(("task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "lora_dropout",
                     "target_modules", "exclude_modules", "target_parameters", "layers_to_transform", "layers_pattern",
                     "merge_weights", "megatron_config", "megatron_core", "runtime_config", "qalora_group_size",
                     "loftq_config", "eva_config", "corda_config", "lora_ga_config"), _NO_PART),
    "init_lora_weights":       _refused("the base itself was changed when training began", *_INITIALIZATIONS),
    "use_dora":                _refused("DoRA scales each column by a learned magnitude"),
    "alora_invocation_tokens": _refused("an activated LoRA (aLoRA) acts only after its invocation tokens"),
    "use_qalora":              _refused("QALoRA groups the input"),
    "use_bdlora":              _refused("BD-LoRA's pairs are block-diagonal, cut for several processors"),
    "kasa_config":             _refused("KaSA changes the base by its singular values before it is trained"),
    "velora_config":           _refused("VeLoRA is more than a pair of matrices per module"),
    "monteclora_config":       _refused("MonteCLoRA samples its matrices around the stored ones"),
    "arrow_config":            _refused("Arrow chooses among several adapters for each token"),
    "enable_lora":             _refused("MergedLinear adapts slices of one matrix"),
    "lora_bias":               _refused("biases that LLaMA does not have"),
    "layer_replication":       _refused("the adapted model has repeated layers"),
    "trainable_token_indices": _refused("single rows of the embedding are replaced"),
    "bias":                    Feature("told", "LLaMA's layers have no biases: there is nothing to merge", ("none",)),
    "ensure_weight_tying":     Feature("told", "LLaMA's embedding and output are separate matrices: each gets what the "
                                               "weights hold for it"),
}
# fmt: on
_UNKNOWN = Feature("told", "an option that is unknown here; the merge adds B @ A as without it")


def active_features(record: Mapping[str, Any]) -> dict[str, Feature]:
    """The active keys of a configuration that are told or refused, in the file's order."""
    rows = {key: FEATURES.get(key, _UNKNOWN) for key in record}
    return {k: row for k, row in rows.items() if row.effect in ("told", "refused") and row.is_active(record[k])}
