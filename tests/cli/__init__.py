"""Tests of fnn.cli."""
