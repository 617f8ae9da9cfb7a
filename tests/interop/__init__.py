"""Tests of fnn.interop."""
