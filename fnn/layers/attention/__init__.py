"""Attention, positions, and the transformer block."""
