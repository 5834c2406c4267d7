"""A fake OpenAI-compatible provider: a process of its own, deterministic, with faults and its own call log."""
