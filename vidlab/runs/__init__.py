"""A run on disk: its manifest, writing it, finishing it and reading it."""
