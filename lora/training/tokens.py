r"""From texts and records to token ids and labels, as Chinese-LLaMA-Alpaca's scripts made them.

A **text** is a line: ``<s>``, then the pieces of the line; every token is a target, ``<s>`` too, and no ``</s>``
follows (the authors: ``<s>`` plays both parts). Lines are joined, and what is joined is cut
into blocks of equal length.

A **record** is ``<s>``, the prompt, and the answer with ``</s>``; prompt and answer are cut into tokens each by itself,
so that the answer begins with its own ``▁``. Only the answer's tokens are targets. Both are cut off at the length.

The slow tokenizer of transformers 4.28.1 takes the names of special tokens out of a text before SentencePiece sees it;
what is between them is encoded by itself and gets its own ``▁`` each time. Blanks around ``[PAD]`` are lost, those
around the others stay.

Source: run_clm_pt_with_peft.py, build_dataset.py of Chinese-LLaMA-Alpaca v5.0; tokenization_llama.py of transformers
4.28.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from llama_ref.vocabulary.prompts import LLAMA_2_TEMPLATE, TRAINING_TEMPLATE, alpaca_prompt
from llama_ref.vocabulary.sentencepiece_model import SentencePieceModel
from llama_ref.vocabulary.tokenizer_file import load_processor

__all__ = ["PROMPTS", "Row", "TrainingTokenizer", "cut_lines"]

BOS, EOS, PAD = "<s>", "</s>", "[PAD]"
SPECIAL = ("<unk>", BOS, EOS, PAD)
PROMPTS = {"alpaca": TRAINING_TEMPLATE, "llama-2": LLAMA_2_TEMPLATE}


@dataclass(frozen=True)
class Row:
    """Token ids, and where the targets begin: labels are the ids from there on, and -100 before."""

    ids: Sequence[int]
    first_target: int = 0


class TrainingTokenizer:
    """A vocabulary as the training scripts used it; several threads may share one."""

    def __init__(self, model: SentencePieceModel, path: str = "tokenizer.model") -> None:
        self._processor = load_processor(model.to_bytes(), path)
        self.special = {name: model.ids[name.encode()] for name in SPECIAL if name.encode() in model.ids}
        self._cut = re.compile("(" + "|".join(map(re.escape, self.special)) + ")")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without ``<s>`` before or ``</s>`` behind."""
        parts = [self._parts(text) for text in texts]
        plain = [part for each in parts for part in each if part not in self.special]
        encoded = iter(self._processor.encode(plain, num_threads=1) if plain else ())
        return [self._joined(each, encoded) for each in parts]

    def _joined(self, parts: Sequence[str], encoded: Iterator[list[int]]) -> list[int]:
        ids = [[self.special[part]] if part in self.special else next(encoded) for part in parts]
        return ids[0] if len(ids) == 1 else list(chain.from_iterable(ids))

    def _parts(self, text: str) -> list[str]:
        if not self._cut.search(text):
            return [text] if text else []
        parts = self._cut.split(text)  # plain, special, plain, special, …, plain
        for at in range(1, len(parts), 2):
            if parts[at] == PAD:
                parts[at - 1], parts[at + 1] = parts[at - 1].rstrip(), parts[at + 1].lstrip()
        return [part for part in parts if part]

    def lines(self, lines: Sequence[str], *, end: bool = False) -> list[list[int]]:
        """The ids of lines, each after ``<s>``; with ``end``, ``</s>`` behind each."""
        tail = [self.special[EOS]] if end else []
        return [[self.special[BOS], *ids, *tail] for ids in self.encode(lines)]

    def records(self, records: Sequence[Mapping[str, str]], prompt: str, length: int) -> Iterator[Row]:
        """Rows of records: their prompts are read, their answers are learned."""
        template = PROMPTS[prompt]
        asked = [alpaca_prompt(each["instruction"], each.get("input") or "", template=template) for each in records]
        answers = self.encode([f"{each['output']}{EOS}" for each in records])
        for prompt_ids, answer in zip(self.lines(asked), answers):
            yield Row([*prompt_ids, *answer][:length], min(len(prompt_ids), length))


def cut_lines(lines: Iterable[Sequence[int]], length: int) -> Iterator[Row]:
    """Blocks of ``length`` ids out of lines that are joined; what is left at the end is dropped, unless it is all.

    >>> [row.ids for row in cut_lines([[1, 5, 6], [1, 7]], 2)], [row.ids for row in cut_lines([[1, 5]], 9)]
    ([[1, 5], [6, 1]], [[1, 5]])
    """
    joined = list(chain.from_iterable(lines))
    whole = len(joined) // length * length if len(joined) >= length else len(joined)
    for start in range(0, whole, length):
        yield Row(joined[start : start + length])
