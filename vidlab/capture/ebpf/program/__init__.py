"""The programs that the kernel runs: assembled from declarations, readable as the kernel's log."""
