"""A text that a model reads and continues: what it has seen, what waits, and the random state.

:class:`Conversation` is the state of llama.cpp's ``main`` between two evaluations, with its rules for a full context
(examples/main/main.cpp, commit 352589927). Two things build on it: the stream of tokens for programs
(:meth:`Conversation.say`), and the loop of ``main`` for people (:mod:`llama_ref.text.main_loop`).

A conversation can be saved and resumed; the file is a NumPy ``.npz`` with these arrays:

==========  ====================================  ==================================================
name        shape                                 meaning
==========  ====================================  ==================================================
header      uint8 [n]                             JSON: format, model, options, counters
recent      int32 [n_ctx]                         the last tokens, the newest last; 0 where none were
waiting     int32 [n]                             tokens taken and not yet evaluated
rng         uint32 [625]                          the Mersenne Twister: 624 words and the position
cache_*     as the backend's cache saves itself   keys and values of the positions seen
==========  ====================================  ==================================================
"""

from __future__ import annotations

import json
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import FormatError, MissingFileError, UsageError
from ggmlpy.formats.era_of_file import era_of_file
from ggmlpy.formats.eras import Era, era_of
from llama_ref.arithmetic.evaluator import Evaluator
from llama_ref.vocabulary.gguf_tokenizer import file_tokenizer
from llama_ref.vocabulary.tokenizer import PieceTokenizer, tokenizer_for
from llama_ref.vocabulary.utf8 import Utf8Stream

from .drafts import Drafter, DraftModel, check_vocabulary
from .sampling import Sample, Sampler, SamplingOptions, log_softmax_of

__all__ = ["Conversation", "Timings", "Token"]

FORMAT = "ggmlpy conversation 1"
LARGEST_BATCH = 512


@dataclass(frozen=True)
class Token:
    """One generated token.

    Attributes:
        id: its number in the vocabulary.
        bytes: its piece; may be a part of a character.
        text: the characters that became whole with it (often none, sometimes several).
        logprob: natural logarithm of the probability that the model gave it, before temperature and penalty.
    """

    id: int
    bytes: bytes
    text: str
    logprob: float


@dataclass
class Timings:
    """Seconds and tokens spent so far: batches of several tokens count as prompt, single tokens as generation."""

    prompt_seconds: float = 0.0
    prompt_tokens: int = 0
    generation_seconds: float = 0.0
    generation_tokens: int = 0
    sampling_seconds: float = 0.0
    samples: int = 0

    def evaluated(self, n_tokens: int, seconds: float) -> None:
        if n_tokens > 1:
            self.prompt_tokens += n_tokens
            self.prompt_seconds += seconds
        else:
            self.generation_tokens += n_tokens
            self.generation_seconds += seconds


_TOKENIZERS: WeakKeyDictionary[Evaluator, dict[Era, PieceTokenizer]] = WeakKeyDictionary()


def _tokenizer_of(model: Evaluator, era: Era) -> PieceTokenizer:
    """Made once per model: fifty thousand pieces take a moment."""
    known = _TOKENIZERS.setdefault(model, {})
    if era not in known:
        file = getattr(model, "file", None)
        listed = list(model.vocab), model.vocab.scores.tolist()
        known[era] = tokenizer_for(*listed, era) if file is None else file_tokenizer(file, era)
    return known[era]


