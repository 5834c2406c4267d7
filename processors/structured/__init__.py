"""Structured output: what a model writes when JSON was asked for is checked, repaired, and asked for once more."""
