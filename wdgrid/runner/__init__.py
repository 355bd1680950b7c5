"""A sweep: pending cells are trained by worker processes and stored."""
