"""Tests of fnn.datasets."""
