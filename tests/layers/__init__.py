"""Tests of fnn.layers."""
