"""The command line: ``python -m fnn``."""
