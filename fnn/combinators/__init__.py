"""Combinators: models made of layers, which are layers again."""
