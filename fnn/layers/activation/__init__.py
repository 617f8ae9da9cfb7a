"""Activations: piecewise linear, smooth, hard, gated, and softmax."""
