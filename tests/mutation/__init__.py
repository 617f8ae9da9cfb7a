"""Mutation testing: small faults planted in the package, and whether the tests see them."""
