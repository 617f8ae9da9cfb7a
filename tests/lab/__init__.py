"""Tests of fnn.lab."""
