"""A fake provider: a process of its own, deterministic, with faults by script and its own log of paid calls and tokens.

It speaks OpenAI's chat completions, embeddings, Responses API and batches, Azure's form, and Anthropic's messages.
"""
