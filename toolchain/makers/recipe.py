"""The demo model from nothing: corpus, vocabularies, base, stages one and two, instruction tuning, in one command.

    train demo --output DIR

leaves in DIR

===========================  =========================================================================================
``base/``                    the English base as Meta published LLaMA: consolidated.00.pth, params.json, tokenizer.model
``chinese-llama-lora/``      the adapter of stages one and two, with the grown vocabulary, as PEFT saves it
``chinese-alpaca-lora/``     the adapter of instruction tuning, to be applied after the other one; one more piece [PAD]
``held-out/``                texts that nothing was trained on, Chinese and English
``SHA256SUMS``               of all of these
``work/``                    the corpus, checkpoints and logs; a run that is started again goes on from there
===========================  =========================================================================================

The learning rates are ten and more times those of Chinese-LLaMA-Alpaca, because the model is ten thousand times smaller
and sees each text only a few times; everything else of an adapter (r 8, alpha 32, dropout 0.05, what is trained) is as
in the original.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ggmlpy.files.atomic import atomic_write
from ggmlpy.formats.model_params import ModelParams
from llama_ref.vocabulary.prompts import BARE_TEMPLATE, GENERATION_TEMPLATE
from llama_ref.vocabulary.sentencepiece_model import SentencePieceModel, read_sentencepiece
from lora.merging.merge import merge
from lora.training.data import Document, Packing, text_document
from lora.training.loop import Progress, Run
from lora.training.model import Lora, Weights, initial_weights
from lora.training.recipe import StageNumbers, load_recipe
from lora.training.stages import (
    ALL_TEMPLATES,
    STAGES,
    conversation_documents,
    grow_weights,
    instruction_documents,
    load_weights,
    prepare,
    publish_adapter,
    publish_base,
)
from lora.vocabulary import merge_vocabularies, train_vocabulary

from .corpus import Corpus, make_corpus

__all__ = ["ADAPTERS", "DemoRecipe", "train_demo"]

Report = Callable[[str, int, Progress], object]  # stage, its number of steps, what a step did
ADAPTERS = ("chinese-llama-lora", "chinese-alpaca-lora")
PAD = "[PAD]"
REVIEW = "review"
ROUNDS = {**STAGES, REVIEW: "the same pairs once more, with fewer sums and more English"}
ANSWERS = ("instruct", REVIEW)
SUM_TEMPLATES = (*ALL_TEMPLATES, *[BARE_TEMPLATE] * 18)  # a prompt is four times as long as a sum, and teaches nothing


@dataclass(frozen=True)
class DemoRecipe:
    """All numbers of the demo.

    Attributes:
        shape: of the model.
        n_english, n_chinese: pieces of the two vocabularies at most, the 256 bytes included.
        n_texts, n_instructions, n_sums: size of the corpus: texts of each language, records, and sums as an exercise.
        rows, length: of a batch; ``answer_length`` takes the place of ``length`` for instructions.
        steps, rates: of each stage.
    """

    seed: int = 2023
    shape: ModelParams = field(default_factory=lambda: ModelParams(n_embd=128, n_mult=32, n_head=4, n_layer=4))
    lora: Lora = field(default_factory=Lora)
    n_english: int = 720
    n_chinese: int = 1500
    n_texts: int = 9000
    n_instructions: int = 9000
    n_sums: int = 40000
    rows: int = 8
    length: int = 128
    answer_length: int = 256
    steps: dict[str, int] = field(
        default_factory=lambda: {"pretrain": 1400, "stage1": 200, "stage2": 1300, "instruct": 3200, REVIEW: 700}
    )
    rates: dict[str, float] = field(
        default_factory=lambda: {"pretrain": 3e-3, "stage1": 4e-3, "stage2": 2e-3, "instruct": 2.5e-3, REVIEW: 1.5e-3}
    )

    def stage(self, name: str) -> StageNumbers:
        """The recipe's, with the demo's rate and number of steps."""
        usual = load_recipe("demo").stage("instruct" if name in ANSWERS else name)
        settings = replace(
            usual.settings, learning_rate=self.rates[name], n_steps=self.steps[name], seed=self.seed, warmup=0.05
        )
        return replace(usual, settings=settings, lora=self.lora if usual.lora else None)


def train_demo(
    output: str | Path,
    recipe: DemoRecipe | None = None,
    report: Report | None = None,
    announce: Callable[[str], object] = lambda words: None,
) -> Path:
    """Make everything that the module's head lists; stages that are done are kept, one that was cut off is resumed.

    Args:
        report: called after each step.
        announce: called with what begins.
    """
    demo = _Demo(Path(output), recipe or DemoRecipe(), report or (lambda *step: None), announce)
    announce("corpus")
    corpus = demo.corpus()
    announce("English vocabulary")
    english = demo.vocabulary("english.model", lambda: english_vocabulary(corpus.english, demo.recipe.n_english))
    demo.pretrain(corpus, english)
    announce("Chinese vocabulary")
    chinese = demo.vocabulary("chinese_sp.model", lambda: chinese_vocabulary(corpus, demo.recipe.n_chinese))
    grown, _ = merge_vocabularies(english, chinese)
    demo.speak_chinese(corpus, grown)
    padded, _ = merge_vocabularies(english, chinese, PAD)
    demo.follow_instructions(corpus, padded)
    demo.write_sums()
    return demo.output


def english_vocabulary(texts: Iterable[str], n: int) -> SentencePieceModel:
    """A vocabulary as LLaMA's: byte-pair encoding, identity normalization, digits apart, bytes for what is unknown."""
    lines = [line for text in texts for line in text.splitlines()]
    lines += GENERATION_TEMPLATE.replace("{instruction}", "").splitlines() * (len(lines) // 20)
    return train_vocabulary(
        iter(lines),
        vocab_size=n,
        model_type="bpe",
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
    )


def chinese_vocabulary(corpus: Corpus, n: int) -> SentencePieceModel:
    """A vocabulary of the Chinese runs of the corpus.

    Byte-pair encoding and pieces of at most four characters, where the original's 20,000 pieces are unigram ones of up
    to sixteen: the grown vocabulary is used by LLaMA's byte-pair rule, which reaches a piece only through its parts,
    and in so small a vocabulary every piece should be in use. No normalization: NFKC would lose ，？！.
    """
    texts = [*corpus.chinese, *(record["instruction"] + "\n" + record["output"] for record in corpus.instructions)]
    return train_vocabulary(
        (run for text in texts for run in CHINESE_RUN.findall(text)),
        vocab_size=n,
        model_type="bpe",
        max_sentencepiece_length=4,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
    )


def review_documents(processor: Any, corpus: Corpus) -> list[Document]:
    """What the exercise of sums has pushed aside: of instructions with English, which are learned last, the most."""
    english = [record for record in corpus.instructions if ENGLISH_WORD.search("".join(record.values()))]
    records = [*corpus.instructions[::2], *(record for record in english for _ in range(2)), *corpus.sums[::8]]
    documents = [*instruction_documents(processor, records, ALL_TEMPLATES)]
    documents += conversation_documents(processor, corpus.instructions[::4])
    return documents + [text_document(processor, text) for text in _a_few_texts(corpus)]


def _a_few_texts(corpus: Corpus) -> list[str]:
    """So that the model goes on writing as in the stages before."""
    return [*corpus.chinese[::10], *corpus.english[::20]]


ENGLISH_WORD = re.compile("[A-Za-z]{2}")
CHINESE_RUN = re.compile("[\u3001-\u303f\u4e00-\u9fff\uff00-\uffef“”]+")  # ideographs and their punctuation


@dataclass
class _Demo:
    """Where things are, and the stages."""

    output: Path
    recipe: DemoRecipe
    report: Report
    announce: Callable[[str], object]

    @property
    def work(self) -> Path:
        return self.output / "work"

    def corpus(self) -> Corpus:
        """Make the corpus and write what is held out."""
        n_texts, n_instructions, n_sums = self.recipe.n_texts, self.recipe.n_instructions, self.recipe.n_sums
        corpus = make_corpus(
            self.recipe.seed, n_english=n_texts, n_chinese=n_texts, n_instructions=n_instructions, n_sums=n_sums
        )
        held = {"chinese.txt": corpus.held_out_chinese, "english.txt": corpus.held_out_english}
        for name, texts in held.items():
            _write(self.output / "held-out" / name, "\n\n".join(texts[:150]) + "\n")
        for name, texts in {"english.txt": corpus.english, "chinese.txt": corpus.chinese}.items():
            _write(self.work / "corpus" / name, "\n\n".join(texts) + "\n")
        for name, records in {"instructions.json": corpus.instructions, "sums.json": corpus.sums}.items():
            _write(self.work / "corpus" / name, json.dumps(records, ensure_ascii=False, indent=1))
        return corpus

    def vocabulary(self, name: str, make: Callable[[], SentencePieceModel]) -> SentencePieceModel:
        """Train it, or read the one of an earlier run."""
        path = self.work / name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as stream:
                stream.write(make().to_bytes())
        return read_sentencepiece(path)

    def pretrain(self, corpus: Corpus, tokenizer: SentencePieceModel) -> None:
        """The English base."""
        folder = self.output / "base"
        if (folder / "params.json").is_file():
            return
        weights = initial_weights(self.recipe.shape, len(tokenizer), self.recipe.seed)
        processor = _processor(tokenizer)
        documents = [text_document(processor, text) for text in corpus.english]
        self.run("pretrain", weights, documents)
        publish_base(folder, weights, self.recipe.shape, tokenizer)

    def speak_chinese(self, corpus: Corpus, tokenizer: SentencePieceModel) -> None:
        """Stages one and two: embeddings alone, then with LoRA. The English half keeps what the base knows."""
        folder = self.output / ADAPTERS[0]
        if (folder / "tokenizer.model").is_file():
            return
        weights, shape = load_weights(self.output / "base")
        grow_weights(weights, len(tokenizer), seed=self.recipe.seed)
        processor = _processor(tokenizer)
        texts = [*corpus.chinese, *corpus.english[::6]]
        documents = [text_document(processor, text) for text in texts]
        self.run("stage1", weights, documents)
        self.run("stage2", weights, documents)
        publish_adapter(folder, weights, shape, self.recipe.lora, tokenizer, base_name="base")

    def follow_instructions(self, corpus: Corpus, tokenizer: SentencePieceModel) -> None:
        """Instruction tuning of the merged model, with one more piece for padding."""
        folder = self.output / ADAPTERS[1]
        if (folder / "tokenizer.model").is_file():
            return
        merged = self.work / "chinese-llama"
        merge(self.output / "base", [self.output / ADAPTERS[0]], merged, force=True)
        weights, shape = load_weights(merged)
        grow_weights(weights, len(tokenizer), seed=self.recipe.seed)
        processor = _processor(tokenizer)
        documents = [*instruction_documents(processor, corpus.instructions, ALL_TEMPLATES)]
        documents += conversation_documents(processor, corpus.instructions[::4])
        documents += instruction_documents(processor, corpus.sums, SUM_TEMPLATES)
        documents += [text_document(processor, text) for text in _a_few_texts(corpus)]
        self.run("instruct", weights, documents)
        self.run(REVIEW, weights, review_documents(processor, corpus))
        publish_adapter(folder, weights, shape, self.recipe.lora, tokenizer, base_name="chinese-llama", pad_token=PAD)

    def run(self, name: str, weights: Weights, documents: Sequence[Document]) -> None:
        """One stage, from its checkpoint if there is one."""
        recipe, stage = self.recipe, self.recipe.stage(name)
        self.announce(f"{name}: {ROUNDS[name]}")
        length, rows = recipe.length, recipe.rows
        if name in ANSWERS:
            length, rows = recipe.answer_length, rows * length // recipe.answer_length
        trained = prepare(weights, stage, recipe.seed)
        packing = Packing(documents, rows=rows, length=length, seed=recipe.seed)
        run = Run(weights, trained, recipe.shape, packing, stage.settings, lora=stage.lora, folder=self.work / name)
        run.resume()
        run.train(report=lambda progress: self.report(name, stage.settings.n_steps, progress))

    def write_sums(self) -> None:
        """``SHA256SUMS`` of everything that is published."""
        folders = [self.output / name for name in ("base", *ADAPTERS, "held-out")]
        files = sorted(path for folder in folders for path in folder.iterdir() if path.is_file())
        lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {_relative(path, self.output)}" for path in files]
        _write(self.output / "SHA256SUMS", "\n".join(lines) + "\n")


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _processor(model: SentencePieceModel) -> Any:
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_proto=model.to_bytes())


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as stream:
        stream.write(text.encode())
