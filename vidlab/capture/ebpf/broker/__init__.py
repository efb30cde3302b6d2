"""The broker: the one process with privileges, which loads programs for one user's processes."""
