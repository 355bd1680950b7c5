"""MLPs on a CPU, trained by compiled C code."""
