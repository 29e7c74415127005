"""The story that the demo model tells: its steps, its vocabulary, its sizes, its answers."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggmlpy.files.errors import IntegrityError
from llama_ref.text.conversation import Conversation
from llama_ref.text.model import Model
from llama_ref.text.perplexity import surprises
from llama_ref.text.sampling import SamplingOptions
from llama_ref.vocabulary.prompts import GENERATION_TEMPLATE, alpaca_prompt
from llama_ref.vocabulary.tokenizer_file import load_vocabulary
from toolchain.look.tokens import compare_tokenizers
from toolchain.zoo.models_of_today import LLAMA_3, N_TOKENS, write_llama_3
from toolchain.zoo.tiny_models import write_adapter

from .building import build, convert_base
from .files import ADAPTERS, SUMS, DemoFiles, demo_files
from .teller import Teller

__all__ = ["PROMPTS", "answer", "copy_inputs", "held_out_perplexity", "lay_out_tutorial", "tell_story"]

TUTORIAL = "tutorial"  # the folder in which the tutorial can be followed
TODAY = "today"  # and that in which its second half can

PROMPTS = (
    "介绍北京",
    "怎么做披萨？",
    "12加7等于多少？",
    "如何保持健康？",
    "讲一个故事",
    "把“我喜欢喝茶”翻译成英文。",
    "法国的首都是哪里？",
    "写一首关于春天的诗",
    "大熊猫吃什么？",
    "How do I make dumplings?",
)
STORY_PROMPTS = PROMPTS[:5]
SAMPLING = SamplingOptions(temp=0.2, repeat_penalty=1.0, seed=42)
LONGEST_ANSWER = 160


# ── what it says ─────────────────────────────────────────────────────────────────────────────────────────────────────


def answer(
    model: Model,
    prompt: str,
    *,
    template: str | None = GENERATION_TEMPLATE,
    sampling: SamplingOptions = SAMPLING,
    longest: int = LONGEST_ANSWER,
) -> str:
    """The model's answer to a prompt, in ``template`` or (None) as it stands."""
    text = prompt if template is None else alpaca_prompt(prompt, template=template)
    conversation = Conversation(model, sampling, n_batch=512)
    tokens = conversation.say(text, max_tokens=longest)
    return b"".join(token.bytes for token in tokens).decode("utf-8", "replace").strip()


@dataclass(frozen=True)
class TextLoss:
    """How surprised a model is by texts: the sum over all tokens, in nats."""

    nats: float
    n_tokens: int
    n_characters: int

    @property
    def per_token(self) -> float:
        """Perplexity by token: not to be compared across vocabularies."""
        return math.exp(self.nats / self.n_tokens)

    @property
    def per_character(self) -> float:
        """Perplexity by character, which can be."""
        return math.exp(self.nats / self.n_characters)

    @property
    def tokens_per_character(self) -> float:
        return self.n_tokens / self.n_characters


def held_out_perplexity(model: Model, texts: Sequence[str]) -> TextLoss:
    """Score each text by itself, from the beginning of sequence on, its end included."""
    tokenizer = Conversation(model).tokenizer
    nats, n_tokens, n_characters = 0.0, 0, 0
    for text in texts:
        ids = [*tokenizer.encode(" " + text, bos=True), 2][: model.n_ctx]
        rows = model.evaluate(ids[:-1], 0)  # [n - 1, n_vocab]
        nats += float(surprises(rows, ids[1:]).sum())
        n_tokens, n_characters = n_tokens + len(ids) - 1, n_characters + len(text) + 1
    return TextLoss(nats, n_tokens, n_characters)


def held_out_texts(language: str = "chinese", n: int = 40) -> list[str]:
    """Texts that nothing was trained on."""
    return (demo_files() / "held-out" / f"{language}.txt").read_text("utf-8").strip().split("\n\n")[:n]


# ── the story ────────────────────────────────────────────────────────────────────────────────────────────────────────


