"""The form of a request as people and the OpenAI client write it: one line of JSON, checked field by field."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from schemas.errors import HeadraceError

_INT32 = 2**31 - 1
_INT64 = 2**63 - 1
# Longer lines than this can't become an event; they are not even parsed.
MAX_LINE_BYTES = 4_000_000
_MOST_FAULTS = 20

Filled = Annotated[str, StringConstraints(min_length=1)]
Small = Annotated[int, Field(ge=-_INT32, le=_INT32)]
Large = Annotated[int, Field(ge=-_INT64, le=_INT64)]


class BadRequestLineError(HeadraceError):
    """A line is no request. ``faults`` are what is wrong with it, each beginning with the field's path."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class Form(BaseModel):
    """Strict: a number is no text, and an unknown field is an error rather than a setting that has no effect."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class ImageForm(Form):
    url: Filled
    detail: str | None = None


class AudioForm(Form):
    data: Filled
    format: Literal["wav", "mp3"]


class FileForm(Form):
    file_data: Filled
    filename: str | None = None


class PartForm(Form):
    """A part as OpenAI writes it. What it holds stands under the name of its type."""

    type: Literal["text", "image_url", "input_audio", "file"]
    text: str | None = None
    image_url: ImageForm | None = None
    input_audio: AudioForm | None = None
    file: FileForm | None = None

    @model_validator(mode="after")
    def _holds_its_type(self) -> Self:
        given = [name for name in ("text", "image_url", "input_audio", "file") if getattr(self, name) is not None]
        if given != [self.type]:
            raise ValueError(f"set {self.type} and nothing else beside type")
        return self


def _parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class MessageForm(Form):
    role: Filled
    content: Annotated[list[PartForm] | None, BeforeValidator(_parts)] = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[dict[str, Any]] | None = None

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        if self.content is None and self.tool_calls is None:
            raise ValueError("set content")
        return self


class PromptForm(Form):
    name: Filled
    version: str | Annotated[int, Field(ge=1)] | None = None
    variables: dict[str, str] = {}


class SamplingForm(Form):
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: Small | None = None
    stop: Annotated[list[str] | None, BeforeValidator(_texts)] = None
    seed: Large | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: Small | None = None
    reasoning_effort: str | None = None
    samples: Small | None = None


class RetrievalForm(Form):
    k: Small | None = None
    minimum_score: float | None = None
    filters: dict[str, str] | None = None
    namespaces: list[str] | None = None
    namespace: str | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.namespace is not None and self.namespaces is not None:
            raise ValueError("set either namespace or namespaces, not both")
        return self


class RetrievalObjectForm(RetrievalForm):
    enabled: bool = True


class SchemaForm(Form):
    name: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class FormatForm(Form):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaForm | None = None

    @model_validator(mode="after")
    def _schema_where_it_belongs(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError('json_schema goes with "type": "json_schema", and only there')
        return self


def _retrieval_switch(value: Any) -> Any:
    return {"enabled": value} if isinstance(value, bool) else value


def _prompt_name(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    name, _, version = value.partition("@")
    return {"name": name, "version": version or None}


class RequestForm(SamplingForm, RetrievalForm):
    """A line as it is written; sampling and retrieval may stand flat or in an object of their own."""

    request_id: Filled | None = None
    idempotency_key: Filled | None = None
    tenant: Filled | None = None
    team: str = ""
    user: str = ""
    session: str = ""
    feature: str = ""
    tier: str = ""
    priority: str = "normal"
    ttl_ms: Annotated[int, Field(ge=1, le=_INT64)] | None = None
    query: str | None = None
    messages: list[MessageForm] = []
    prompt: Annotated[PromptForm | None, BeforeValidator(_prompt_name)] = None
    route: str | None = None
    model: str | None = None
    sampling: SamplingForm | None = None
    response_format: FormatForm | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    retrieval: Annotated[RetrievalObjectForm | None, BeforeValidator(_retrieval_switch)] = None
    stream: bool = False
    cache: str = "default"
    metadata: dict[str, str] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.query is None) == (not self.messages):
            raise ValueError("set either query or messages")
        for part, form in (("sampling", SamplingForm), ("retrieval", RetrievalForm)):
            twice = sorted(form.model_fields.keys() & self.model_fields_set)
            if getattr(self, part) is not None and twice:
                raise ValueError(f"{', '.join(twice)}: belongs inside {part} when {part} is set")
        return self


FIELDS = tuple(sorted(RequestForm.model_fields))


def parse_form(raw: bytes) -> RequestForm:
    """The line, checked. Raises ``BadRequestLineError`` with all that is wrong."""
    if len(raw) > MAX_LINE_BYTES:
        raise BadRequestLineError([f"the line has {len(raw)} bytes, more than an event may have: shorten it"])
    try:
        return RequestForm.model_validate_json(raw)
    except ValidationError as error:
        faults = list(dict.fromkeys(_faults(error)))
        raise BadRequestLineError(faults[:_MOST_FAULTS]) from None


def _faults(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False, include_input=False):
        # Where a union was tried, the path holds the names of its branches, which nobody wrote.
        path = ".".join(str(part) for part in problem["loc"] if not _branch(part))
        yield f"{path or 'the line'}: {_advice(problem['type'], str(path), problem['msg'])}"


def _branch(part: str | int) -> bool:
    return isinstance(part, str) and (part in ("str", "int") or part.startswith(("list[", "dict[", "constrained-")))


def _advice(kind: str, path: str, message: str) -> str:
    if kind == "extra_forbidden":
        close = get_close_matches(path, FIELDS, n=1) if "." not in path else []
        return f"unknown field; did you mean {close[0]}?" if close else "unknown field; remove it or put it in metadata"
    if kind == "json_invalid":
        return f"no valid JSON; {message.removeprefix('Invalid JSON: ')}"
    if kind in ("model_type", "model_attributes_type"):
        return "must be a JSON object"
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "missing":
        return "is missing; set it"
    # pydantic's own messages are whole sentences that say what it takes.
    text = message.removeprefix("Value error, ").removeprefix("Input should be ")
    return text if text.startswith(("set ", "json_schema", "belongs")) or kind == "value_error" else f"must be {text}"
