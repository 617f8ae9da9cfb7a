"""Random damage, in the suite with a seed and at length by command."""
