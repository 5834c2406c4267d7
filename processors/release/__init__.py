"""The release: a streamed text goes out as far as nothing that follows can change how the filter reads it."""
