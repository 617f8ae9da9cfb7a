"""Training: the step, the loop, the data, the files."""
