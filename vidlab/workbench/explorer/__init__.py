"""The explorer: a run sliced, brushed and drilled into, in a notebook."""
