"""The GPU engines: what memory a pipeline takes, who holds it, and what the device says."""
