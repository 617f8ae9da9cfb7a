"""Gradients: the objective, the checker, the comparison."""
