"""Tests of fnn._core."""
