"""Experiments: demo pipelines with planted faults, fault sweeps, and synthetic runs of any size."""

from . import faults

__all__ = ["faults"]
