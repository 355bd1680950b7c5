"""Computes numbers from a table of trials: separability, comparisons, and the cells that a search trains next."""
