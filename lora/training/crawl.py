"""Asking a language model for instruction data: any endpoint that speaks OpenAI's chat completions.

Twenty records are asked for at a time, about topics and kinds of task that are drawn from a seed. Every reply is kept
as it came, one per line, in ``OUT.raw.jsonl``; the cleaned records of all replies are in ``OUT``. A crawl that was
interrupted goes on behind the last reply; one that is run again with a larger number asks for the rest.

The key comes from the environment and goes nowhere but into the request's header: not into a message, not into a file,
even if the server repeats it. Every try has a deadline for the whole reply. What comes back is data: it is
parsed, never run.

Sources: Chinese-LLaMA-Alpaca ``scripts/crawl_prompt.py`` (twenty at a time, random topic); OpenAI API reference, chat
completions; RFC 9110 section 10.2.3 (Retry-After).
"""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggmlpy.files.errors import FormatError, OutputError, UsageError
from llama_ref.vocabulary.utf8 import printable

from .crawl_prompts import TEMPLATE, prompt_for
from .instructions import CleanReport, Record, clean, merge_records, write_instructions

__all__ = ["CrawlError", "CrawlOptions", "CrawlReport", "crawl"]

LARGEST_REPLY = 16 << 20
GRACE = 1.0  # seconds behind the deadline, in which a try that noticed it itself can end
RETRIED = {408, 409, 425, 429, 500, 502, 503, 504}  # statuses that may pass


class CrawlError(FormatError):
    """The endpoint refused, or could not be reached for good."""


@dataclass(frozen=True)
class CrawlOptions:
    """What to ask and how patiently.

    Attributes:
        url: the endpoint up to and including its version, such as ``https://api.openai.com/v1``.
        model: its name at the endpoint.
        n_requests: replies wanted in all, those of earlier runs included.
        n_items: records asked for at a time.
        key_variable: the environment variable that holds the key; empty or unset: no key is sent.
        attempts: tries of one request.
        first_wait, longest_wait: seconds between tries, doubled each time.
        timeout: seconds a whole reply may take, however slowly it comes.
        template: what is asked for; see :mod:`lora.training.crawl_prompts`.
    """

    url: str
    model: str
    n_requests: int = 1
    n_items: int = 20
    seed: int = 0
    temperature: float = 1.0
    key_variable: str = "OPENAI_API_KEY"
    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0
    timeout: float = 120.0
    template: str = TEMPLATE


@dataclass(frozen=True)
class CrawlReport:
    """What a crawl left: records in the file, replies asked for now and kept from before, and what was cleaned."""

    n_records: int
    n_asked: int
    n_resumed: int
    n_retries: int
    cleaning: dict[str, int]

    def __str__(self) -> str:
        cleaned = ", ".join(f"{count} {kind}" for kind, count in self.cleaning.items()) or "nothing to repair"
        return (
            f"{self.n_records} records from {self.n_asked + self.n_resumed} replies ({self.n_resumed} from before, "
            f"{self.n_retries} retries); {cleaned}"
        )


