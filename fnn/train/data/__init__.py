"""Data for training: batches, streams, and the order in which rows are read."""
