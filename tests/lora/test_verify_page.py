"""The page about verify names every cause that the program can name."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ggmlpy import open_model
from ggmlpy.formats.eras import DEFAULT_ERA, ERAS
from ggmlpy.formats.row_reader import RowFiles
from ggmlpy.verify.quantization import quantization_deviations
from llama_ref.checkpoint import open_checkpoint
from lora.merging.merge import plan_merge
from tests.lora.test_verify import inputs
from toolchain.verify.merge import merge_mistakes
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
    with open_model(f16) as model, RowFiles(model) as files, ThreadPoolExecutor(1) as pool:
        known = quantization_deviations(model, files, model, ERAS[DEFAULT_ERA], pool)
    names += [deviation.name for deviation in known if deviation.era is None] + [SHORT]
    assert len(names) > 20
    for name in names:
        assert name.partition(": " if "adapters" in name else "\0")[0] in PAGE, name
