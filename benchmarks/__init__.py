"""What vidlab costs and how fast it answers, measured beside peers in the same run."""
