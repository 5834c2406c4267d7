"""The settings of the evaluate stage."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class EvaluateRule(BaseModel):
    """A rate of its own, for a tenant or a route."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float = Field(ge=0, le=1)


class EvaluateSettings(BaseModel):
    """Which answers are scored, and how. A tenant's rate goes before a route's, and that before ``rate``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Share of the answers, 0 to 1.
    rate: float = Field(default=0.1, ge=0, le=1)
    # Another salt chooses other requests at the same rate.
    salt: str = "headrace"
    tenants: dict[str, EvaluateRule] = {}
    routes: dict[str, EvaluateRule] = {}
    groundedness: bool = True
    support: bool = True
    relevance: bool = True
    length: bool = True
    format: bool = True
    # A sentence with no passage nearer than this is named as ungrounded.
    minimum_cosine: float = Field(default=0.6, ge=0, le=1)
    least_words: int = Field(default=3, ge=1)
    most_words: int = Field(default=400, ge=1)

    @model_validator(mode="after")
    def _cross_check(self) -> EvaluateSettings:
        if self.least_words > self.most_words:
            raise ValueError("least_words has to be at most most_words")
        rates = [self.rate, *(rule.rate for rule in (*self.tenants.values(), *self.routes.values()))]
        if any(rates) and not (self.groundedness or self.support or self.relevance or self.length or self.format):
            raise ValueError("every scorer is off; switch one on, or set the rates to 0")
        return self
