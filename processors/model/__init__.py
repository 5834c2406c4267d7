"""Calls to OpenAI-compatible chat endpoints."""

from processors.model.client import OpenAIClient
from processors.model.port import FakeModelClient, ModelClient, ModelReply, RawUsage

__all__ = ["FakeModelClient", "ModelClient", "ModelReply", "OpenAIClient", "RawUsage"]