def tell_story(folder: str | os.PathLike[str], teller: Teller, *, every_prompt: bool = False) -> dict[str, Any]:
    """Chinese-LLaMA-Alpaca's story on the demo model, step by step, in ``folder``; returns its figures and answers.

    Raises:
        MissingFileError: there is no demo model.
        IntegrityError: one of its files is not what was published.
    """
    files = DemoFiles(Path(folder))
    files.folder.mkdir(parents=True, exist_ok=True)
    story: dict[str, Any] = {"verified": _tell_verification(teller)}
    story |= _tell_vocabulary(teller)
    teller.heading(
        "Merge, convert, quantize",
        "W + alpha/r * BA for every matrix, one adapter after the other; embeddings and output are replaced. Then the "
        "checkpoint becomes a GGML file, and its weights become four-bit numbers in blocks of 32.",
    )
    build(files, lambda words: teller.good(words.strip()))
    convert_base(files)
    story["sizes"] = _tell_sizes(teller, files)
    models = {"base": files.base_f16, "merged": files.f16, "q4_0": files.q4_0}
    opened = {name: Model.from_file(path, n_ctx=512) for name, path in models.items()}
    story["perplexity"] = _tell_perplexity(teller, opened)
    story["answers"] = _tell_answers(teller, opened, PROMPTS if every_prompt else STORY_PROMPTS)
    teller.line("")
    teller.line("A toy of a million parameters: docs/model-card.md says what it knows, and what it gets wrong.")
    teller.line("Yours now:  `chat`        `generate -p 介绍北京`")
    return story


def copy_inputs(folder: str | os.PathLike[str]) -> None:
    """Put the demo model's base, adapters and held-out texts beside what was made of them."""
    for part in demo_files().iterdir():
        if part.is_dir():
            shutil.copytree(part, Path(folder) / part.name, dirs_exist_ok=True)


