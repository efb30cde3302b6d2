"""What programs leave in the kernel, read without a call per event: rings and counters."""
