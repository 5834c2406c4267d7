"""Calls to OpenAI-compatible chat endpoints."""

from processors.model.client import OpenAIClient
from processors.model.port import FakeModelClient, Heard, ModelClient, ModelReply, RawUsage

__all__ = ["FakeModelClient", "Heard", "ModelClient", "ModelReply", "OpenAIClient", "RawUsage"]
