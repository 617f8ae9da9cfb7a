"""Tests of fnn.landscapes."""
