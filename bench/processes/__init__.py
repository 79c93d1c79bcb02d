"""What a benchmark starts: processes, their cost, and their ports."""
