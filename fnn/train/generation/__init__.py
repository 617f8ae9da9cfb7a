"""Generation by a language model, from a cache of what was read."""
