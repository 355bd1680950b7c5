"""Trains MLPs on a CPU with compiled C code."""
