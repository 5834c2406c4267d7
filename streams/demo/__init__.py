"""The demonstration: a real corpus through the index, questions about it through every stage, and what came of it."""
