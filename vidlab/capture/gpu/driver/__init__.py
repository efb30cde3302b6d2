"""The driver level: CuPy's calls of the CUDA runtime, and the C that sees them."""
