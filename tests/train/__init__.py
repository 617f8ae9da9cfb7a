"""Tests of fnn.train."""
