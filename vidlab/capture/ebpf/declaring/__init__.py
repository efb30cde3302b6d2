"""What a user declares: expressions over a call's values, probes, metrics; and what follows."""
