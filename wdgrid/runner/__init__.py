"""Runs a sweep: worker processes train the pending cells, and their outcomes are stored."""
