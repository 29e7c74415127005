r"""The prompts of instruction models: Stanford Alpaca's, as Chinese-LLaMA-Alpaca uses it. Their text is only here.

Chinese-LLaMA-Alpaca always takes the variant without input; an input is joined to the instruction by a newline. It
trains with one spelling and generates with another: generation follows llama.cpp's ``-ins`` mode, with empty lines
after the headings, which its authors found to answer better.

=======================  ==============================================================================================
``TRAINING_TEMPLATE``    one instruction, as the model was trained on it
``GENERATION_TEMPLATE``  one instruction, as Chinese-LLaMA-Alpaca's own scripts ask it
``CHAT_TEMPLATE``        the first turn of llama.cpp's ``-ins``: ``<s>`` before the heading, a newline after the input
``TURN_TEMPLATE``        a turn of it without the sentence that begins the conversation
``BARE_TEMPLATE``        the instruction alone
``LLAMA_2_TEMPLATE``     one instruction, as Chinese-LLaMA-Alpaca-2 trained on it and asks it
=======================  ==============================================================================================

Sources: Chinese-LLaMA-Alpaca ``scripts/training/build_dataset.py`` (training) and ``scripts/inference/inference_hf.py``
(generation); llama.cpp ``examples/main/main.cpp`` at 352589927 (``inp_pfx``, ``inp_sfx``) and ``prompts/alpaca.txt``;
Chinese-LLaMA-Alpaca-2 ``scripts/training/build_dataset.py`` at 2a334d1.
"""

from __future__ import annotations

__all__ = [
    "BARE_TEMPLATE",
    "CHAT_TEMPLATE",
    "GENERATION_TEMPLATE",
    "INSTRUCTION_PREFIX",
    "LLAMA_2_TEMPLATE",
    "PREAMBLE",
    "RESPONSE_SUFFIX",
    "REVERSE_PROMPT",
    "TRAINING_TEMPLATE",
    "TURN_TEMPLATE",
    "alpaca_prompt",
]

PREAMBLE = "Below is an instruction that describes a task. Write a response that appropriately completes the request."

# What llama.cpp's -ins puts around each turn, and the text at which it gives the turn back to the person.
INSTRUCTION_PREFIX = "\n\n### Instruction:\n\n"
RESPONSE_SUFFIX = "\n\n### Response:\n\n"
REVERSE_PROMPT = "### Instruction:\n\n"

TRAINING_TEMPLATE = PREAMBLE + "\n\n### Instruction:\n{instruction}\n\n### Response: "
GENERATION_TEMPLATE = PREAMBLE + INSTRUCTION_PREFIX + "{instruction}" + RESPONSE_SUFFIX
TURN_TEMPLATE = INSTRUCTION_PREFIX + "{instruction}\n" + RESPONSE_SUFFIX
CHAT_TEMPLATE = PREAMBLE + "<s>" + TURN_TEMPLATE
BARE_TEMPLATE = "{instruction}"
LLAMA_2_TEMPLATE = (
    "[INST] <<SYS>>\nYou are a helpful assistant. 你是一个乐于助人的助手。\n<</SYS>>\n\n{instruction} [/INST]"
)


def alpaca_prompt(instruction: str, input: str = "", *, template: str = GENERATION_TEMPLATE) -> str:
    r"""The text that the model continues with its answer; ``template`` is one of those above.

    >>> alpaca_prompt("Translate.", "你好", template=TRAINING_TEMPLATE)[-48:]
    '\n\n### Instruction:\nTranslate.\n你好\n\n### Response: '
    """
    return template.replace("{instruction}", f"{instruction}\n{input}" if input else instruction)
