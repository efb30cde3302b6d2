"""The runtime engine: what CPython itself does to a pipeline."""
