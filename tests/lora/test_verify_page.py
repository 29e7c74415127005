"""The page about verify names every cause that the program can name."""

from __future__ import annotations

import re
from pathlib import Path

from ggmlpy import open_model
from ggmlpy.files.ordered import Workers
from ggmlpy.formats.eras import DEFAULT_ERA, ERAS
from ggmlpy.verify.quantization import quantization_deviations
from llama_ref.checkpoint import open_checkpoint
from lora.merging.merge import plan_merge
from tests.lora.test_verify import inputs
from toolchain.verify.merge_mistakes import merge_mistakes
from toolchain.verify.mistakes import mistakes
from toolchain.verify.weights import SHORT

PAGE = re.sub(r"\s+", " ", (Path(__file__).parents[2] / "docs" / "verify.md").read_text("utf-8"))


def test_every_cause_is_on_the_page(golden, tmp_path):
    base, adapters, _ = inputs(golden, "head-multi-lora")
    with plan_merge(base, adapters, tmp_path / "nowhere") as plan:
        names = [mistake.name for mistake in merge_mistakes(plan)]
    with open_checkpoint(golden("merge/two-shard-13b/base/13B")) as checkpoint:
        names += [mistake.name for layout in ("meta", "huggingface") for mistake in mistakes(checkpoint, layout)]
    f16 = golden("ggml/T1_convert_f16/T1.p2.f16.bin")
    with open_model(f16) as model, Workers(1) as pool:
        known = quantization_deviations(model, model, ERAS[DEFAULT_ERA], pool)
    names += [deviation.name for deviation in known if deviation.era is None] + [SHORT]
    assert len(names) > 20
    for name in names:
        kind = re.sub(r"(?<=the quantizer of )20\S+", "another era", name)
        kind = re.sub(r"(quantized rightly as|adapters were applied[^:]*):? .*", r"\1", kind)
        assert kind in PAGE, name
