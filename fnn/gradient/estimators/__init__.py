"""Estimators: gradients of noisy labels, and private ones."""
