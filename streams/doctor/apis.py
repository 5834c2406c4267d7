"""How to look at an endpoint in what it speaks: where its models are, and the cheapest call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from processors.model.anthropic import ANTHROPIC_VERSION, messages_url
from processors.model.anthropic_assembly import chat_usage as anthropic_usage
from processors.model.client import AZURE_VERSION
from processors.model.responses_assembly import chat_usage as responses_usage
from streams.route_settings import DeploymentSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Two requests and what their replies mean.

    ``lists`` is false where the models' address says nothing of the deployment: a reply shows that endpoint and key
    are right, and no more. ``by_name``: the address is the model's own, so that 404 is the model's.
    """

    models_url: str
    call_url: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    lists: bool = True
    by_name: bool = False

    def used(self, reply: Any) -> Mapping[str, Any] | None:
        """The usage of a call's reply; ``None`` for what is no answer."""
        if not isinstance(reply, dict):
            return None
        if reply.get("type") == "message":
            return anthropic_usage(reply.get("usage") or {}) or {}
        if reply.get("object") == "response":
            return responses_usage(reply.get("usage") or {}) or {}
        return (reply.get("usage") or {}) if reply.get("choices") else None


def probe(deployment: DeploymentSettings, key: str | None) -> Probe:
    """How to look at the deployment."""
    base = deployment.base_url.rstrip("/")
    body = {
        "model": deployment.model,
        "messages": [{"role": "user", "content": "Hi"}],
        deployment.max_tokens_parameter: 1,
    }
    if deployment.spoken == "azure":
        base = f"{base.removesuffix('/openai')}/openai"
        version = urlencode({"api-version": deployment.api_version or AZURE_VERSION})
        return Probe(
            models_url=f"{base}/models?{version}",
            call_url=f"{base}/deployments/{quote(deployment.model, safe='')}/chat/completions?{version}",
            headers={"api-key": key} if key else {},
            body=body,
            # It lists what could be deployed, not what is.
            lists=False,
        )
    if deployment.spoken == "anthropic":
        call_url = messages_url(base)
        models = f"{call_url.removesuffix('/messages')}/models/{quote(deployment.model, safe='')}"
        bearing = {"x-api-key": key} if key else {}
        return Probe(
            models_url=models,
            call_url=call_url,
            headers={"anthropic-version": deployment.api_version or ANTHROPIC_VERSION, **bearing},
            body={"model": deployment.model, "messages": body["messages"], "max_tokens": 1},
            lists=False,
            by_name=True,
        )
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if deployment.spoken == "responses":
        # It takes no lower limit.
        asked = {"model": deployment.model, "input": "Hi", "max_output_tokens": 16, "store": False}
        return Probe(models_url=f"{base}/models", call_url=f"{base}/responses", headers=headers, body=asked)
    return Probe(models_url=f"{base}/models", call_url=f"{base}/chat/completions", headers=headers, body=body)
