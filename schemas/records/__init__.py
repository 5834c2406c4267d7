"""The Python types of every record, one module an event; generated from the schemas."""

from schemas.records.admitted import Admitted
from schemas.records.alert import Alert
from schemas.records.answer import Answer, Citation, Timing
from schemas.records.asked import ContentPart, Message, Meta, PromptRef, ResponseFormat, Retrieval, Sampling, Text
from schemas.records.chunk import Chunk
from schemas.records.completion import (
    Cascade,
    CascadeStep,
    Completion,
    Complexity,
    FanOut,
    FanOutSample,
    Hedge,
    Structured,
    StructuredStep,
)
from schemas.records.control import Control
from schemas.records.cost import Cost
from schemas.records.dead_letter import DeadLetter, Header
from schemas.records.delta import Delta
from schemas.records.document import Document
from schemas.records.done import Admission, Attempt, Failure, Grounding, Passage, Span, Usage, Verdict
from schemas.records.enrichment import Enrichment
from schemas.records.evaluation import Evaluation, Score
from schemas.records.feedback import Feedback
from schemas.records.request import Request

EVENTS = (
    Admitted,
    Alert,
    Answer,
    Chunk,
    Completion,
    Control,
    Cost,
    DeadLetter,
    Delta,
    Document,
    Enrichment,
    Evaluation,
    Feedback,
    Request,
)
__all__ = [
    "EVENTS",
    "Meta",
    "Text",
    "ContentPart",
    "Message",
    "PromptRef",
    "Sampling",
    "ResponseFormat",
    "Retrieval",
    "Request",
    "Span",
    "Verdict",
    "Admission",
    "Admitted",
    "Alert",
    "Citation",
    "Passage",
    "Usage",
    "Attempt",
    "Timing",
    "Failure",
    "Answer",
    "Chunk",
    "Grounding",
    "StructuredStep",
    "Structured",
    "CascadeStep",
    "Cascade",
    "FanOutSample",
    "FanOut",
    "Hedge",
    "Complexity",
    "Completion",
    "Control",
    "Cost",
    "Header",
    "DeadLetter",
    "Delta",
    "Document",
    "Enrichment",
    "Score",
    "Evaluation",
    "Feedback",
]
