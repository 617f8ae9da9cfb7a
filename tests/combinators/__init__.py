"""Tests of combinators."""
