"""Wire formats, bytes in and out: no knowledge of runs."""
