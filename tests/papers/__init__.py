"""Optimizers as their papers state them, in plain numpy."""
