"""The command line: ``python -m fnn``."""

# What users type, by which errors call the command.
CALLED = "python -m fnn"
