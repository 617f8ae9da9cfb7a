"""Tests of fnn.gradient."""
