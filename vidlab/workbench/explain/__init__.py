"""Explanations: why one frame was late, and why frames were late at all."""