@dataclass
class Conversation:
    """A model, a tokenizer, a sampler, and everything said so far.

    Each conversation has its own key/value cache, so any number of them may use one model, in turns or from several
    threads, without hearing of each other. One conversation belongs to one thread at a time: while one of them is in
    the middle of a text, :meth:`say` refuses the others.

    Args:
        model: evaluates tokens.
        sampling: how to choose tokens.
        era: whose tokenizer and sampler; None: the one that the model's container implies.
        n_batch: how many tokens of a prompt are evaluated together, at most 512.
        n_keep: how many tokens at the beginning survive when the context is full.
        ignore_eos: make the end of text unlikely (its logit becomes 0, as in 2023).
        on_sample: called with each choice, for tracing.
        draft: how many tokens that the text suggests are evaluated ahead, at most: the same text, sooner where it
            repeats itself (:mod:`llama_ref.text.drafts`). For the fast arithmetic only.
        draft_model: a smaller model with the same vocabulary, which proposes where the text suggests nothing.

    Raises:
        UsageError: an option makes no sense.
    """

    model: Evaluator
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    era: str | Era | None = None
    n_batch: int = 8
    n_keep: int = 0
    ignore_eos: bool = False
    on_sample: Callable[[Sample, np.ndarray], None] | None = None
    draft: int = 0
    draft_model: Evaluator | None = None

    def __post_init__(self) -> None:
        if self.n_batch < 1:
            raise UsageError(f"n_batch must be at least 1, not {self.n_batch}")
        self.n_batch = min(self.n_batch, LARGEST_BATCH)
        self._drafter = _drafter_of(self.model, self.draft, self.draft_model)
        self._ahead: list[tuple[int, np.ndarray]] = []  # drafted tokens, and the logits of each
        self._has_draft = False  # the cache is longer than the text
        self.era = era_of_file(getattr(self.model, "file", None)) if self.era is None else era_of(self.era)
        self.tokenizer = _tokenizer_of(self.model, self.era)
        self.sampler = Sampler(self.sampling, self.era)
        self.cache = self.model.new_cache()
        self.n_past = 0
        self.waiting: list[int] = []
        self.recent: list[int] = [0] * self.model.n_ctx
        self.logits: np.ndarray | None = None  # float32 [n_vocab] of the last evaluated token
        self.timings = Timings()
        self._speaker: int | None = None  # the thread that is in the middle of a text
        self._asked = threading.Lock()

    # ── the steps of main ─────────────────────────────────────────────────────────────────────────────────────────────

    def take(self, tokens: Sequence[int]) -> None:
        """Append tokens: they count as said, and wait to be evaluated as one batch."""
        self.waiting.extend(tokens)
        self.remember(tokens)

    def remember(self, tokens: Sequence[int]) -> None:
        """Shift the window of last tokens."""
        self.recent = [*self.recent, *tokens][-self.model.n_ctx :]

    def evaluate(self) -> None:
        """Evaluate what waits, as one batch; make room first if the context is full."""
        if not self.waiting or self._was_drafted():
            return
        if self.n_past + len(self.waiting) > self.model.n_ctx:
            self._swap_context()
        drafted: list[int] = []
        began = time.perf_counter()
        if self._drafter is not None and len(self.waiting) == 1:
            drafted = self._drafter.propose(self.recent, self.model.n_ctx - self.n_past - 1, self.n_past + 1)
        if drafted:
            self._evaluate_with(drafted)
        else:
            self.logits = self.model.evaluate(self.waiting, self.n_past, last_only=True, cache=self.cache)
        seconds = time.perf_counter() - began
        self.timings.evaluated(len(self.waiting), seconds)
        if self._drafter is not None and len(self.waiting) == 1:
            (self._drafter.took if drafted else self._drafter.took_one)(seconds)
        self.n_past += len(self.waiting)
        self.waiting = []

    def _evaluate_with(self, drafted: list[int]) -> None:
        """Evaluate the token that waits and what may follow it."""
        rows = self.model.evaluate([*self.waiting, *drafted], self.n_past, cache=self.cache)
        self.logits, self._has_draft = rows[0], True
        self._ahead = list(zip(drafted, rows[1:], strict=True))

    def _was_drafted(self) -> bool:
        """Whether what waits is the next token of the draft, and so evaluated already."""
        if not self._ahead or self.waiting != [self._ahead[0][0]]:
            self._end_draft()
            return False
        assert self._drafter is not None
        _, self.logits = self._ahead.pop(0)
        self._drafter.was_right()
        self.timings.evaluated(1, 0.0)
        self.n_past += 1
        self.waiting = []
        return True

    def _end_draft(self) -> None:
        """Forget what was drafted beyond the text."""
        if self._has_draft:
            self.cache.length = self.n_past
        self._ahead, self._has_draft = [], False

    def rewind(self, n_past: int) -> None:
        """Forget all but the first ``n_past`` positions, and what waits."""
        if not 0 <= n_past <= self.n_past:
            raise UsageError(f"position {n_past} has not been read")
        self._end_draft()
        self.n_past, self.waiting, self.logits = n_past, [], None

    def choose_by(self, sampling: SamplingOptions) -> None:
        """Choose the next tokens by other options; the random state goes on unless the seed is another."""
        rng = self.sampler.rng if sampling.seed == self.sampling.seed else None
        self.sampler = Sampler(sampling, self.sampler.era, rng)  # type: ignore[arg-type]
        self.sampling = sampling

    def clear(self) -> None:
        """Forget everything but the random state."""
        self.rewind(0)
        self.recent = [0] * self.model.n_ctx

    def _swap_context(self) -> None:
        """Keep the first ``n_keep`` positions, drop the older half of the rest, and evaluate the newer half again."""
        n_left = self.n_past - self.n_keep
        stop = len(self.recent) - len(self.waiting)
        again = self.recent[max(0, stop - max(0, n_left // 2)) : stop]
        if self.n_keep + len(again) + len(self.waiting) > self.model.n_ctx:
            raise UsageError(
                f"keeping {self.n_keep} of {self.model.n_ctx} positions leaves no room for {len(self.waiting)} more "
                "tokens; use a larger context (-c) or keep fewer (--keep)"
            )
        self.n_past = self.n_keep
        self.waiting = again + self.waiting

    def sample(self) -> int:
        """Choose the next token and put it into the window of last tokens; it does not wait yet.

        Raises:
            UsageError: nothing has been evaluated.
        """
        if self.logits is None:
            raise UsageError("nothing to continue: say something first")
        began = time.perf_counter()
        logits = self.logits
        if self.ignore_eos:
            logits = logits.copy()
            logits[[token for token in self.tokenizer.ends if token < len(logits)]] = 0.0
        sample = self.sampler.choose(logits, self.recent)
        self.timings.sampling_seconds += time.perf_counter() - began
        self.timings.samples += 1
        if self.on_sample is not None:
            self.on_sample(sample, logits)
        self.remember([sample.token])
        if self._drafter is not None:
            self._drafter.came(sample.token)
        return sample.token

    def memory_test(self, n_predict: int) -> None:
        """Evaluate a full batch at the beginning and one token at the last position (``main --mtest``)."""
        last = n_predict - 1
        if not 0 <= last < self.model.n_ctx:
            raise UsageError(
                f"--mtest evaluates position {last}, which the context of {self.model.n_ctx} does not have"
            )
        for tokens, n_past in (([0] * self.n_batch, 0), ([0], last)):
            self.cache.length = max(self.cache.length, n_past)  # what lies before does not matter here
            began = time.perf_counter()
            self.model.evaluate(tokens, n_past, last_only=True, cache=self.cache)
            self.timings.evaluated(len(tokens), time.perf_counter() - began)

    # ── for programs ──────────────────────────────────────────────────────────────────────────────────────────────────

    def say(self, prompt: str | bytes | Sequence[int] = (), *, max_tokens: int = 128) -> Iterator[Token]:
        """Append a prompt and yield the model's continuation, token by token, until its end or ``max_tokens``.

        Args:
            prompt: text, or token ids. The first text of a conversation gets the beginning-of-sequence token and one
                space in front, as ``main`` does it; nothing at all: go on where the last call stopped.
            max_tokens: -1: until the context is full, which makes no room for a text that nobody limited.

        Raises:
            UsageError: the prompt does not fit the context, or another thread is in the middle of a text.
        """
        with self._speaking():
            tokens = self._tokens_of(prompt)
            self._check_length(tokens)
            self._read(tokens)
            stream = Utf8Stream()
            made = 0
            while made != max_tokens and not (max_tokens < 0 < made and self.is_full):
                self.evaluate()
                token = self.sample()
                self.waiting.append(token)
                if token in self.tokenizer.ends:
                    return
                made += 1
                yield self.describe(token, stream)

    @property
    def has_ended(self) -> bool:
        """The last token was an end of text."""
        return bool(self.tokenizer.ends.intersection(self.waiting[-1:]))

    @property
    def is_full(self) -> bool:
        """One token more, and the oldest ones would be dropped."""
        return self.n_past + len(self.waiting) >= self.model.n_ctx

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """From the beginning of a text to its end, or until its iterator is gone."""
        with self._asked:
            if self._speaker not in (None, threading.get_ident()):
                raise UsageError("another thread is in the middle of a text of this conversation; give each its own")
            self._speaker = threading.get_ident()
        try:
            yield
        finally:
            self._speaker = None

    def _tokens_of(self, prompt: str | bytes | Sequence[int]) -> list[int]:
        if not isinstance(prompt, str | bytes):
            return [int(token) for token in prompt]
        if self.n_past or self.waiting:
            return self.tokenizer.encode(prompt)
        return self.tokenizer.encode_first(prompt)

    def _check_length(self, tokens: Sequence[int]) -> None:
        if len(tokens) > self.model.n_ctx - 4:
            raise UsageError(f"prompt is too long ({len(tokens)} tokens, max {self.model.n_ctx - 4})")

    def _read(self, tokens: Sequence[int]) -> None:
        for start in range(0, len(tokens), self.n_batch):
            self.evaluate()
            self.take(tokens[start : start + self.n_batch])

    def describe(self, token: int, stream: Utf8Stream) -> Token:
        """A token that was just sampled; ``stream`` knows the characters that earlier ones began."""
        assert self.logits is not None  # a token was just sampled from them
        piece = self.tokenizer.piece(token)
        text = stream.feed(piece).decode("utf-8", "replace")
        return Token(token, piece, text, log_softmax_of(self.logits, token))

    # ── save and resume ───────────────────────────────────────────────────────────────────────────────────────────────

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything that is needed to go on later: cache, random state, last tokens, options."""
        assert isinstance(self.era, Era)
        self._end_draft()
        header = {
            "format": FORMAT,
            "model": _identity(self.model),
            "sampling": asdict(self.sampling),
            "era": self.era.date,
            "n_batch": self.n_batch,
            "n_keep": self.n_keep,
            "ignore_eos": self.ignore_eos,
            "n_past": self.n_past,
        }
        arrays: dict[str, Any] = {
            "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
            "recent": np.array(self.recent, np.int32),
            "waiting": np.array(self.waiting, np.int32),
            "rng": self.sampler.rng.state,
            **{f"cache_{name}": array for name, array in self.cache.save().items()},
        }
        with atomic_write(path) as file:
            np.savez(file, **arrays)

    @classmethod
    def resume(cls, path: str | os.PathLike[str], model: Evaluator) -> Conversation:
        """The conversation that :meth:`save` wrote, with the same model.

        Raises:
            FormatError: not such a file.
            UsageError: it belongs to another model or context size.
        """
        header, arrays = _read_saved(path)
        different = [key for key, value in _identity(model).items() if header["model"].get(key) != value]
        if different:
            raise UsageError(f"{os.fspath(path)} belongs to another model: {', '.join(different)} differ")
        try:
            options = {name: header[name] for name in ("era", "n_batch", "n_keep", "ignore_eos")}
            if [type(value) for value in options.values()] != [str, int, int, bool] or options["n_keep"] < 0:
                raise TypeError(f"options {options!s:.80}")
            conversation = cls(model, _sampling_of(header["sampling"]), **options)
            conversation._restore(header["n_past"], arrays)
        except UsageError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, FormatError) as error:
            raise _not_saved(path, f"{type(error).__name__}: {error}") from error
        return conversation

    def _restore(self, n_past: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Put back what :meth:`save` wrote beside the options."""
        recent, waiting = arrays["recent"], arrays["waiting"]
        if recent.shape != (self.model.n_ctx,) or waiting.ndim != 1:
            raise ValueError(f"recent has shape {list(recent.shape)}, waiting {list(waiting.shape)}")
        for tokens in (recent, waiting):
            if tokens.dtype.kind != "i" or not ((tokens >= 0) & (tokens < self.model.n_vocab)).all():
                raise ValueError("tokens that the vocabulary does not have")
        self.sampler.rng.state = arrays["rng"]
        self.cache.restore({name[6:]: array for name, array in arrays.items() if name.startswith("cache_")})
        if type(n_past) is not int or not 0 <= n_past <= self.cache.length:
            raise ValueError(f"n_past is {n_past}")
        self.n_past, self.recent, self.waiting = n_past, recent.tolist(), waiting.tolist()


def _drafter_of(model: Evaluator, draft: int, draft_model: Evaluator | None) -> Drafter | None:
    """What proposes drafts; None if none are wanted."""
    if draft < 0:
        raise UsageError(f"a draft must have at least 0 tokens, not {draft}")
    name = getattr(getattr(model, "backend", None), "name", "")
    if draft and name != "fast":
        raise UsageError(
            f"drafts (--draft) need --numerics fast: in {name or 'this'} arithmetic the logits of a token depend on "
            "the tokens that are evaluated with it"
        )
    if not draft:
        return None
    if draft_model is not None:
        check_vocabulary(model, draft_model)
    return Drafter(draft, None if draft_model is None else DraftModel(draft_model))


def _sampling_of(record: Mapping[str, Any]) -> SamplingOptions:
    """The options that were saved, each of its type."""
    usual = asdict(SamplingOptions())
    for name, value in record.items():
        if type(value) is not type(usual[name]) and not (type(value) is int and type(usual[name]) is float):
            raise TypeError(f"{name} is {value!r:.60}")
    return SamplingOptions(**record)


def _identity(model: Evaluator) -> dict[str, Any]:
    """What must be the same for a saved cache to mean anything."""
    vocabulary = 0
    for piece in model.vocab:
        vocabulary = zlib.crc32(piece + b"\0", vocabulary)
    return {**model.hparams.header(), "vocabulary": vocabulary, "n_ctx": model.n_ctx}


def _read_saved(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    from ggmlpy.files.npy import read_npz

    if not os.path.isfile(path):
        raise MissingFileError("no such saved conversation", path=path)
    try:
        arrays = read_npz(path)
        header = json.loads(arrays.pop("header").tobytes())
    except (FormatError, ValueError, KeyError, RecursionError) as error:
        raise _not_saved(path, str(error)) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT or not isinstance(header.get("model"), dict):
        raise FormatError("not a saved conversation", path=path, field="format", expected=FORMAT)
    missing = {"recent", "waiting", "rng"} - set(arrays)
    if missing:
        raise FormatError("a saved conversation lacks arrays", path=path, expected=", ".join(sorted(missing)))
    return header, arrays


def _not_saved(path: str | os.PathLike[str], why: str) -> FormatError:
    return FormatError("not a saved conversation", path=path, cause=why[:200])
