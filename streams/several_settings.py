"""The settings of routes that may ask more than one model for a request: a cascade, a fan-out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from streams.credentials import Section

# By what is aggregated, the fields that nothing else reads.
_OWN = {"vote": ("field",), "best": ("scorer", "score_timeout_s"), "join": ("separator", "join_as")}


class CascadeSettings(Section):
    """What has to hold of a cheap model's reply, and who is asked where it does not.

    ``to`` names deployments, or routes behind ``route/``, which stand for their own deployments. They are asked in
    order, each once.
    """

    to: tuple[str, ...] = Field(min_length=1)
    # A reply that declines: by the provider's own word, or one of the phrases that refusals begin with.
    refusal: bool = True
    # More of them, beside the shipped ones.
    phrases: tuple[str, ...] = ()
    # A reply that is cut off at its limit, empty, too short, or not the JSON that was wanted.
    format: bool = True
    least_words: int = Field(default=0, ge=0, le=10_000)
    # How near the answer's sentences have to be to the passages', as a score of 0 to 1. Not checked by default.
    groundedness: float | None = Field(default=None, ge=0, le=1)
    # With less time left for the request's call, the reply stands.
    least_time_s: float = Field(default=10.0, ge=0, le=3600)
    # What groundedness waits for the embedding endpoint.
    check_timeout_s: float = Field(default=5.0, gt=0, le=60)

    @model_validator(mode="after")
    def _cross_check(self) -> CascadeSettings:
        if not (self.refusal or self.format or self.groundedness is not None):
            raise ValueError("checks nothing; leave refusal or format on, or set groundedness")
        if any(not phrase.strip() for phrase in self.phrases):
            raise ValueError("phrases has an empty one, with which every reply begins")
        return self


class FanOutSettings(Section):
    """How many calls are made for one request, and what is made of their replies.

    Either ``samples`` calls at the route's own deployments, or one at each of ``deployments``, which are among those.
    """

    aggregate: Literal["vote", "best", "join"]
    samples: int | None = Field(default=None, ge=2, le=32)
    deployments: tuple[str, ...] = ()
    # How many of the calls have to be answered.
    needed: int = Field(default=1, ge=1)
    # What a vote counts, where replies are JSON: names with dots between them.
    field: str | None = Field(default=None, min_length=1, max_length=200)
    # What the best one is chosen by.
    scorer: Literal["groundedness", "relevance"] = "groundedness"
    score_timeout_s: float = Field(default=10.0, gt=0, le=60)
    # Between texts that are joined; or they are made a JSON list.
    separator: str = Field(default="\n\n", max_length=1_000)
    join_as: Literal["text", "json"] = "text"

    @model_validator(mode="after")
    def _cross_check(self) -> FanOutSettings:
        if (self.samples is None) == (not self.deployments):
            raise ValueError("set one of samples and deployments")
        if self.deployments and len(set(self.deployments)) < max(2, len(self.deployments)):
            raise ValueError("deployments has to name several, each once")
        if self.needed > self.size:
            raise ValueError(f"needed is {self.needed}, but only {self.size} calls are made")
        for aggregate, fields in _OWN.items():
            for field in fields:
                if field in self.model_fields_set and aggregate != self.aggregate:
                    raise ValueError(f'{field} is for aggregate = "{aggregate}"')
        return self

    @property
    def size(self) -> int:
        """How many calls are made."""
        return len(self.deployments) or self.samples or 0
