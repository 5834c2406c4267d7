"""Which requests stream: the one place where it is decided, for this stage and for those behind it."""

from __future__ import annotations

from schemas.records import Completion, Request


def wants_stream(request: Request) -> bool:
    """Whether the request asks for a stream of a text that may be shown piece by piece.

    JSON is checked as a whole and tool calls are no text, so a request for either is buffered.
    """
    return request.stream and request.response_format.type == "text" and request.tools_json is None


def streams(request: Request, *, route_streams: bool) -> bool:
    """Whether the text goes to ``deltas`` while the model writes. ``route_streams``: the route's own setting."""
    return route_streams and wants_stream(request)


def buffered(completion: Completion) -> bool:
    """Whether chunks are wanted though no delta was published: the filter writes them, beside the answer."""
    return completion.request.stream and not completion.streamed
