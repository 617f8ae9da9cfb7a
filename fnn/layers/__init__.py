"""Layers, one family a file, each with its gradient derived by hand."""
