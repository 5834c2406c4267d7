"""Whether a text has the form that the request wanted: the last look before it goes out."""

from __future__ import annotations

from processors.structured.check import fault_of
from schemas.errors import RefusedError
from schemas.records import ResponseFormat


def check_format(text: str, wanted: ResponseFormat) -> None:
    """Check the model's text, as it was before masking: a mask may break a pattern, and that is no fault of the model.

    Raises ``RefusedError`` with status ``failed`` and the code ``invalid_json`` or ``schema_mismatch``; the message
    names the place and the rule, not the value.
    """
    fault = fault_of(text, wanted)
    if fault is not None:
        raise RefusedError(fault.code, fault.detail, field=fault.field, status="failed")
