"""The bodies of requests, as OpenAI's API reference has them, and the jobs that they ask for.

A field that would change the answer and that is not supported is refused by name. Taken without any effect are

==========================================  ===========================================================================
user, safety_identifier, metadata           say who asks, and why
store, service_tier, prompt_cache_key       concern OpenAI's own machines
stream_options.include_obfuscation          the same
messages.name                               templates of these models have no place for it
parallel_tool_calls                         says nothing without ``tools``
response_format, modalities, tool_choice    where they ask for what there is: text
==========================================  ===========================================================================
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from llama_ref.text.sampling import SamplingOptions

__all__ = ["ChatRequest", "CompletionRequest", "DetokenizeRequest", "Generation", "TokenizeRequest"]

SEEDS = random.Random()
LONGEST_STOP, MOST_STOPS, MOST_CHOICES, MOST_ALTERNATIVES, MOST_BIASES = 256, 16, 16, 20, 1024


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("a text ends at U+0000 for these models; take it out")
    return text


Text = Annotated[str, Field(max_length=1 << 20), AfterValidator(_without_nul)]


class Body(BaseModel):
    """An object of a request; ``null`` means what leaving a field out means."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: Any) -> Any:
        return {key: value for key, value in body.items() if value is not None} if isinstance(body, dict) else body


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: Any = None


class TextFormat(Body):
    type: Literal["text"]


class Generation(Body):
    """What both kinds of completion have."""

    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] = 1
    stop: list[Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]] = Field([], max_length=MOST_STOPS)
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] = Field({}, max_length=MOST_BIASES)
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Generation:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_several(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop

    @field_validator("logit_bias")
    @classmethod
    def _token_ids(cls, bias: dict[str, float]) -> dict[str, float]:
        for key in bias:
            if not (key.isascii() and key.isdigit() and len(key) < 10):
                raise ValueError(f"{key!r:.40} is not a token id")
        return bias

    @property
    def biases(self) -> dict[int, float]:
        return {int(key): bias for key, bias in self.logit_bias.items()}

    def sampling(self, usual: SamplingOptions, n_vocab: int, choice: int) -> SamplingOptions:
        """How a choice chooses: as asked, else as the server was started. Its seed is ``seed + choice``."""
        seed = SEEDS.getrandbits(31) if self.seed is None else self.seed
        top_k = usual.top_k if self.top_k is None else self.top_k or n_vocab
        return SamplingOptions(
            seed=(seed + choice) % 2**32,
            temp=usual.temp if self.temperature is None else self.temperature,
            top_p=usual.top_p if self.top_p is None else self.top_p,
            top_k=top_k,
            repeat_penalty=usual.repeat_penalty if self.repeat_penalty is None else self.repeat_penalty,
            repeat_last_n=usual.repeat_last_n,
        )


class CompletionRequest(Generation):
    """``POST /v1/completions``."""

    prompt: Any = Field("", validate_default=True)  # becomes a list of texts, or of lists of token ids
    max_tokens: Annotated[int, Field(ge=0)] = 16
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] = 1

    @field_validator("prompt")
    @classmethod
    def _as_several(cls, prompt: Any) -> list[str | list[int]]:
        several = prompt if isinstance(prompt, list) and _kinds(prompt) in ({str}, {list}) else [prompt]
        for each in several:
            if isinstance(each, str):
                _without_nul(each)
            elif not isinstance(each, list) or _kinds(each) != {int}:
                raise ValueError("expected a text, a list of texts, token ids, or a list of lists of token ids")
        return list(several)


def _kinds(items: list[Any]) -> set[type]:
    return {type(item) for item in items}


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text = ""
    name: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _parts_of_text(cls, content: Any) -> Any:
        """Parts are joined; one that is no text (an image, a sound) is refused."""
        if not isinstance(content, list):
            return content
        for part in content:
            if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
                kind = part.get("type") if isinstance(part, dict) else part
                raise ValueError(f"a part of type {kind!r:.40} is not supported; these models read text")
        return "".join(part["text"] for part in content)

    @property
    def speaker(self) -> str:
        return "system" if self.role == "developer" else self.role


class ChatRequest(Generation):
    """``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1, max_length=4096)
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] = 0
    response_format: TextFormat | None = None
    modalities: list[Literal["text"]] | None = None
    tool_choice: Literal["none"] | None = None
    parallel_tool_calls: Any = None

    @model_validator(mode="after")
    def _alternatives_to_what(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class TokenizeRequest(Body):
    """``POST /tokenize``, as llama.cpp's server has it (``content``), or as vLLM's (``prompt``, from its beginning)."""

    content: Text | None = None
    add_special: bool = False
    with_pieces: bool = False
    prompt: Text | None = None
    add_special_tokens: bool = True
    model: str = ""

    @model_validator(mode="after")
    def _one_of_both(self) -> TokenizeRequest:
        if (self.content is None) == (self.prompt is None):
            raise ValueError("give content or prompt")
        return self


class DetokenizeRequest(Body):
    """``POST /detokenize``."""

    tokens: list[int] = Field(max_length=1 << 20)
    model: str = ""


def checked_biases(biases: Mapping[int, float], n_vocab: int) -> dict[int, float]:
    """Token ids that the model has.

    Raises:
        ValueError: it doesn't.
    """
    for token in biases:
        if token >= n_vocab:
            raise ValueError(f"logit_bias: token {token} is outside the vocabulary of {n_vocab}")
    return dict(biases)
