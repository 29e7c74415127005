"""The bodies of requests, as OpenAI's API reference has them, and the jobs that they ask for.

Fields that would change the answer and that are not supported are refused by name; those that don't (``user``,
``metadata`` …) are taken and ignored.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from llama_ref.text.sampling import SamplingOptions

__all__ = ["ChatRequest", "CompletionRequest", "DetokenizeRequest", "Generation", "Message", "TokenizeRequest"]

LONGEST_STOP, MOST_STOPS, MOST_CHOICES, MOST_ALTERNATIVES, MOST_BIASES = 256, 16, 16, 20, 1024

Text = Annotated[str, Field(max_length=1 << 20)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class Generation(BaseModel):
    """What both kinds of completion have."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] = 1
    stop: list[Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]] = Field([], max_length=MOST_STOPS)
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100, strict=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, strict=False)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10, strict=False)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, strict=False)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2, strict=False)] = 0.0
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100, strict=False)]] = Field({}, max_length=MOST_BIASES)
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: Any) -> Any:
        """``null`` means what leaving out means."""
        return {key: value for key, value in body.items() if value is not None} if isinstance(body, dict) else body

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
        seed = secrets.randbits(31) if self.seed is None else self.seed
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

    prompt: Text | list[Text] | list[int] | list[list[int]] = ""
    max_tokens: Annotated[int, Field(ge=0)] = 16
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] = 1

    def prompts(self) -> list[str | list[int]]:
        """One or several, each a text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if all(isinstance(item, int) for item in self.prompt) and self.prompt:
            return [list(self.prompt)]  # type: ignore[arg-type]
        return list(self.prompt)  # type: ignore[arg-type]


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: Text


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart] = ""
    name: str | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)

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

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class TokenizeRequest(BaseModel):
    """``POST /tokenize``: llama.cpp's server has it under these names."""

    model_config = ConfigDict(extra="forbid", strict=True)
    content: Text
    add_special: bool = False
    with_pieces: bool = False
    model: str = ""


class DetokenizeRequest(BaseModel):
    """``POST /detokenize``."""

    model_config = ConfigDict(extra="forbid", strict=True)
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
