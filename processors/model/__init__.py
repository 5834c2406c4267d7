"""Calls to chat endpoints: OpenAI-compatible ones, Azure's and Anthropic's."""

from processors.model.anthropic import AnthropicClient
from processors.model.client import OpenAIClient
from processors.model.clients import ModelClients
from processors.model.port import FakeModelClient, Heard, ModelClient, ModelReply, RawUsage

__all__ = [
    "AnthropicClient",
    "FakeModelClient",
    "Heard",
    "ModelClient",
    "ModelClients",
    "ModelReply",
    "OpenAIClient",
    "RawUsage",
]
