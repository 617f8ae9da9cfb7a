"""Tests of fnn.losses."""
