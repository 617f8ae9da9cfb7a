"""Noise injection."""
