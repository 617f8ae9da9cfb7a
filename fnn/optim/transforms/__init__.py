"""Transforms of gradients and updates, and wrappers around optimizers."""
