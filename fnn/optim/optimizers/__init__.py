"""Optimizers, written by hand."""
