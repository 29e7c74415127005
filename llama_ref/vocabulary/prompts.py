"""The Stanford Alpaca prompt as the seed uses it: the one place where its text stands.

The seed always takes the variant without input; an input is joined to the instruction by a newline. It trains with one
spelling and generates with another: generation follows llama.cpp's ``-ins`` mode, with empty lines after the headings,
which its authors found to answer better.

Sources: Chinese-LLaMA-Alpaca ``scripts/training/build_dataset.py`` (training) and ``scripts/inference/inference_hf.py``
(generation); llama.cpp ``examples/main/main.cpp`` at 352589927 (``inp_pfx``, ``inp_sfx``) and ``prompts/alpaca.txt``.
"""

from __future__ import annotations

__all__ = [
    "GENERATION_TEMPLATE",
    "INSTRUCTION_PREFIX",
    "PREAMBLE",
    "RESPONSE_SUFFIX",
    "REVERSE_PROMPT",
    "TRAINING_TEMPLATE",
    "alpaca_prompt",
]

PREAMBLE = "Below is an instruction that describes a task. Write a response that appropriately completes the request."

TRAINING_TEMPLATE = PREAMBLE + "\n\n### Instruction:\n{instruction}\n\n### Response: "
GENERATION_TEMPLATE = PREAMBLE + "\n\n### Instruction:\n\n{instruction}\n\n### Response:\n\n"

# What llama.cpp's -ins puts around each turn, and where it hands the keyboard back.
INSTRUCTION_PREFIX = "\n\n### Instruction:\n\n"
RESPONSE_SUFFIX = "\n\n### Response:\n\n"
REVERSE_PROMPT = "### Instruction:\n\n"


def alpaca_prompt(instruction: str, input: str = "", *, template: str = GENERATION_TEMPLATE) -> str:
    r"""The text that the model continues with its answer; ``template`` is one of the two above.

    >>> alpaca_prompt("Translate.", "你好", template=TRAINING_TEMPLATE)[-48:]
    '\n\n### Instruction:\nTranslate.\n你好\n\n### Response: '
    """
    return template.replace("{instruction}", f"{instruction}\n{input}" if input else instruction)
