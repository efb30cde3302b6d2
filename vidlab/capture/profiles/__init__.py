"""Profiles by pyroscope-io: stacks and what they took, under vidlab's labels and spans."""
