"""The loop of training: programs, events, the record of a run, and its stops."""
