"""Optimizers: update rules, written by hand."""