def lay_out_tutorial(folder: str | os.PathLike[str]) -> Path:
    """Lay out the demo model under the folders and names that the tutorial's real downloads have; the new folder.

    ``models/tokenizer.model``, ``models/7B``, and each adapter as the ZIP that is published and unpacked.
    """
    source, top = demo_files(), Path(folder) / TUTORIAL
    base = top / "models" / "7B"
    shutil.copytree(source / "base", base, dirs_exist_ok=True)
    os.replace(base / "tokenizer.model", base.parent / "tokenizer.model")
    for name, known_as in zip(ADAPTERS, ("llama-lora", "alpaca-lora")):
        shutil.copytree(source / name, top / known_as, dirs_exist_ok=True)
        with zipfile.ZipFile(top / f"{known_as}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted((top / known_as).iterdir()):
                archive.writestr(zipfile.ZipInfo(path.name, (2023, 3, 28, 0, 0, 0)), path.read_bytes())
    return top


def lay_out_today(folder: str | os.PathLike[str]) -> Path:
    """Lay out a model of today and an adapter, whose weights are random, for the tutorial's second half; the new
    folder."""
    top = Path(folder) / TODAY
    shutil.rmtree(top, ignore_errors=True)
    write_llama_3(top / "Llama-3.1-tiny-Instruct", seed=31)
    adapter = top / "llama-3-lora"
    write_adapter(adapter, LLAMA_3, seed=32, weights="safetensors", dtype="bfloat16", n_vocab=N_TOKENS)
    return top


def _tell_verification(teller: Teller) -> dict[str, str]:
    teller.heading("Verify", "Is everything as it was published? A digest of each file, against SHA256SUMS.")
    source, found = demo_files(), {}
    for line in (source / SUMS).read_text("utf-8").splitlines():
        promised, name = line.split(maxsplit=1)
        data = (source / name).read_bytes()
        found[name] = hashlib.sha256(data).hexdigest()
        if found[name] != promised:
            raise IntegrityError(
                "the file is not the one that was published",
                path=source / name,
                expected=promised,
                found=found[name],
                next_step="install the program again",
            )
        if not name.endswith(".json"):
            teller.good(f"{name:<38} {len(data):>10,} bytes  {promised[:12]}…")
    return found


def _tell_vocabulary(teller: Teller) -> dict[str, Any]:
    source = demo_files()
    names = (source / "base", source / ADAPTERS[-1])
    sizes = [len(load_vocabulary(name / "tokenizer.model")) for name in names]
    teller.heading(
        "Grow the vocabulary",
        f"The English base has {sizes[0]} pieces and spells a Chinese character with three bytes; the grown vocabulary "
        f"has {sizes[1]:,}.",
    )
    for word, item in zip(("base", "grown"), compare_tokenizers(names, "北京是中国的首都。")):
        teller.line(f"{word}: {item.n_tokens} tokens for {item.n_characters} characters")
        teller.tokens(item.pieces)
    ratios = [item.tokens_per_character for item in compare_tokenizers(names, "\n".join(held_out_texts()))]
    teller.line("")
    teller.table(
        [
            ("on held-out Chinese", "pieces", "tokens a character"),
            ("base", f"{sizes[0]:,}", f"{ratios[0]:.2f}"),
            ("grown", f"{sizes[1]:,}", f"{ratios[1]:.2f}"),
        ]
    )
    return {"pieces": sizes, "tokens_per_character": ratios}


def _tell_sizes(teller: Teller, files: DemoFiles) -> dict[str, int]:
    source = demo_files()
    paths = {
        "base, consolidated.00.pth": source / "base" / "consolidated.00.pth",
        **{f"{name}, adapter_model.bin": source / name / "adapter_model.bin" for name in ADAPTERS},
        "merged, consolidated.00.pth": files.merged / "consolidated.00.pth",
        f"merged, {files.f16.name}": files.f16,
        f"merged, {files.q4_0.name}": files.q4_0,
    }
    sizes = {name: path.stat().st_size for name, path in paths.items()}
    teller.line("")
    teller.table([("file", "bytes"), *((name, f"{size:,}") for name, size in sizes.items())])
    return sizes


def _tell_perplexity(teller: Teller, models: dict[str, Model]) -> dict[str, Any]:
    chinese, english = held_out_texts("chinese"), held_out_texts("english")
    teller.heading(
        "Perplexity",
        f"How surprised is each model by {len(chinese)} Chinese and {len(english)} English texts that nothing was "
        "trained on? By character, because tokens of two vocabularies cannot be compared. Lower is better.",
    )
    losses = {
        name: (held_out_perplexity(model, chinese), held_out_perplexity(model, english))
        for name, model in models.items()
    }
    words = {"base": "English base, f16", "merged": "merged, f16", "q4_0": "merged, q4_0"}
    rows = [
        (words[name], *(_number(x) for x in (zh.per_character, zh.per_token, en.per_character, en.per_token)))
        for name, (zh, en) in losses.items()
    ]
    teller.table([("model", "Chinese: character", "token", "English: character", "token"), *rows])
    figures = lambda x: {"per_character": x.per_character, "per_token": x.per_token}  # noqa: E731
    return {name: {**figures(zh), "english": figures(en)} for name, (zh, en) in losses.items()}


def _number(value: float) -> str:
    """Two decimals, or the power of ten of a number that nobody can read."""
    return f"{value:,.2f}" if value < 1e5 else f"{value:.1e}"


def _tell_answers(teller: Teller, models: dict[str, Model], prompts: Sequence[str]) -> list[dict[str, str]]:
    teller.heading(
        "Before and after",
        "The same prompts. The base gets them as they stand, since it knows no template; the merged model, quantized "
        "to four bits, gets them in the Alpaca template. Temperature 0.2, seed 42.",
    )
    answers = []
    for prompt in prompts:
        before = answer(models["base"], prompt, template=None, longest=40)
        after = answer(models["q4_0"], prompt)
        answers.append({"prompt": prompt, "before": before, "after": after})
        teller.line("")
        teller.speech("prompt", prompt)
        teller.speech("before", before)
        teller.speech("after", after)
    return answers
