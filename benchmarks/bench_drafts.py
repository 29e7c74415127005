"""What drafts gain on texts that quote, edit and summarize, and what they cost on others.

    python benchmarks/bench_drafts.py --tokenizer tokenizer.model                   # counted, with the usual times
    python benchmarks/bench_drafts.py --tokenizer tokenizer.model -m MODEL.gguf     # measured, in turns

The texts are those of draft_texts.txt: prompts, and answers as a model that does well would give them. A model that is
at hand need not be so good: here it is told each next token, and computes all the same what it would compute for a text
of its own. So the time is that of a model that gives these answers, however it samples. (Tokens that it does not have
become others.)

Without a model, only evaluations are counted: n tokens in a pass take 1 + STEP (n - 1) times as long as one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from llama_ref.text.conversation import Conversation  # noqa: E402
from llama_ref.text.drafts import Drafter  # noqa: E402
from llama_ref.text.model import Model  # noqa: E402
from llama_ref.text.sampling import Sample  # noqa: E402
from llama_ref.vocabulary.opening import open_tokenizer  # noqa: E402

NOTHING = np.zeros(0)
TEXTS = Path(__file__).with_name("draft_texts.txt")


def tasks() -> Iterator[tuple[str, str, str]]:
    """Name, prompt and answer of each."""
    for task in TEXTS.read_text(encoding="utf-8").split("\n=== ")[1:]:
        name, _, rest = task.partition("\n")
        prompt, _, answer = rest.partition("\n--- answer\n")
        yield name, prompt, answer.strip()


def counted(prompt: list[int], answer: list[int], most: int, step: float) -> dict[str, float]:
    """The policy alone, with a clock that goes by its assumption."""
    drafter, text = Drafter(most), [*prompt]
    seconds, passes, proposed, right, at = 0.0, 0, 0, 0, 0
    while at < len(answer):
        drafted = drafter.propose(text, len(answer) - at)
        took = 1 + step * len(drafted)
        (drafter.took if drafted else drafter.took_one)(took)
        seconds, passes, proposed = seconds + took, passes + 1, proposed + len(drafted)
        for i in range(len(drafted) + 1):
            if at == len(answer):
                break
            if i:
                drafter.was_right()
                right += 1
            token = answer[at]
            text.append(token)
            drafter.came(token)
            at += 1
            if i == len(drafted) or token != drafted[i]:
                break
    return {
        "tokens": len(answer),
        "per pass": len(answer) / passes,
        "accepted": right / proposed if proposed else 1.0,
        "gain": len(answer) / seconds,
    }


class Told:
    """A sampler that chooses what it is told to."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = iter(tokens)

    def choose(self, logits: Any, recent: Any) -> Sample:
        return Sample(next(self.tokens), NOTHING, NOTHING, None)


def measured(model: Model, prompt: list[int], answer: list[int], most: int, rounds: int) -> dict[str, float]:
    """A model that is told the answer, without and with drafts in turns."""
    times: dict[int, list[float]] = {0: [], most: []}
    passes, evaluate = 0, model.evaluate

    def counting(*args: Any, **how: Any) -> Any:
        nonlocal passes
        passes += 1
        return evaluate(*args, **how)

    model.evaluate = counting  # type: ignore[method-assign]
    for _ in range(rounds):
        for draft in times:
            conversation = Conversation(model, draft=draft)
            conversation.sampler = Told([*answer, 0])  # type: ignore[assignment]
            conversation.take(prompt)
            conversation.evaluate()
            began, passes = time.process_time(), 0
            for _ in range(len(answer)):
                conversation.waiting.append(conversation.sample())
                conversation.evaluate()
            times[draft].append(time.process_time() - began)
    model.evaluate = evaluate  # type: ignore[method-assign]
    gain = statistics.median(a / b for a, b in zip(times[0], times[most]))
    return {"tokens": len(answer), "per pass": len(answer) / passes, "gain": gain}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="what cuts the texts into tokens")
    parser.add_argument("-m", "--model", type=Path, help="measure with this model instead of counting")
    parser.add_argument("-t", "--threads", type=int, default=1, help="processor time is measured (default 1)")
    parser.add_argument("--draft", type=int, default=8)
    parser.add_argument("--step", type=float, default=0.25)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default="", help="tasks whose name begins so")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    args = parser.parse_args()
    tokenizer, rows = open_tokenizer(args.tokenizer), {}
    model = Model.from_file(args.model, numerics="fast", n_ctx=2048, n_threads=args.threads) if args.model else None
    for name, prompt, answer in tasks():
        if not name.startswith(args.only):
            continue
        texts = tokenizer.encode(prompt), tokenizer.encode(answer)
        if model is None:
            rows[name] = counted(*texts, args.draft, args.step)
        else:
            texts = tuple([token % model.n_vocab for token in text] for text in texts)  # type: ignore[assignment]
            rows[name] = measured(model, *texts, args.draft, args.rounds)
        print(f"{name:40}", "  ".join(f"{key} {value:6.2f}" for key, value in rows[name].items()), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
