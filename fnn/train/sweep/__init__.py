"""Sweeps: many runs in few programs, and the points where they run."""