def crawl(
    out: str | os.PathLike[str],
    options: CrawlOptions,
    *,
    progress: Callable[[int], object] | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> CrawlReport:
    """Ask until ``options.n_requests`` replies are there, then write their cleaned records to ``out``.

    Args:
        progress: called with 1 after each reply.
        sleep: waits; tests put something quicker here.

    Raises:
        UsageError: a URL that is none, a number below one.
        CrawlError: the endpoint refuses (key, model), or fails again and again.
        OutputError: the files cannot be written.
    """
    _check(options)
    raw = Path(f"{os.fspath(out)}.raw.jsonl")
    replies = _read_replies(raw)
    n_resumed, client = len(replies), _Client(options, sleep)
    try:
        with open(raw, "ab") as file:
            for number in range(n_resumed, options.n_requests):
                replies.append(client.ask(prompt_for(options.seed, number, options.n_items, options.template)))
                line = json.dumps({"request": number, "content": replies[-1]}, ensure_ascii=False) + "\n"
                file.write(line.encode("utf-8", "surrogatepass"))  # a reply may hold half of a character
                file.flush()
                os.fsync(file.fileno())
                if progress:
                    progress(1)
    except OSError as error:
        raise OutputError(f"cannot keep the replies: {error.strerror}", path=raw) from error
    cleaned = [clean(reply) for reply in replies]
    records: list[Record] = merge_records(records for records, _ in cleaned)
    write_instructions(out, records)
    n_asked = len(replies) - n_resumed
    return CrawlReport(len(records), n_asked, n_resumed, client.n_retries, _counts(report for _, report in cleaned))


def _check(options: CrawlOptions) -> None:
    problem = _problem_of_url(options.url)
    if problem:
        raise UsageError(f"{problem}; give something like https://api.openai.com/v1")
    _key(options.key_variable)
    for name in ("n_requests", "n_items", "attempts"):
        if getattr(options, name) < 1:
            raise UsageError(f"{name} must be at least 1, not {getattr(options, name)}")


def _problem_of_url(url: str) -> str | None:
    """Why this is not an endpoint; what may be a secret is not repeated."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, user, _ = parts.hostname, parts.username, parts.port
    except ValueError:
        return "the URL is not an endpoint: its host or port cannot be read"
    if user is not None or "@" in parts.netloc:
        return "the URL is not an endpoint: it holds a user name or password; a key comes from an environment variable"
    if parts.query or parts.fragment:
        return "the URL is not an endpoint: it goes on with ? or #, behind which nothing can be appended"
    if parts.scheme not in ("http", "https") or not host:
        return f"{url!r} is not an endpoint"
    if not all("!" <= character <= "~" for character in url):
        return f"{url!a} is not an endpoint: spaces, control characters and other than ASCII letters must be encoded"
    return None


def _key(variable: str) -> str:
    """The key out of the environment, or nothing; its value is in no message."""
    key = os.environ.get(variable, "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise UsageError(
            f"the environment variable {variable} does not hold a key: there is a space, a second line or a character "
            "that is not ASCII in it; put the key alone into it"
        )
    return key


def _counts(reports: Iterator[CleanReport]) -> dict[str, int]:
    total: dict[str, int] = {}
    for report in reports:
        for kind, count in report.counts.items():
            total[kind] = total.get(kind, 0) + count
    return total


def _read_replies(path: Path) -> list[str]:
    """The replies of earlier runs; a last line that was cut off is removed from the file."""
    if not path.is_file():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    try:
        return [str(json.loads(line)["content"]) for line in whole.splitlines()]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(
            "not the replies of a crawl", path=path, cause=str(error), next_step="remove it to begin anew"
        ) from error


class _Passing(Exception):
    """A failure that may pass; ``wait`` is what the server asked for, in seconds."""

    def __init__(self, words: str, wait: float = 0.0) -> None:
        super().__init__(words)
        self.wait = wait


class _Client:
    """Requests with patience."""

    def __init__(self, options: CrawlOptions, sleep: Callable[[float], object]) -> None:
        self.options, self.sleep, self.n_retries = options, sleep, 0
        self.url = options.url.rstrip("/") + "/chat/completions"
        self.jitter = random.Random(options.seed)
        self.key = _key(options.key_variable)

    def ask(self, prompt: str) -> str:
        """The reply to one prompt."""
        wait, problem = self.options.first_wait, ""
        for attempt in range(self.options.attempts):
            if attempt:
                self.n_retries += 1
            try:
                return self._post(prompt)
            except _Passing as failure:
                problem = str(failure)
                longer = max(wait, failure.wait) * (1 + 0.1 * self.jitter.random())
            if attempt + 1 < self.options.attempts:
                self.sleep(min(longer, self.options.longest_wait))
            wait *= 2
        raise CrawlError(
            f"no reply after {self.options.attempts} tries",
            path=self.url,
            found=problem,
            next_step="run the same command later; it goes on where it stopped",
        )

    def _post(self, prompt: str) -> str:
        """One try. It runs beside us, because a server may send its headers, too, a byte at a time."""
        outcome: list[str | Exception] = []
        deadline = time.monotonic() + self.options.timeout

        def run() -> None:
            try:
                outcome.append(self._exchange(prompt, deadline))
            except Exception as error:
                outcome.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(self.options.timeout + GRACE)
        if not outcome:
            raise self._late()
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    def _late(self) -> _Passing:
        return _Passing(f"no whole reply within {self.options.timeout:g} seconds")

    def _exchange(self, prompt: str, deadline: float) -> str:
        body = {
            "model": self.options.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self.options.temperature,
        }
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        try:
            with _opener().open(request, timeout=self.options.timeout) as response:
                return _content(self._without_key(self._read(response, deadline)))
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except OSError as error:  # URLError, timeouts, resets
            words = str(getattr(error, "reason", error))
            raise _Passing(self._shown(f"cannot reach the endpoint: {words}")) from None
        except (http.client.HTTPException, ValueError) as error:  # cut off, too many headers, no HTTP
            words = f"a reply that is cut off or not HTTP: {type(error).__name__}"
            raise _Passing(words) from None

    def _read(self, response: http.client.HTTPResponse, deadline: float) -> bytes:
        data = bytearray()
        while chunk := response.read1(1 << 16):
            data += chunk
            if len(data) > LARGEST_REPLY:
                raise _Passing(f"a reply of more than {LARGEST_REPLY:,} bytes")
            if time.monotonic() > deadline:
                raise self._late()
        if response.length:  # read1 does not tell
            raise http.client.IncompleteRead(b"", response.length)
        return bytes(data)

    def _without_key(self, data: bytes) -> bytes:
        """A server may repeat the key; it goes into no file and no message."""
        return data.replace(self.key.encode(), b"***") if self.key else data

    def _shown(self, words: str) -> str:
        return printable(self._without_key(words.encode("utf-8", "surrogateescape")))

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        words = self._shown(f"status {error.code} {error.reason}")
        if error.code in RETRIED:
            return _Passing(words, _seconds(error.headers.get("Retry-After")))
        next_step = "check the model's name and the endpoint"
        if error.code in (401, 403):
            next_step = f"put a valid key into the environment variable {self.options.key_variable}"
        return CrawlError("the endpoint refuses", path=self.url, found=words, next_step=next_step)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another server."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirect())


def _seconds(text: str | None) -> float:
    """Retry-After as seconds; dates and nonsense count as nothing said."""
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0


def _content(data: bytes) -> str:
    """The text of the first choice."""
    try:
        content = json.loads(data)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise _Passing(f"a reply that is not a chat completion: {printable(data[:80])}") from None
    if not isinstance(content, str) or not content.strip():
        raise _Passing("an empty reply")
    return content
