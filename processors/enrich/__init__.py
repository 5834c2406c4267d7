"""The enrich stage: retrieves passages, renders the prompt, cuts it to the context window."""

from processors.enrich.policy import EnrichPolicy
from processors.enrich.stage import STAGE, VERSION, Enrich
from processors.enrich.template import Renderer
from processors.enrich.tokens import estimate_tokens

__all__ = ["STAGE", "VERSION", "Enrich", "EnrichPolicy", "Renderer", "estimate_tokens"]
