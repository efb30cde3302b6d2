"""Experiments: demo pipelines with planted faults, and synthetic runs of any size."""
